"""Locks of the store, all by flock: the kernel lets go of them when the holder dies, however it dies.

A process that writes has a *session*: a locked file in `locks/sessions/` that holds its pid and
what it does. Its staged files carry the session's name, so that whoever opens the store later can
tell leftovers from work in progress. Order of locks: `store`, then `names`; sessions are never
waited for.
"""

import errno
import fcntl
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgbuild.errors import StoreError, StoreLockedError
from imgbuild.store.failure import explained

_POLL = 0.02


class Session:
    """This process's mark in the store; made when it first writes, gone when it ends."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # Threads may ask at the same time; next() is one step for them.
        self._numbers = itertools.count(1)
        self.name, self._handle = _make_session(directory)
        self.describe("working")

    def describe(self, activity: str) -> None:
        """Record what this process does, for the error message of one that has to wait."""
        with explained("write to the store"):
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()} {activity}\n".encode(), 0)

    def file_name(self) -> str:
        """Return a new name that no other process uses."""
        return f"{self.name}-{next(self._numbers)}"

    def close(self) -> None:
        path = self._directory / self.name
        path.unlink(missing_ok=True)
        os.close(self._handle)


def _make_session(directory: Path) -> tuple[str, int]:
    while True:
        name = f"{os.getpid()}.{os.urandom(6).hex()}"
        with explained("write to the store"):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            handle = os.open(directory / name, flags, 0o600)
        # A sweeper may have taken the new file for a dead session's before it was locked.
        if _try_lock(handle, fcntl.LOCK_EX) and os.fstat(handle).st_nlink:
            return name, handle
        os.close(handle)


def session_of(file_name: str) -> str:
    """Return the session that a staged file or tree belongs to."""
    return file_name.partition("-")[0]


def is_alive(directory: Path, session: str) -> bool:
    """Tell whether the process behind `session` still runs; remove the mark of a dead one."""
    path = directory / session
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        if not _try_lock(handle, fcntl.LOCK_EX):
            return True
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(handle)


def holders(directory: Path, own: str = "") -> list[tuple[int, str]]:
    """Return pid and activity of the other living sessions."""
    found = []
    for name in sorted(os.listdir(directory)):
        if name == own or not is_alive(directory, name):
            continue
        try:
            text = (directory / name).read_text()
        except OSError:
            continue
        pid, _, activity = text.strip().partition(" ")
        found.append((int(pid) if pid.isdigit() else 0, activity or "working"))
    return found


@contextmanager
def locked(
    path: Path, *, shared: bool = False, seconds: float, sessions: Path, own: str = ""
) -> Iterator[int]:
    """Hold the lock file `path`; wait for up to `seconds`, then raise `StoreLockedError`.

    A process that inherits the descriptor, which is given, holds the lock until it ends as well.
    """
    with explained("lock the store"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        deadline = time.monotonic() + seconds
        while not _try_lock(handle, mode):
            if time.monotonic() >= deadline:
                raise _busy(path, sessions, own, shared=shared)
            time.sleep(_POLL)
        yield handle
    finally:
        os.close(handle)


def _busy(path: Path, sessions: Path, own: str, *, shared: bool) -> StoreLockedError:
    others = holders(sessions, own)
    if shared:
        # Only an exclusive holder keeps a builder out.
        others = [item for item in others if item[1] == "resetting"] or others
    who = ", ".join(f"process {pid} ({activity})" for pid, activity in others)
    return StoreLockedError(
        f"the store {path.parent.parent} is in use by {who or 'another process'}",
        hint="wait for it to end, or use another store with --store",
    )


def _try_lock(handle: int, mode: int) -> bool:
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return False
        raise StoreError(
            f"cannot lock the store: {error.strerror}",
            hint="the file system has no locks; choose a store on a local disk with --store",
        ) from error
    return True
