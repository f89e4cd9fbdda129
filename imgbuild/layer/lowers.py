"""Looking things up in the unpacked layers below the one at hand, as overlayfs would merge them.

Links are never followed, so nothing outside those trees is ever reached.
"""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from imgbuild import recorded
from imgbuild.layer import xattrs
from imgbuild.layer.entry import ImagePath
from imgbuild.layer.marks import is_whiteout

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_stored(name: str) -> bool:
    """Tell whether a copy on disk has the attribute `name`: of the image, or recorded for it."""
    return xattrs.keep(name) or name in {recorded.OWNER, recorded.DEVICE}


class Found:
    """Something in a lower layer: `mode` and owners are those on disk."""

    def __init__(self, at: int, name: bytes, status: os.stat_result) -> None:
        self._at = at
        self._name = name
        self._status = status
        self.mode = status.st_mode

    def open(self) -> int:
        """Return a descriptor of a regular file or a directory."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self._name, flags, dir_fd=self._at)

    def readlink(self) -> bytes:
        return os.readlink(self._name, dir_fd=self._at)

    def copy_status(self, source: int, to: int) -> None:
        """Give the open file `to` owner, mode, attributes and time of this one, open as `source`."""
        status = self._status
        new = os.fstat(to)
        if (new.st_uid, new.st_gid) != (status.st_uid, status.st_gid):
            os.fchown(to, status.st_uid, status.st_gid)
        os.fchmod(to, stat.S_IMODE(status.st_mode))
        for name in os.listxattr(source):
            if is_stored(name):
                os.setxattr(to, name, os.getxattr(source, name))
        os.utime(to, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def close(self) -> None:
        os.close(self._at)


class Lowers:
    """The lower layers' trees, the top one first."""

    def __init__(self, trees: Sequence[Path]) -> None:
        self._trees = trees
        self._fds: list[int] | None = None

    def find(self, path: ImagePath) -> Found | None:
        """Return what the merged layers have at `path`; the caller closes it."""
        for root in self._roots():
            found, ends = self._find_in(root, path)
            if found is not None or ends:
                return found
        return None

    def names(self) -> list[bytes]:
        """Return all names that the trees have in their roots."""
        return sorted({os.fsencode(name) for root in self._roots() for name in os.listdir(root)})

    def close(self) -> None:
        for fd in self._fds or ():
            os.close(fd)
        self._fds = None

    def _roots(self) -> list[int]:
        if self._fds is None:
            self._fds = []
            for tree in self._trees:
                self._fds.append(os.open(tree, _DIRECTORY & ~os.O_NOFOLLOW))
        return self._fds

    @staticmethod
    def _find_in(root: int, path: ImagePath) -> tuple[Found | None, bool]:
        """Return what one tree has, and whether it hides what the trees below it have."""
        at = os.dup(root)
        hides = False
        *parents, last = path.split(b"/") if path else [b"."]
        try:
            for name in parents:
                status = _lstat(name, at)
                if status is None:
                    return None, hides
                if not stat.S_ISDIR(status.st_mode):
                    return None, True
                inner = os.open(name, _DIRECTORY, dir_fd=at)
                os.close(at)
                at = inner
                hides = hides or _is_opaque(at)
            status = _lstat(last, at)
            if status is None:
                return None, hides
            if is_whiteout(status, last, at):
                return None, True
            found = Found(at, last, status)
            at = -1
            return found, True
        finally:
            if at >= 0:
                os.close(at)


def _lstat(name: bytes, at: int) -> os.stat_result | None:
    try:
        return os.lstat(name, dir_fd=at)
    except FileNotFoundError:
        return None


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, xattrs.OPAQUE) == b"y"
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.ENOTSUP}:
            return False
        raise
