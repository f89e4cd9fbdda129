"""Unpacked layers on disk: which are whole, and who may make one.

DIFF-ID-HEX        the tree
DIFF-ID-HEX.new    a tree that is being made; nobody's once its lock is free
DIFF-ID-HEX.mark   locked while the tree is made; holds the boot in which that ended
DIFF-ID-HEX.old-*  a tree that was replaced

Trees are not flushed to disk, which would cost more than unpacking them again. So a tree of an
earlier boot is not trusted: after a power cut it may have its names and not its contents.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgbuild.oci.digest import Digest

_MARK = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class Trees:
    """The unpacked layers of one id mapping."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._boot = b""
        self._whole: set[Digest] = set()

    def path(self, diff_id: Digest) -> Path:
        return self.folder / diff_id.encoded

    def new(self, diff_id: Digest) -> Path:
        return self.folder / f"{diff_id.encoded}.new"

    def is_whole(self, diff_id: Digest) -> bool:
        """Tell whether the tree is there with everything it should have."""
        if diff_id in self._whole:
            return True
        try:
            mark = os.open(self._mark(diff_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            whole = os.read(mark, 100) == self.boot and self.path(diff_id).is_dir()
        finally:
            os.close(mark)
        if whole:
            self._whole.add(diff_id)
        return whole

    @contextmanager
    def making(self, diff_id: Digest) -> Iterator[int]:
        """Hold the lock of a tree, as a descriptor; wait for whoever holds it.

        A process that inherits the descriptor holds the lock too.
        """
        os.makedirs(self.folder, exist_ok=True)
        lock = os.open(self._mark(diff_id), _MARK, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    def commit(self, diff_id: Digest, lock: int) -> Path | None:
        """Put the new tree in its place; return where one of an earlier boot now lies."""
        place, stale = self.path(diff_id), None
        os.ftruncate(lock, 0)
        if place.exists():
            stale = self.folder / f"{diff_id.encoded}.old-{os.getpid()}-{os.urandom(4).hex()}"
            place.rename(stale)
        self.new(diff_id).rename(place)
        os.pwrite(lock, self.boot, 0)
        self._whole.add(diff_id)
        return stale

    def leftovers(self) -> Iterator[tuple[Path, tuple[int, ...]]]:
        """Give trees that nobody makes or uses any more, each with the lock that keeps it so."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return
        for name in names:
            stem, _, kind = name.partition(".")
            if kind == "new":
                lock = os.open(self.folder / f"{stem}.mark", _MARK, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                else:
                    yield self.folder / name, (lock,)
            elif kind.startswith("old-"):
                yield self.folder / name, ()

    @property
    def boot(self) -> bytes:
        if not self._boot:
            self._boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        return self._boot

    def _mark(self, diff_id: Digest) -> Path:
        return self.folder / f"{diff_id.encoded}.mark"
