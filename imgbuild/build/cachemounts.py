"""What RUN --mount=type=cache keeps from build to build: plain directories in the store.

They belong to the container's ids, so a worker makes, packs and removes them.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

from imgbuild.errors import NameNotFoundError, StoreLockedError, UsageError
from imgbuild.events import EventSink, Notice, ignore
from imgbuild.layer.stream import write_all
from imgbuild.store.mountlocks import About, Entry, wait

if TYPE_CHECKING:
    from imgbuild.snapshot.roots import Roots, WriteTar

Sharing = Literal["shared", "private", "locked"]
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class CacheMount:
    """A cache mount of the store; `size` is in bytes on disk, times in seconds since 1970."""

    id: str
    created: float
    used: float
    size: int
    in_use: bool


class Wanted(NamedTuple):
    """What a step asks for: `seed` is the digest of what a new directory starts with, or empty."""

    id: str
    sharing: Sharing
    seed: str = ""
    fill: "WriteTar | None" = None
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


class CacheMounts:
    """The cache mounts of one id mapping, below `folder`.

    With `fresh`, each id starts with a new directory the first time it is used here. `roots`
    gives the worker when there is something for it to do.
    """

    def __init__(
        self,
        folder: Path,
        roots: "Callable[[], Roots]",
        *,
        fresh: bool = False,
        events: EventSink = ignore,
    ) -> None:
        self._folder = folder
        self._roots = roots
        self._fresh = fresh
        self._events = events
        self._begun: set[str] = set()

    # --- for a step

    @contextmanager
    def using(self, wanted: Sequence[Wanted]) -> Iterator[list[Path]]:
        """Hold a directory for each of `wanted` and give them, in that order.

        Mounts of one id and seed share one, by the strictest of their ways to share.
        """
        keys = [_key(one.id, one.seed) for one in wanted]
        strict: dict[str, Wanted] = {}
        for key, one in zip(keys, wanted, strict=True):
            strict[key] = _stricter(strict.get(key, one), one)
        found: dict[str, Path] = {}
        with ExitStack() as stack:
            # In one order everywhere, so that two builds never wait for each other.
            for key in sorted(strict):
                handle, found[key] = self._take(key, strict[key])
                stack.callback(os.close, handle)
            yield [found[key] for key in keys]

    def _take(self, key: str, wanted: Wanted) -> tuple[int, Path]:
        """Lock a directory, which is made where it is missing."""
        entry = Entry(self._folder / key)
        while True:
            first = self._begin(entry, wanted).first
            number, handle = self._lock(entry, first, wanted)
            if handle < 0:
                continue  # removed while this one waited
            try:
                with entry.locked():
                    about = entry.read()
                    if about is not None and about.first == first:
                        self._make(entry.directory(number), wanted)
                        return handle, entry.directory(number)
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # begun anew while this one waited

    def _begin(self, entry: Entry, wanted: Wanted) -> About:
        """Record that an entry is used."""
        now = time.time()
        with entry.locked():
            about = entry.read() or About(wanted.id, now, now, seed=wanted.seed)
            first = about.first
            key = entry.folder.name
            if self._fresh and key not in self._begun:
                first = max([first, *entry.numbers()]) + 1
                self._remove_stale(entry, first)
            self._begun.add(key)
            about = replace(about, used=now, first=first)
            entry.write(about)
        return about

    def _remove_stale(self, entry: Entry, first: int) -> None:
        """Remove the directories below `first` that nobody uses any more."""
        for number in entry.numbers():
            if number < first:
                handle = entry.try_use(number, alone=True)
                if handle is not None:
                    self._roots().remove([entry.directory(number)])
                    os.close(handle)

    def _lock(self, entry: Entry, first: int, wanted: Wanted) -> tuple[int, int]:
        """Lock a directory of an entry; return its number and the lock, -1 when the entry is gone."""
        if wanted.sharing == "private":
            for number in count(first):
                handle = _unless_gone(entry, entry.try_use(number, alone=True))
                if handle is not None:
                    return number, handle
        alone = wanted.sharing == "locked"

        def tell() -> None:
            pid = entry.holder(first)
            who = f"process {pid} has it" if pid else "another process has it"
            self._events(Notice(f"waiting for the cache mount {wanted.id}: {who}"))

        def attempt() -> int | None:
            return _unless_gone(entry, entry.try_use(first, alone=alone))

        return first, wait(attempt, tell)

    def _make(self, path: Path, wanted: Wanted) -> None:
        if path.is_dir():
            return
        roots = self._roots()
        if wanted.fill is None:
            roots.make_directory(path, wanted.uid, wanted.gid, wanted.mode)
            return
        fresh = path.with_name(f"{path.name}.new")
        roots.unpack_tar(fresh, wanted.fill)
        roots.move(fresh, path)

    # --- for people

    def list(self) -> list[CacheMount]:
        """Return all that there are, by id."""
        entries = list(self._entries())
        if not entries:
            return []
        found = []
        for entry, about in entries:
            paths = [entry.directory(number) for number in entry.numbers()]
            size = sum(self._roots().measure(paths))
            found.append(CacheMount(about.id, about.created, about.used, size, _in_use(entry)))
        return sorted(found, key=lambda one: (one.id, one.created))

    def export(self, name: str, stream: BinaryIO) -> None:
        """Write what `name` holds to `stream` as a tar with container ids.

        Raises `NameNotFoundError`, and `StoreLockedError` while a build writes to it.
        """
        entry, about = self._find(name)
        with self._alone(entry, about):
            self._roots().pack(entry.directory(about.first), lambda data: write_all(stream, data))

    def export_to(self, name: str, file: Path) -> None:
        """Write what `export` gives to `file`, which appears whole or not at all."""
        fresh = file.with_name(f"{file.name}.{os.getpid()}.part")
        try:
            with fresh.open("xb") as stream:
                self.export(name, stream)
            fresh.rename(file)
        except OSError as error:
            raise UsageError(
                f"cannot write {file}: {error.strerror}", hint="name a file that can be written"
            ) from None
        finally:
            fresh.unlink(missing_ok=True)

    def import_(self, name: str, stream: BinaryIO) -> None:
        """Let `name` hold what the tar in `stream` has, in place of what it held.

        Raises `StoreLockedError` while it is in use, `ImageError` for what is no tar.
        """
        if not name:
            raise UsageError("a cache mount needs a name", hint="give the id of the mount")
        entry, now = Entry(self._folder / _key(name, "")), time.time()

        def fill(write: Callable[[bytes], object]) -> None:
            while data := stream.read(_CHUNK):
                write(data)

        with entry.locked():
            about = entry.read() or About(name, now, now)
        with self._alone(entry, about):
            self._roots().unpack_tar(entry.folder / "import.new", fill)
            self._roots().move(entry.folder / "import.new", entry.directory(about.first))
            with entry.locked():
                entry.write(replace(about, used=now))

    def remove(self, names: Sequence[str]) -> None:
        """Remove cache mounts; raise `NameNotFoundError`, and `StoreLockedError` for one in use."""
        for name in names:
            self._find(name)
        for entry, about in self._entries():
            if about.id in names:
                self._remove(entry, about)

    def remove_all(self) -> None:
        """Remove all cache mounts; raise `StoreLockedError` for one in use."""
        for entry, about in self._entries():
            self._remove(entry, about)

    def _remove(self, entry: Entry, about: About) -> None:
        with ExitStack() as stack:
            stack.enter_context(entry.locked())
            for number in _locks(entry):
                handle = entry.try_use(number, alone=True)
                if handle is None:
                    raise _busy(entry, about, number)
                stack.callback(os.close, handle)
            self._roots().remove([entry.directory(number) for number in entry.numbers()])
            shutil.rmtree(entry.folder)

    @contextmanager
    def _alone(self, entry: Entry, about: About) -> Iterator[None]:
        handle = entry.try_use(about.first, alone=True)
        if handle is None:
            raise _busy(entry, about, about.first)
        try:
            yield
        finally:
            os.close(handle)

    def _entries(self) -> Iterator[tuple[Entry, About]]:
        with suppress(FileNotFoundError):
            for key in sorted(os.listdir(self._folder)):
                entry = Entry(self._folder / key)
                about = entry.read()
                if about is not None:
                    yield entry, about

    def _find(self, name: str) -> tuple[Entry, About]:
        """Return what a build without a seed uses, else what was used last."""
        found = [pair for pair in self._entries() if pair[1].id == name]
        if not found:
            raise NameNotFoundError(
                f"no such cache mount: {name}",
                hint="see `imgbuild cache mount ls` for what is there",
            )
        return max(found, key=lambda pair: (not pair[1].seed, pair[1].used))


def _key(name: str, seed: str) -> str:
    return sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _stricter(one: Wanted, other: Wanted) -> Wanted:
    order: tuple[Sharing, ...] = ("shared", "private", "locked")
    return one if order.index(one.sharing) >= order.index(other.sharing) else other


def _unless_gone(entry: Entry, handle: int | None) -> int | None:
    """Return a lock, None while somebody has it, and -1 where there is nothing to lock."""
    return -1 if handle is None and not entry.folder.is_dir() else handle


def _locks(entry: Entry) -> list[int]:
    names = (name.removesuffix(".lock") for name in os.listdir(entry.folder))
    return sorted({int(name) for name in names if name.isdecimal()})


def _in_use(entry: Entry) -> bool:
    for number in _locks(entry):
        handle = entry.try_use(number, alone=True)
        if handle is None:
            return True
        os.close(handle)
    return False


def _busy(entry: Entry, about: About, number: int) -> StoreLockedError:
    pid = entry.holder(number)
    return StoreLockedError(
        f"the cache mount {about.id} is in use by {f'process {pid}' if pid else 'another process'}",
        hint="wait for that build to end",
    )
