"""Files that appear whole or not at all: staged beside their place, flushed, then renamed.

Flushing to disk is the slow part of a small file, so it is done by threads while the caller goes
on. A file has its final name only after its bytes are on disk; until then this process, and it
alone, reads it from the staging name. `Flusher.flush` returns once all of it is durable, and is
called before anything that points at such files is written.
"""

import io
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Self

from imgbuild.errors import StoreError
from imgbuild.store.failure import explained, store_error

# Flushes of one file system are merged by its journal, so a few in flight cost little more than one.
_THREADS = 4


class StagedFile(io.FileIO):
    """A new file that `commit` puts in its place; leaving the context without it removes the file."""

    def __init__(self, path: Path, place: Callable[["StagedFile", object, int], None]) -> None:
        with explained("write to the store"):
            super().__init__(path, "xb+")
        self.path = path
        self._place = place
        self._handed_over = False

    def write(self, data: object, /) -> int:
        """Write all of `data`; raise `DiskFullError` or `StoreError`."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # typeshed's Buffer is 3.12
        done = 0
        with explained("write to the store"):
            while done < len(view):
                done += os.write(self.fileno(), view[done:])
        return done

    def commit(self, key: object, size: int = -1) -> None:
        """Give the file its final name, `key`; `size` in bytes is checked when it is given."""
        with explained("write to the store"):
            actual = os.fstat(self.fileno()).st_size
        if size not in {-1, actual}:
            raise StoreError(f"{key} was written with {actual} bytes instead of {size}")
        self._place(self, key, actual)
        self._handed_over = True

    def discard(self) -> None:
        """Remove the file; what could not be removed is swept when the store is next opened."""
        self._handed_over = True
        self.close()
        try:
            os.unlink(self.path)
        except OSError:
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        if not self._handed_over:
            self.discard()


class Flusher:
    """Move staged files to their places once they are on disk."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._queue: deque[tuple[StagedFile, Path]] = deque()
        self._pending: dict[Path, StagedFile] = {}
        self._dirty: set[Path] = set()
        self._errors: list[StoreError] = []
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, file: StagedFile, target: Path) -> None:
        """Take over `file`, which is complete, and bring it to `target` in the background."""
        with self._state:
            if target in self._pending:
                file.discard()
                return
            if len(self._queue) >= self._idle and len(self._threads) < _THREADS:
                # Daemons: a process that ends without close() leaves staged files, nothing half made.
                thread = threading.Thread(target=self._work, name="imgbuild-flush", daemon=True)
                thread.start()
                self._threads.append(thread)
            self._pending[target] = file
            self._queue.append((file, target))
            self._state.notify()

    def open(self, target: Path) -> io.FileIO:
        """Open the file at `target` for reading, wherever it is by now; raise `FileNotFoundError`."""
        with self._state:
            staged = self._pending.get(target)
            return io.FileIO(staged.path if staged else target, "rb")

    def size(self, target: Path) -> int:
        """Return the size in bytes of the file at `target`, or -1."""
        if self._pending:
            with self._state:
                staged = self._pending.get(target)
                if staged is not None:
                    return os.fstat(staged.fileno()).st_size
        with explained("read the store"):
            try:
                return os.stat(target).st_size
            except FileNotFoundError:
                return -1

    def is_pending(self, target: Path) -> bool:
        """Tell whether `target` is still under its staging name."""
        with self._state:
            return target in self._pending

    def flush(self) -> None:
        """Wait until all that was submitted is on disk under its final name.

        Raises `DiskFullError` or `StoreError` when something could not be written.
        """
        with self._state:
            while self._pending:
                self._state.wait()
            errors, self._errors = self._errors, []
            dirty, self._dirty = self._dirty, set()
        if errors:
            raise errors[0]
        for directory in sorted(dirty):
            sync_directory(directory)

    def close(self) -> None:
        """Flush and end the threads."""
        try:
            self.flush()
        finally:
            with self._state:
                self._closed = True
                self._state.notify_all()
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while True:
            with self._state:
                self._idle += 1
                while not self._queue and not self._closed:
                    self._state.wait()
                self._idle -= 1
                if not self._queue:
                    return
                file, target = self._queue.popleft()
            try:
                os.fsync(file.fileno())
                failed = None
            except OSError as error:
                failed = error
            self._settle(file, target, failed)

    def _settle(self, file: StagedFile, target: Path, failed: OSError | None) -> None:
        # Readers look under the same lock, so they find the file at one of its two names.
        with self._state:
            if failed is None:
                try:
                    _rename(file.path, target)
                    self._dirty.add(target.parent)
                except OSError as error:
                    failed = error
            if failed is not None:
                self._errors.append(store_error(failed, "write to the store"))
                file.discard()
            file.close()
            del self._pending[target]
            self._state.notify_all()


def _rename(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except FileNotFoundError:
        # The first blob of another digest algorithm, or a directory that someone removed.
        os.makedirs(target.parent, exist_ok=True)
        os.rename(source, target)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; raise `StoreError`."""
    with explained("write to the store"):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_file(staged: Path, target: Path, data: bytes) -> None:
    """Replace `target` by `data` in one step, durably; `staged` names the temporary file."""
    with explained(f"write {target}"):
        try:
            with io.FileIO(staged, "xb") as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
            os.rename(staged, target)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
    sync_directory(target.parent)
