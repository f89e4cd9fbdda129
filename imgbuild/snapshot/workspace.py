"""A root file system that one RUN step may write to."""

import os
import socket
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Protocol, Self

from imgbuild.errors import ImageError
from imgbuild.layer.entry import Entry
from imgbuild.layer.index import decode_entry
from imgbuild.oci.digest import Digest
from imgbuild.sandbox.session import Running, Session
from imgbuild.sandbox.spec import FileMount, OverlayRoot, SandboxSpec
from imgbuild.snapshot.attribution import APT_FOLDER
from imgbuild.snapshot.lower import has_directory
from imgbuild.snapshot.request import receive

_CHUNK = 1 << 20


class Keeper(Protocol):
    """Who gave the workspace out: it takes the upper directory over, or removes the place."""

    def adopt(self, diff_id: Digest, upper: Path) -> None: ...

    def discard(self, place: Path) -> None: ...


class Workspace:
    """An image's layers below an upper directory of its own; a context manager.

    `lowers` are unpacked layers, top first. `place` holds `upper` and `work`.
    """

    def __init__(
        self,
        session: Session,
        lowers: Sequence[Path],
        place: Path,
        ownership: dict[str, Any],
        keeper: Keeper,
        files: Collection[str] = ("hosts", "resolv.conf"),
    ) -> None:
        self._session = session
        self._lowers = tuple(map(str, lowers))
        self._place = place
        self._ownership = ownership
        self._keeper = keeper
        self._files = files
        self._mounts = 0
        self._maker = (0, 0)

    @property
    def rootfs(self) -> OverlayRoot:
        """The root as the sandbox mounts it, with something to mount on at the very bottom."""
        name = "skeleton-apt" if self._ownership["single"] and self._has_apt() else "skeleton"
        skeleton = str(self._place.parent / name)
        return OverlayRoot((*self._lowers, skeleton), str(self._upper), str(self._place / "work"))

    def _has_apt(self) -> bool:
        return any(has_directory(lower, APT_FOLDER) for lower in self._lowers)

    def run(
        self,
        spec: SandboxSpec,
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        lent: Mapping[str, int] = MappingProxyType({}),
    ) -> Running:
        """Start a command in the root; `spec` needs no root. The caller keeps its descriptors.

        `lent` is as `Session.run` has it.
        """
        self._maker = (spec.uid, spec.gid)
        spec = self._adapted(spec)
        files = self._shown_files(private=spec.network == "private")
        spec = replace(spec, root=self.rootfs, mounts=(*files, *spec.mounts))
        return self._session.run(spec, stdin, stdout, stderr, lent)

    def _adapted(self, spec: SandboxSpec) -> SandboxSpec:
        """Get ready for a command, and give it what this kind of root can do."""
        return spec

    def _shown_files(self, *, private: bool) -> tuple[FileMount, ...]:
        """Give the files of this machine that every command finds in its root."""
        shared = self._place.parent
        named = {
            "hosts": "/etc/hosts",
            "resolv.private" if private else "resolv.conf": "/etc/resolv.conf",
        }
        return tuple(FileMount(str(shared / n), t) for n, t in named.items() if n in self._files)

    def renew(self) -> None:
        """Let one more command run on what the last one left."""
        root = self.rootfs
        if isinstance(root, OverlayRoot):
            self._session.request("renew", {"work": root.work})

    def add_script(self, text: str, target: str) -> FileMount:
        """Make an executable file of the container's root, for `run` to show at `target`."""
        path = str(self._place / "script")
        owner = self._ownership["shift"]
        self._session.request("script", {"path": path, "text": text, "owner": owner})
        return FileMount(path, target)

    def overlay(self) -> tuple[str, str]:
        """Make an upper and a work directory for a mount, which go when the workspace is closed."""
        self._mounts += 1
        place = str(self._place / f"mount{self._mounts}")
        self._session.request("overlay", {"place": place, "owner": self._ownership["shift"]})
        return f"{place}/upper", f"{place}/work"

    def listen(self, uid: int, gid: int, mode: int) -> tuple[str, socket.socket]:
        """Make a socket of a container's user; return its path and where connections come to."""
        self._mounts += 1
        path = str(self._place / f"socket{self._mounts}")
        params = {"path": path, "uid": uid, "gid": gid, "mode": mode}
        _, fds = self._session.request("listen", {**params, "ownership": self._ownership})
        return path, socket.socket(fileno=fds[0])

    def changes(
        self,
        write: Callable[[bytes], object],
        index: Callable[[Entry], object],
        *,
        clamp: int | None = None,
        settle: bool = False,
    ) -> None:
        """Give what the command changed as an uncompressed layer tar, then its entries.

        `clamp` is the latest time that the layer may hold. With `settle`, times on disk become
        those of the layer, which `keep` needs. Raises `ImageError` for what a layer cannot hold;
        part of the tar may have been written by then.
        """
        with self._nameless() as lines, self._asking() as (verb, params, fds):
            params |= {"ownership": self._ownership, "clamp": clamp, "settle": settle}
            params["maker"] = self._maker
            receive(self._session, verb, params, write, (lines.fileno(), *fds))
            lines.seek(0)
            for line in lines:
                index(decode_entry(line))

    @contextmanager
    def _asking(self) -> Iterator[tuple[str, dict[str, Any], Sequence[int]]]:
        """Give the verb that finds changes, where to look, and further descriptors for it."""
        yield "changes", {"upper": str(self._upper), "lowers": list(self._lowers)}, ()

    def _nameless(self) -> BinaryIO:
        # Not in `place` itself: what a session covers with a file system in memory, it alone sees.
        folder = self._place.parent
        try:
            fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # overlayfs before Linux 6.2, NFS
            from tempfile import mkstemp  # takes long to load

            fd, name = mkstemp(dir=folder)
            os.unlink(name)
        return open(fd, "r+b", buffering=_CHUNK)

    def open(self, path: bytes) -> BinaryIO:
        """Open a regular file as it is after the command; symlinks are followed in the root.

        Raises `ImageError` for anything else.
        """
        shown = os.fsdecode(path)
        fds = self._open(shown)
        if not stat.S_ISREG(os.fstat(fds[0]).st_mode):
            os.close(fds[0])
            raise ImageError(f"/{shown} is not a regular file in the image")
        return open(fds[0], "rb")

    def _open(self, path: str) -> Sequence[int]:
        lowers = [str(self._upper), *self.rootfs.lowers]
        return self._session.request("open", {"lowers": lowers, "path": path})[1]

    def keep(self, diff_id: Digest) -> None:
        """Let the settled upper directory be the unpacked tree of the layer made from it.

        Nothing can run here afterwards.
        """
        self._keeper.adopt(diff_id, self._upper)

    def close(self) -> None:
        """Let everything be removed; does not wait for it."""
        self._keeper.discard(self._place)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _upper(self) -> Path:
        return self._place / "upper"
