"""A session with a small root, to run commands in from tests; works as any user."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from imgbuild.sandbox.candidates import candidates
from imgbuild.sandbox.choice import start
from imgbuild.sandbox.session import Running
from imgbuild.sandbox.spec import FileMount, OverlayRoot, SandboxSpec
from tests.support import roots

SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_ENV = (("PATH", "/bin:/usr/bin"), ("HOME", "/root"))


class Bench:
    """One session below a folder; `base` is the root's only layer, above a skeleton."""

    def __init__(
        self, place: Path, isolation: str = "auto", runtimes: tuple[str, ...] = ()
    ) -> None:
        self.place = place
        self.runtimes = runtimes
        self.steps = place / "steps"
        self.steps.mkdir()
        ways = candidates(SEARCH_PATH, isolation)
        self.session = start(ways, "tests.support.sandbox_worker", [place], self.steps)
        self.idmap = self.session.tier.idmap
        self.base = roots.make_root(place / "base")
        self.skeleton = roots.make_skeleton(place / "skeleton")
        self._steps = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(self.place):
                covered = entry == "steps" and self.session.tier.root == "memory"
                if (self.place / entry).is_dir() and not covered:
                    self.session.request("remove", {"path": str(self.place / entry)})
        self.session.close()

    def finish(self) -> None:
        """Give the trees to the container's ids, as unpacking would have."""
        self.give(self.base, self.skeleton)

    def give(self, *paths: Path) -> None:
        shift = self.idmap.shift
        self.session.request("give", {"paths": [str(path) for path in paths], "shift": shift})

    def layer(self, name: str, fill: Callable[[Path], object]) -> Path:
        """Make one more layer, with what `fill` puts into it."""
        path = self.place / name
        path.mkdir()
        fill(path)
        self.give(path)
        return path

    def step(self, lowers: Sequence[Path] = ()) -> OverlayRoot:
        """Make the directories of a step."""
        self._steps += 1
        upper, work = (self.steps / f"{name}{self._steps}" for name in ("upper", "work"))
        self.session.request("make", {"paths": [str(upper), str(work)], "shift": self.idmap.shift})
        layers = lowers or (self.base, self.skeleton)
        return OverlayRoot(tuple(map(str, layers)), str(upper), str(work))

    def start(
        self,
        command: str | Sequence[str],
        *,
        root: OverlayRoot | None = None,
        stdin: int | None = None,
        **fields: Any,
    ) -> tuple[Running, int]:
        """Start a command; give it with the reading end of its output."""
        argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
        usual = {"env": _ENV, "runtimes": self.runtimes}
        spec = SandboxSpec(argv, root=root or self.step(), **{**usual, **fields})
        reading, writing = os.pipe()
        try:
            running = self.session.run(spec, writing if stdin is None else stdin, writing, writing)
        finally:
            os.close(writing)
        return running, reading

    def run(self, command: str | Sequence[str], **fields: Any) -> tuple[int, str]:
        """Run a command to its end; give its status and output."""
        running, reading = self.start(command, **fields)
        with os.fdopen(reading, "rb") as stream:
            output = stream.read()
        return running.wait(), output.decode(errors="replace")

    def mount(self, text: str, target: str) -> FileMount:
        """Make a file of this machine to mount."""
        source = self.place / f"file{len(os.listdir(self.place))}"
        source.write_text(text)
        source.chmod(0o644)
        return FileMount(str(source), target)


def report(**facts: Any) -> None:
    """Print facts for the test that started this process."""
    json.dump(facts, sys.stdout)
