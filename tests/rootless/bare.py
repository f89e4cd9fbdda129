"""Sessions that mount nothing: the bench of other tests, with roots that are directories."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from imgbuild.sandbox.spec import DirectoryRoot
from tests.support import roots
from tests.support.bench import Bench


class Bare(Bench):
    """A bench whose steps have a directory each, with the layers asked for laid over each other."""

    def step(self, lowers: Sequence[Path] = ()) -> DirectoryRoot:  # type: ignore[override]
        self._steps += 1
        root = self.place / f"root{self._steps}"
        if self.base in (lowers or (self.base,)):
            roots.make_root(root)
            if (self.base / "attacks").is_dir():
                shutil.copytree(self.base / "attacks", root / "attacks")
        else:
            root.mkdir()
        for layer in reversed(lowers):
            if layer not in (self.base, self.skeleton):
                _lay_over(layer, root)
        self.give(root)
        return DirectoryRoot(str(root))


class OneRoot(Bare):
    """A bench with one root for all steps."""

    def step(self, lowers: Sequence[Path] = ()) -> DirectoryRoot:  # type: ignore[override]
        if not hasattr(self, "_root"):
            self._root = super().step(lowers)
        return self._root


def _lay_over(layer: Path, root: Path) -> None:
    for folder, folders, files in os.walk(layer):
        place = root / Path(folder).relative_to(layer)
        for name in (*folders, *files):
            source = Path(folder, name)
            if source.is_symlink() or name in files:
                shutil.copy2(source, place / name, follow_symlinks=False)
            else:
                (place / name).mkdir(exist_ok=True)
                shutil.copystat(source, place / name)
