"""Other builders, to compare with: each builds a Dockerfile and tells the root file system it made."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support import flatten
from tests.support.flatten import Tree
from tests.support.random_trees import Thing, lay, pack

_PROBED = {
    "f": Thing("file", data=b"f"),
    "d": Thing("dir", 0o755),
    "d/f": Thing("file", data=b"f"),
    "d/p": Thing("fifo"),
}

# What a peer may not know, each with a build that shows it, and what has to come of that. Of the
# context, `f` is a file of mode 0644, `t` a tar of a file `g`, `d` holds a fifo `p` and a file `f`.
_F = "1 bytes 252f10c8"
FEATURES: dict[str, tuple[str, dict[str, str]]] = {
    "chmod": ("COPY --chmod=4711 f /", {"f": f"file 4711 0:0 {_F}"}),
    "symbolic": ("COPY --chmod=u+x f /", {"f": f"file 0744 0:0 {_F}"}),
    "link": ("COPY --link f /", {"f": f"file 0644 0:0 {_F}"}),
    "parents": ("COPY --parents d/f /", {"d": "dir 0755 0:0", "d/f": f"file 0644 0:0 {_F}"}),
    "exclude": ("COPY --exclude=p d /", {"f": f"file 0644 0:0 {_F}"}),
    "heredoc": ("COPY <<E /h\nf\nE", {"h": "file 0644 0:0 2 bytes 092fcfbb"}),
    "archive-chown": ("ADD --chown=1:2 t /", {"g": f"file 0644 1:2 {_F}"}),
    "fifo": ("COPY d/p /", {"p": "fifo 0644 0:0"}),
}


class BuildError(Exception):
    """The peer refused to build, in its own words."""


class Peer:
    """A builder; `name` is what people call it, `features` is what it knows of `FEATURES`."""

    name = ""
    compares_xattrs = True

    def __init__(self) -> None:
        # Short, since podman's libraries bound the length of some paths, and outside of what pytest keeps.
        self.scratch = Path(tempfile.mkdtemp(prefix="imgbuild-peer-"))
        self.features: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        try:
            self._probe()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def build(self, context: Path) -> Tree:
        """Build the Dockerfile of a context; raise `BuildError`."""
        raise NotImplementedError

    def close(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _probe(self) -> None:
        """Skip the test where this builder does not work at all; find out what it knows."""
        context = self.scratch / "probe"
        context.mkdir()
        lay(_PROBED, context)
        (context / "t").write_bytes(pack({"g": _PROBED["f"]}))
        try:
            self._try(context, "COPY f /")
        except (BuildError, OSError) as error:
            pytest.skip(f"{self.name} cannot build here: {str(error).strip()[-300:]}")
        self.features = frozenset(name for name in FEATURES if self._knows(context, name))

    def _knows(self, context: Path, feature: str) -> bool:
        line, wanted = FEATURES[feature]
        try:
            return {path: str(node) for path, node in self._try(context, line).items()} == wanted
        except BuildError:
            return False

    def _try(self, context: Path, line: str) -> Tree:
        (context / "Dockerfile").write_text(f"FROM scratch\n{line}\n")
        return self.build(context)


class Buildah(Peer):
    """`buildah build` with a store of its own; nothing it does needs more than files."""

    name = "buildah"

    def build(self, context: Path) -> Tree:
        out = self.scratch / "out"
        store = ["--root", self.scratch / "root", "--runroot", self.scratch / "run"]
        try:
            _run(
                ["buildah", *store, "--storage-driver=vfs", "build", "--isolation=chroot", "--quiet",
                 "--pull=never", "--layers=false", "-t", f"oci:{out}:latest", context],
                {"XDG_RUNTIME_DIR": str(self.scratch), "TMPDIR": str(self.scratch)},
            )  # fmt: skip
            return flatten.layout(out)
        finally:
            self._remove(out)
            self._remove(self.scratch / "root")

    def close(self) -> None:
        self._remove(self.scratch)

    def _remove(self, path: Path) -> None:
        if os.geteuid() != 0 and path.exists():
            # What buildah keeps belongs to subordinate ids.
            command = ["buildah", "unshare", "rm", "-rf", str(path)]
            subprocess.run(command, capture_output=True, timeout=60)
        shutil.rmtree(path, ignore_errors=True)


class Docker(Peer):
    """`docker build` with BuildKit: the rules themselves, as its version has them."""

    name = "docker"
    compares_xattrs = False  # its tar of a root file system has none

    def build(self, context: Path) -> Tree:
        out = self.scratch / "out.tar"
        try:
            command = ["docker", "build", "--no-cache", "-o", f"type=tar,dest={out}", context]
            _run(command, {"DOCKER_BUILDKIT": "1"})
            with out.open("rb") as stream:
                return flatten.layers([stream])
        finally:
            out.unlink(missing_ok=True)

    def _probe(self) -> None:
        done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60)
        if done.returncode:
            pytest.skip(f"no docker engine here: {done.stderr.strip()[-300:]}")
        super()._probe()


def _run(command: list[str | Path], extra: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        env={**os.environ, **(extra or {})},
    )
    if done.returncode:
        raise BuildError(done.stderr)
