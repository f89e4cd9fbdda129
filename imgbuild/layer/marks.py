"""What a removed name leaves in an unpacked layer, in both forms that overlayfs knows.

A character device 0:0; or, on what cannot hold one (overlayfs itself), an empty file with an
attribute, in a directory that says that it has such files (Linux 6.8).
https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories
"""

import os
import stat

from imgbuild.layer import xattrs

_WHITEOUT = "user.overlay.whiteout"
_HAS_FILES = b"x"  # of the attribute that says y for an opaque directory
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def make_whiteout(name: bytes, at: int) -> None:
    """Hide what lower layers have under a name; FileExistsError when something is there."""
    try:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=at)
    except PermissionError:
        _make_file(name, at)


def is_whiteout(status: os.stat_result, name: bytes, at: int) -> bool:
    """Tell whether what has this status and name hides what lower layers have there."""
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        return False
    try:
        # By its name: there may be no right to open it.
        return os.getxattr(b"/proc/self/fd/%d/%s" % (at, name), _WHITEOUT) == b"y"
    except OSError:
        return False


def make_opaque(directory: int) -> None:
    """Hide all that lower layers have in an open directory."""
    if _mark(directory) == _HAS_FILES:  # they would be shown
        for name in map(os.fsencode, os.listdir(directory)):
            if is_whiteout(os.lstat(name, dir_fd=directory), name, directory):
                os.unlink(name, dir_fd=directory)
    os.setxattr(directory, xattrs.OPAQUE, b"y")


def _make_file(name: bytes, at: int) -> None:
    fd = os.open(name, _FILE, 0o600, dir_fd=at)
    if _mark(at) == b"y":  # everything is hidden already, and the file would be shown
        os.close(fd)
        os.unlink(name, dir_fd=at)
        return
    try:
        os.setxattr(fd, _WHITEOUT, b"y")
    finally:
        os.close(fd)
    os.setxattr(at, xattrs.OPAQUE, _HAS_FILES)


def _mark(directory: int) -> bytes:
    try:
        return os.getxattr(directory, xattrs.OPAQUE)
    except OSError:
        return b""
