"""Remove trees that nobody may trust: any depth, any names, never through a link out of them."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: bytes) -> None:
    """Remove a file or a directory with all it holds; nothing there is fine.

    Directories that are not empty are first moved to the top of the tree, so neither depth nor
    path length matters, and what is cut short can be taken up again. Of two that remove one
    tree, one waits.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    except OSError as problem:
        if problem.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        os.unlink(path)
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        _empty(fd)
        with suppress(FileNotFoundError):
            os.rmdir(path)
    finally:
        os.close(fd)


def empty_directory(path: bytes) -> None:
    """Remove everything in a directory, but not the directory itself."""
    for name in os.listdir(path):
        remove_tree(os.path.join(path, name))


def _empty(top: int) -> None:
    mark = os.urandom(8).hex()
    names = (f"{mark}-{number}".encode() for number in range(1 << 62))
    waiting: list[bytes] = []
    _clear(top, top, names, waiting)
    while waiting:
        name = waiting.pop()
        with suppress(FileNotFoundError):
            fd = os.open(name, _DIRECTORY, dir_fd=top)
            try:
                _clear(fd, top, names, waiting)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=top)


def _clear(directory: int, top: int, names: Iterator[bytes], waiting: list[bytes]) -> None:
    """Leave nothing in `directory`; what has content itself waits in `top`."""
    with os.scandir(directory) as listing:
        items = [(item.name, item.is_dir(follow_symlinks=False)) for item in listing]
    for name, is_directory in items:
        with suppress(FileNotFoundError):
            if not is_directory:
                os.unlink(name, dir_fd=directory)
            elif not _remove_empty(name, directory):
                moved = next(names)
                os.rename(name, moved, src_dir_fd=directory, dst_dir_fd=top)
                waiting.append(moved)


def _remove_empty(name: str, directory: int) -> bool:
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as problem:
        if problem.errno != errno.ENOTEMPTY:
            raise
        return False
    return True
