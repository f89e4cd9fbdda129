"""From what a layer says about a file to what the disk gets: owners, modes, times, attributes."""

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from imgbuild import recorded
from imgbuild.errors import ImageError
from imgbuild.layer import xattrs
from imgbuild.layer.entry import Entry

_ALL_IDS = 1 << 32


class Status(NamedTuple):
    """What is set on a file once its content is there; ids are those of the image."""

    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: Mapping[str, bytes]

    @classmethod
    def of(cls, entry: Entry) -> Self:
        return cls(entry.mode, entry.uid, entry.gid, entry.mtime, entry.xattrs)


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which ids files get on disk: those of the image plus `shift`, as long as below `count`.

    With `single` there is one id only: files keep the id that makes them, and an owner other
    than 0:0 is recorded in attributes (see `recorded`).
    """

    shift: int = 0
    count: int = _ALL_IDS
    single: bool = False

    def apply(self, fd: int, status: Status, note: Callable[[str], object]) -> None:
        """Set everything on an open file or directory; `note` is told what it cannot have."""
        if self.single:
            if status.uid or status.gid:
                os.setxattr(fd, recorded.OWNER, recorded.owner_value((status.uid, status.gid)))
        else:
            uid, gid = self.on_disk(status)
            # Files that are just made belong to the caller: most of a layer needs no call.
            if uid != os.geteuid() or gid != os.getegid():
                os.fchown(fd, uid, gid)
        # After the owner, whose change takes away suid, sgid and capabilities; and attributes
        # before the mode, which may forbid even the owner to set them.
        for name, value in status.xattrs.items():
            if xattrs.keep(name):
                self._set_xattr(fd, name, value, note)
        os.fchmod(fd, status.mode)
        os.utime(fd, ns=(status.mtime * 10**9, status.mtime * 10**9))

    def apply_at(
        self,
        at: int,
        name: bytes,
        status: Status,
        note: Callable[[str], object],
        *,
        symlink: bool = False,
    ) -> None:
        """Set everything on `name` in the directory `at`, for what cannot be opened."""
        if self.single:
            if status.uid or status.gid:
                self._record_special(at, name, status, note)
        else:
            uid, gid = self.on_disk(status)
            if uid != os.geteuid() or gid != os.getegid():
                os.chown(name, uid, gid, dir_fd=at, follow_symlinks=False)
        if not symlink:
            os.chmod(name, status.mode, dir_fd=at)
        times = (status.mtime * 10**9, status.mtime * 10**9)
        os.utime(name, ns=times, dir_fd=at, follow_symlinks=False)

    def on_disk(self, status: Status) -> tuple[int, int]:
        """Return the owner on disk; raise `ImageError` where the mapping has no such id."""
        if status.uid >= self.count or status.gid >= self.count:
            raise ImageError(
                f"a file of the image belongs to {status.uid}:{status.gid},"
                f" but this user may use only the ids below {self.count}",
                hint="give this user a larger range in /etc/subuid and /etc/subgid",
            )
        return status.uid + self.shift, status.gid + self.shift

    @staticmethod
    def _record_special(
        at: int, name: bytes, status: Status, note: Callable[[str], object]
    ) -> None:
        try:
            value = recorded.special_value((status.uid, status.gid))
            os.setxattr(path_of(at, name), recorded.SPECIAL, value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in {errno.ENOTSUP, errno.EPERM}:
                raise
            note(f"the owner was not kept: {error.strerror}")

    def _set_xattr(self, fd: int, name: str, value: bytes, note: Callable[[str], object]) -> None:
        if name == xattrs.CAPABILITY and self.shift:
            value = xattrs.to_v3(value, self.shift)
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno not in {errno.ENOTSUP, errno.EPERM}:
                raise
            note(f"the attribute {name} was not kept: {error.strerror}")


def special_value(at: int, name: bytes) -> bytes:
    """Return the record of a symlink's or a FIFO's owner in a directory; empty for none."""
    try:
        return xattrs.to_v2(os.getxattr(path_of(at, name), recorded.SPECIAL, follow_symlinks=False))
    except OSError as error:
        if error.errno not in {errno.ENODATA, errno.ENOTSUP}:
            raise
        return b""


def path_of(at: int, name: bytes) -> bytes:
    """Name something in a directory for calls that take no descriptor."""
    return b"/proc/self/fd/%d/%s" % (at, name)
