"""Files that ADD fetched: each alone in a folder that is named after all that is known of it.

A folder has its file, whole, or none. What is there is never written to again.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from imgbuild.oci.digest import Digest
from imgbuild.store.cache import StepCache
from imgbuild.store.failure import explained
from imgbuild.store.locks import locked
from imgbuild.store.paths import StorePaths
from imgbuild.store.staging import StagedFile, sync_directory

if TYPE_CHECKING:
    from imgbuild.store.filememo import FileKey

_BLOCK = 1 << 20
_PATIENCE = 60.0


class Download:
    """A file on its way in; `begin` makes it empty again. Leaving its context removes what was not kept."""

    def __init__(self, file: StagedFile) -> None:
        self.file = file
        self._state = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.file.discard()

    def begin(self) -> None:
        with explained("write to the store"):
            self.file.seek(0)
            self.file.truncate()
        self._state = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        """Add bytes; raise `DiskFullError` or `StoreError`."""
        self.file.write(data)
        self._state.update(data)

    @property
    def digest(self) -> Digest:
        """Of what was written since `begin`."""
        return Digest(f"sha256:{self._state.hexdigest()}")


class Downloads:
    """The fetched files of a store; `stage` gives new names below `paths.staging`."""

    def __init__(self, paths: StorePaths, stage: Callable[[], Path], cache: StepCache) -> None:
        self._paths = paths
        self._stage = stage
        self._cache = cache

    def create(self) -> Download:
        return Download(StagedFile(self._stage(), _never))

    def find(self, digest: Digest, name: bytes, mtime: int) -> Path | None:
        """Return the folder of a file that was kept and still has its content; None without one."""
        folder = self._paths.download(_key(digest, name, mtime))
        path = os.path.join(os.fsencode(folder), name)
        try:
            with open(path, "rb") as file:
                found = os.fstat(file.fileno())
                key = (
                    found.st_dev,
                    found.st_ino,
                    found.st_size,
                    found.st_mtime_ns,
                    found.st_ctime_ns,
                )
                return folder if self._content(file.fileno(), key) == digest else None
        except OSError:
            return None

    def keep(self, download: Download, name: bytes, mtime: int) -> Path:
        """Put a whole file in its place, with mode 0600 and `mtime` (seconds); return its folder."""
        file, digest = download.file, download.digest
        folder = self._paths.download(_key(digest, name, mtime))
        with explained("write to the store"):
            os.fchmod(file.fileno(), 0o600)
            os.utime(file.fileno(), (mtime, mtime))
            os.fsync(file.fileno())
            folder.mkdir(0o700, parents=True, exist_ok=True)
        # Another build may read what is there by now: it is not replaced under its eyes.
        with locked(self._paths.downloads_lock, seconds=_PATIENCE, sessions=self._paths.sessions):
            if self.find(digest, name, mtime) is None:
                with explained("write to the store"):
                    os.rename(os.fsencode(file.path), os.path.join(os.fsencode(folder), name))
                sync_directory(folder)
        return folder

    def _content(self, fd: int, key: "FileKey") -> Digest:
        raw = self._cache.get_many([key]).get(key)
        if raw is None:
            state = hashlib.sha256()
            while data := os.read(fd, _BLOCK):
                state.update(data)
            raw = state.digest()
            self._cache.put_many({key: raw}, time.time_ns())
        return Digest(f"sha256:{raw.hex()}")


def _never(_file: StagedFile, key: object, _size: int) -> None:
    raise AssertionError(key)  # `keep` puts it in its place


def _key(digest: Digest, name: bytes, mtime: int) -> str:
    document = json.dumps([digest, name.hex(), mtime])
    return hashlib.sha256(document.encode()).hexdigest()
