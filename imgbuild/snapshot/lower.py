"""What stacked layer trees show in one directory, by directory descriptors, without a mount."""

import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from imgbuild import inroot
from imgbuild.layer import marks, xattrs

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Shown(NamedTuple):
    """A name in the merged directory: what it is, and the directory of the layer that has it."""

    status: os.stat_result
    at: int


def is_whiteout(status: os.stat_result) -> bool:
    """Tell whether this is overlayfs's mark of a removed name: the character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: int) -> bool:
    """Tell whether overlayfs shows nothing of lower layers in this directory."""
    try:
        return os.getxattr(directory, xattrs.OPAQUE) == b"y"
    except OSError:
        return False


def open_directory(name: bytes, at: int) -> int:
    return os.open(name, _DIRECTORY, dir_fd=at)


def open_file(name: bytes, at: int) -> int:
    """Open without waiting for the other end of a FIFO that took the place of a file."""
    return os.open(name, _FILE, dir_fd=at)


def has_directory(tree: str, path: bytes) -> bool:
    """Tell whether a tree of one layer has a directory, by whatever links of its own."""
    root = os.open(tree, _DIRECTORY)
    try:
        os.close(inroot.open_in_root(root, path, os.O_PATH | os.O_DIRECTORY))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


class LowerDirectory:
    """One directory of an image's unpacked layers: those that have it, top first, by descriptor.

    The descriptors are its own and closed by `close`.
    """

    def __init__(self, parts: Sequence[int] = ()) -> None:
        self.parts = parts

    def look(self, name: bytes) -> Shown | None:
        """Return what the layers show under a name."""
        for part in self.parts:
            try:
                status = os.stat(name, dir_fd=part, follow_symlinks=False)
            except FileNotFoundError:
                continue
            return None if marks.is_whiteout(status, name, part) else Shown(status, part)
        return None

    def descend(self, name: bytes) -> "LowerDirectory":
        """Open the directory that the layers show under a name; an empty one when they do not."""
        found: list[int] = []
        for part in self.parts:
            try:
                fd = open_directory(name, part)
            except FileNotFoundError:
                continue
            except OSError:  # ENOTDIR, ELOOP: anything else hides what is below
                break
            found.append(fd)
            if is_opaque(fd):
                break
        return LowerDirectory(found)

    def names(self) -> Iterator[bytes]:
        """Give the names that the layers show, in no order."""
        seen: set[bytes] = set()
        for part in self.parts:
            with os.scandir(part) as listing:
                fresh = [os.fsencode(item.name) for item in listing]
            for name in fresh:
                if name not in seen:
                    seen.add(name)
                    if self.look(name) is not None:
                        yield name

    def close(self) -> None:
        for part in self.parts:
            os.close(part)
        self.parts = ()
