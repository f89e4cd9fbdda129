"""Directories that are away from their places, in a root: so that none is lost with a process.

While one is away, a note beside the root says where it belongs. Whoever removes the root gives
back first what notes are left of. The directory is known by its inode: a command may move it.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Generator

from imgbuild.sandbox.child import syscalls

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PREFIX = b"lent-"
_PATIENCE = 2.0  # seconds for who has just been killed to end
_PAUSE = 0.01


def note(aside: int, name: bytes, source: bytes, status: os.stat_result) -> bytes:
    """Note, before it is done, that the directory `source` goes away; give the note's name."""
    made = _PREFIX + name
    fd = os.open(made, _NEW, 0o600, dir_fd=aside)
    with open(fd, "w") as file:
        json.dump([os.fsdecode(source), status.st_dev, status.st_ino], file)
    return made


def give_back(root: bytes) -> None:
    """Put what was lent to a root back in its place, where nobody did; the root is not used any more."""
    try:
        aside = os.open(root + b".aside", _DIRECTORY)
    except OSError:
        return
    try:
        for name in map(os.fsencode, os.listdir(aside)):
            if name.startswith(_PREFIX):
                with contextlib.suppress(OSError, ValueError):  # gone as well, or half written
                    _give_back(root, aside, name)
    finally:
        os.close(aside)


def _give_back(root: bytes, aside: int, name: bytes) -> None:
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=aside)) as file:
        source, device, inode = json.load(file)
    folder, _, last = os.fsencode(source).rpartition(b"/")
    parent = os.open(folder, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        stand_in = os.open(last, _DIRECTORY, dir_fd=parent)
        try:
            _lock(stand_in)
            now = os.lstat(last, dir_fd=parent)
            is_ours = os.path.samestat(now, os.fstat(stand_in)) and not os.listdir(stand_in)
            if (now.st_dev, now.st_ino) != (device, inode) and is_ours:
                _exchange(root, aside, (device, inode), parent, last)
        finally:
            os.close(stand_in)
    finally:
        os.close(parent)
    os.unlink(name, dir_fd=aside)


def _lock(directory: int) -> None:
    """Wait for who used it last; BlockingIOError when another build has it."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _exchange(root: bytes, aside: int, wanted: tuple[int, int], parent: int, last: bytes) -> None:
    places = [os.dup(aside)]
    with contextlib.suppress(OSError):
        places.append(os.open(root, _DIRECTORY))
    for top in places:
        with contextlib.closing(_directories(top)) as found:
            for at, name, status in found:
                if (status.st_dev, status.st_ino) == wanted:
                    syscalls.exchange(at, name, parent, last)
                    return


def _directories(top: int) -> Generator[tuple[int, bytes, os.stat_result]]:
    """Give all directories below an open one, which is closed, each by its parent and name."""
    way = [(top, _names(top))]
    try:
        while way:
            at, names = way[-1]
            if not names:
                os.close(way.pop()[0])
                continue
            name = names.pop()
            yield at, name, os.lstat(name, dir_fd=at)
            with contextlib.suppress(OSError):
                inner = os.open(name, _DIRECTORY, dir_fd=at)
                way.append((inner, _names(inner)))
    finally:
        for at, _ in way:
            os.close(at)


def _names(directory: int) -> list[bytes]:
    with os.scandir(directory) as listing:
        return [os.fsencode(item.name) for item in listing if item.is_dir(follow_symlinks=False)]
