"""A tree that holds the layers below already: a layer is unpacked over them, removals included.

The result is what overlayfs would show of the layers unpacked one by one. What this layer made
itself is told apart by inode number: a whiteout removes only what lower layers brought
(image-spec layer.md), and a link of a lower layer is replaced where this one has a directory.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from imgbuild.layer.entry import ImagePath
from imgbuild.layer.inodes import InodeSet
from imgbuild.layer.lowers import Lowers, is_stored
from imgbuild.layer.owners import Ownership, Status
from imgbuild.layer.tree import DIRECTORY, Tree, remove_tree

_Times = tuple[int, int]


class MergedTree(Tree):
    """The root of all layers so far, and the open directories on the way to the last entry."""

    def __init__(self, root: int, ownership: Ownership) -> None:
        super().__init__(root, ownership, Lowers(()))
        self._ours = InodeSet()
        # Directories of lower layers that were touched and that no entry describes: their times.
        self._kept: dict[ImagePath, _Times] = {b"": _times(os.fstat(root))}
        self._pending.clear()

    def _open_up(self) -> None:
        """Leave the root as it is: who unpacks over other layers may write everywhere."""

    def note_file(self, fd: int) -> None:
        status = os.fstat(fd)
        self._ours.add(status.st_ino)
        if status.st_gid != os.getegid():  # of a directory with sgid
            os.fchown(fd, -1, os.getegid())

    def note_name(self, at: int, name: bytes) -> None:
        status = os.lstat(name, dir_fd=at)
        self._ours.add(status.st_ino)
        is_new = stat.S_ISDIR(status.st_mode) or status.st_nlink == 1  # no further name
        if is_new and status.st_gid != os.getegid():
            os.chown(name, -1, os.getegid(), dir_fd=at, follow_symlinks=False)

    def is_ours(self, status: os.stat_result) -> bool:
        return status.st_ino in self._ours

    def make_dir(self, path: ImagePath, status: Status) -> None:
        if path not in self._pending and self._has_dir(path):
            self._reset(self.ensure_dir(path))
        super().make_dir(path, status)

    def discard(self, path: ImagePath) -> None:
        may_hold = path in self._kept or self._has_dir(path)
        super().discard(path)
        if may_hold:  # files, which are many, hold nothing
            self._forget(path)

    def hide(self, path: ImagePath) -> None:
        at, name = self.parent(path)
        with suppress(FileNotFoundError):
            self._remove_lower(at, name, path)
        self._shorten(0)

    def empty(self, path: ImagePath) -> None:
        fd = os.dup(self.ensure_dir(path))
        try:
            self._empty(fd, path)
        finally:
            os.close(fd)
        self._shorten(0)

    def finish(self, note: Callable[[str], object]) -> None:
        super().finish(note)
        for path, times in list(self._kept.items()):
            if path not in self._pending:
                with suppress(FileNotFoundError, NotADirectoryError):
                    os.utime(self._open(path, None), ns=times)

    def _enter(
        self,
        name: bytes,
        at: int,
        path: ImagePath,
        make: Callable[[bytes, int, ImagePath], None] | None,
    ) -> int:
        if make is not None:
            self._clear_way(name, at)
        fd = super()._enter(name, at, path, make)
        if path not in self._pending and path not in self._kept:
            self._kept[path] = _times(os.fstat(fd))
        return fd

    def _clear_way(self, name: bytes, at: int) -> None:
        """Remove what a lower layer has, other than a directory, where this one needs one."""
        try:
            status = os.lstat(name, dir_fd=at)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(status.st_mode) and not self.is_ours(status):
            os.unlink(name, dir_fd=at)

    def _has_dir(self, path: ImagePath) -> bool:
        if not path:
            return True
        at, name = self.parent(path)
        try:
            return stat.S_ISDIR(os.lstat(name, dir_fd=at).st_mode)
        except FileNotFoundError:
            return False

    @staticmethod
    def _reset(fd: int) -> None:
        """Take from a lower layer's directory what its new description may not have."""
        for name in os.listxattr(fd):
            if is_stored(name):
                os.removexattr(fd, name)
        status = os.fstat(fd)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(fd, os.geteuid(), os.getegid())

    def _remove_lower(self, at: int, name: bytes, path: ImagePath) -> None:
        status = os.lstat(name, dir_fd=at)
        if not stat.S_ISDIR(status.st_mode):
            if not self.is_ours(status):
                os.unlink(name, dir_fd=at)
            return
        if path not in self._pending and path not in self._kept:
            remove_tree(name, at)  # nothing of this layer is below
            return
        fd = os.open(name, DIRECTORY, dir_fd=at)
        try:
            self._empty(fd, path)
        finally:
            os.close(fd)
        if path not in self._pending:
            self._remove_if_empty(name, at, path)

    def _empty(self, fd: int, path: ImagePath) -> None:
        prefix = path + b"/" if path else b""
        for name in map(os.fsencode, os.listdir(fd)):
            self._remove_lower(fd, name, prefix + name)

    def _remove_if_empty(self, name: bytes, at: int, path: ImagePath) -> None:
        try:
            os.rmdir(name, dir_fd=at)
        except OSError as problem:
            if problem.errno != errno.ENOTEMPTY:
                raise
        else:
            self._forget(path)

    def _forget(self, path: ImagePath) -> None:
        below = path + b"/"
        self._kept = {
            key: times
            for key, times in self._kept.items()
            if key != path and not key.startswith(below)
        }


def _times(status: os.stat_result) -> _Times:
    return status.st_atime_ns, status.st_mtime_ns
