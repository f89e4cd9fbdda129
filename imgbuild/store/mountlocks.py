"""What cache mounts keep, on disk: an entry for each id, with numbered directories and their locks.

MAPPING/KEY/about.json  the id, and from which number on directories count
MAPPING/KEY/lock        held for moments: to change about.json, and to make or remove directories
MAPPING/KEY/N/          what is kept
MAPPING/KEY/N.lock      held by who uses it, alone or with others; has the pid of the last one

All locks are flock's: the kernel lets go of them when the holder dies, however it dies.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from imgbuild.store.failure import explained

_POLL = 0.02
_PATIENCE = 1.0  # seconds of waiting until that is told


@dataclass(frozen=True, slots=True)
class About:
    """What is known of an entry; times in seconds since 1970.

    `first` is the number of its first directory that counts; `seed` the digest of what a new one
    starts with, or empty.
    """

    id: str
    created: float
    used: float
    first: int = 0
    seed: str = ""


class Entry:
    """One entry, which may not be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> About | None:
        """Return what is known of it, None where there is none."""
        try:
            return About(**json.loads((self.folder / "about.json").read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, about: About) -> None:
        """Record what is known of it; the entry's lock is held."""
        fresh = self.folder / "about.json.new"
        with explained("write to the store"):
            fresh.write_text(json.dumps(asdict(about)))
            fresh.rename(self.folder / "about.json")

    def directory(self, number: int) -> Path:
        return self.folder / str(number)

    def numbers(self) -> list[int]:
        """Return the numbers of its directories."""
        with suppress(FileNotFoundError):
            return sorted(int(name) for name in os.listdir(self.folder) if name.isdecimal())
        return []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the entry, for a moment; it is made where it is missing."""
        while True:
            with explained("write to the store"):
                self.folder.mkdir(0o700, parents=True, exist_ok=True)
                handle = open_lock(self.folder / "lock")
            if handle is None:  # it was removed just now
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if os.fstat(handle).st_nlink:
                    yield
                    return
            finally:
                os.close(handle)

    def try_use(self, number: int, *, alone: bool) -> int | None:
        """Take the lock of a directory and return it as a descriptor, None where it is in use."""
        with explained("write to the store"):
            handle = open_lock(self._lock(number))
        if handle is None:
            return None
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        if not os.fstat(handle).st_nlink:  # it was removed meanwhile
            os.close(handle)
            return None
        os.ftruncate(handle, 0)
        os.pwrite(handle, b"%d\n" % os.getpid(), 0)
        return handle

    def holder(self, number: int) -> str:
        """Return the pid of who took the lock last, as text."""
        try:
            return self._lock(number).read_text().strip()
        except OSError:
            return ""

    def _lock(self, number: int) -> Path:
        return self.folder / f"{number}.lock"


def wait(attempt: Callable[[], int | None], tell: Callable[[], object]) -> int:
    """Try until there is a result; `tell` after a second that it takes long."""
    started, told = time.monotonic(), False
    while (found := attempt()) is None:
        if not told and time.monotonic() - started > _PATIENCE:
            tell()
            told = True
        time.sleep(_POLL)
    return found


def open_lock(path: Path) -> int | None:
    """Open a lock file, None where its folder is gone."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
