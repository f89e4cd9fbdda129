"""COPY, ADD and WORKDIR: entries written straight over a view of the image, nothing is mounted."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from os import fsencode
from pathlib import Path
from typing import NamedTuple, Protocol

from imgbuild.build import users
from imgbuild.build.archives import UnpackedArchive, with_archives
from imgbuild.build.commit import LayerMaker
from imgbuild.build.context import ContextTree, wanted
from imgbuild.build.copyrules import Placed, Source, Target, make_path, place, resolve
from imgbuild.build.filereader import CHUNK, CONTENT, HASH, XATTRS, Wanted
from imgbuild.build.gathered import Gathered
from imgbuild.build.hashing import as_digest
from imgbuild.build.listing import Item, Listing
from imgbuild.build.readers import Batch, is_full
from imgbuild.build.unpackrules import place_unpacked
from imgbuild.errors import ContextError
from imgbuild.layer.entry import NO_XATTRS, Entry, ImagePath
from imgbuild.layer.stream import Readable
from imgbuild.oci.digest import Digest
from imgbuild.options import ArchiveLimits
from imgbuild.plan.chmod import parse_changes
from imgbuild.plan.model import CopyStep, Document, WorkdirStep
from imgbuild.snapshot.view import RootView


class Maker(Protocol):
    """Where entries go: a `LayerMaker` or a `TarWriter`."""

    def add(
        self, entry: Entry, content: Readable | None = None, *, vouched: bool = False
    ) -> Digest | None: ...
    def add_files(self, files: Iterable[tuple[Entry, bytes, Digest]]) -> None: ...


def copy_layer(
    maker: Maker,
    step: CopyStep,
    view: RootView,
    gathered: Gathered,
    *,
    clamp: int | None,
    scratch: Path,
    limits: ArchiveLimits,
) -> None:
    """Write the entries of a COPY or ADD to `maker`; raise `ContextError` where they collide.

    What is not known yet of the files is read now: `gathered` learns it.
    """
    owner = _owner(step, view) if step.chown is not None else None
    sources: Sequence[Source] = gathered.sources
    with ExitStack() as stack:
        archives: dict[int, UnpackedArchive] = {}
        if step.unpack:
            unpacked = [part.unpack for part in gathered.parts]
            sources, archives = with_archives(sources, unpacked, gathered.open, scratch, limits)
            for archive in archives.values():
                stack.callback(archive.close)
        made = clamp if clamp is not None else newest(sources)
        texts = [_encoded(document.content) for document in step.documents]
        number = gathered.count
        documents = [
            _document(made, document, text, number + i)
            for i, (document, text) in enumerate(zip(step.documents, texts, strict=True))
        ]
        target = _target(step, owner, made)
        putting = place_unpacked if archives else place
        writer = _Writer(maker, gathered, archives, texts)
        writer.write(putting(view, [*sources, *documents], target))


def _owner(step: CopyStep, view: RootView) -> tuple[int, int]:
    try:
        return users.owner(users.reader(view), step.chown or "")
    except ContextError as error:
        if step.link:
            error.hint = "--link does not see the users of the base: use numbers"
        raise


def _target(step: CopyStep, owner: tuple[int, int] | None, made: int) -> Target:
    dest = fsencode(step.dest)
    if isinstance(step.chmod, str):
        return Target(dest, owner, None, made, parse_changes(step.chmod))
    return Target(dest, owner, step.chmod, made)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _document(mtime: int, document: Document, text: bytes, number: int) -> Source:
    """Return a here-document as a source; its time is that of what the step makes."""
    name = _encoded(document.name)
    item = Item(b"", "file", 0o644, 0, 0, mtime, len(text))
    return Source(name, name, item, (), number)


def newest(sources: Iterable[Source]) -> int:
    """Return the newest time among the sources: what a new directory above them gets.

    "Now" would be what BuildKit takes, and would give every build another layer.
    """
    latest = 0
    for source in sources:
        latest = max(latest, source.item.mtime)
        if isinstance(source.below, Listing):
            latest = max(latest, source.below.newest)
        else:
            latest = max(latest, max((item.mtime for item in source.below), default=0))
    return latest


class _Small(NamedTuple):
    """Some entries in order, with the files among them that are read at one go."""

    placed: list[Placed]
    files: list[int]


class _Writer:
    """Writes what was placed, reading ahead the small files of contexts."""

    def __init__(
        self,
        maker: Maker,
        gathered: Gathered,
        archives: dict[int, UnpackedArchive],
        texts: Sequence[bytes],
    ) -> None:
        self._maker = maker
        self._gathered = gathered
        self._archives = archives
        self._texts = texts

    def write(self, placed: Iterator[Placed]) -> None:
        gathered = self._gathered
        trees = {tree for tree in gathered.trees if isinstance(tree, ContextTree)}
        if len(trees) != 1:
            for one in placed:
                self._write(one)
            return
        # What the memo knows was hashed before; its times prove that it is still the same.
        flags = CONTENT if gathered.is_known else CONTENT | HASH | XATTRS
        for small, batch in trees.pop().read(self._small(placed), flags, gathered.expected):
            self._write_small(small, batch)

    def _small(self, placed: Iterator[Placed]) -> Iterator[tuple[_Small, list[Wanted]]]:
        now, names = _Small([], []), 0
        files: list[Wanted] = []
        size = 0
        for one in placed:
            path = self._small_path(one)
            if path is not None and one.item is not None:
                now.files.append(len(now.placed))
                files.append(wanted(path, one.item))
                names += len(path)
                size += one.item.size
            now.placed.append(one)
            if is_full(len(now.placed), names, size):
                yield now, files
                now, files, names, size = _Small([], []), [], 0, 0
        yield now, files

    def _small_path(self, one: Placed) -> ImagePath | None:
        """Return where a file is that is to be read together with others, None for what is not."""
        item = one.item
        if item is None or item.stat is None or item.size >= CHUNK or one.entry.type != "file":
            return None
        return self._gathered.path(one)

    def _write_small(self, small: _Small, batch: Batch) -> None:
        start = 0
        for first, end in _runs(small.files):
            number = small.files[first]
            for one in small.placed[start:number]:
                self._write(one)
            start = number + end - first
            self._maker.add_files(self._known(small.placed[number:start], batch, first))
        for one in small.placed[start:]:
            self._write(one)

    def _known(
        self, placed: Sequence[Placed], batch: Batch, first: int
    ) -> Iterator[tuple[Entry, bytes, Digest]]:
        """Yield files with what was read of them; the first is the batch's number `first`."""
        facts = self._gathered.facts
        for at, one in enumerate(placed, first):
            read, xattrs = batch.facts[at]
            if read is not None:
                facts.set(one.number, read, xattrs)
            raw = read or facts.digest(one.number)
            assert raw is not None  # noqa: S101  it was either read now or known before
            known = facts.xattrs.get(one.number) if facts.xattrs else None
            entry = one.entry._replace(xattrs=known) if known else one.entry
            yield entry, batch.contents[at], as_digest(raw)

    def _write(self, one: Placed) -> None:
        entry = one.entry
        if entry.type != "file" or one.item is None:
            self._maker.add(entry)
        elif one.source >= len(self._gathered.sources):
            self._maker.add(
                entry, io.BytesIO(self._texts[one.source - len(self._gathered.sources)])
            )
        elif entry.size == 0 and one.item.stat is None:
            self._maker.add(entry, io.BytesIO())
        elif one.source in self._archives:
            first = self._gathered.sources[one.source].number + 1
            self._maker.add(entry, self._archives[one.source].open(one.number - first))
        elif one.item.stat is None:
            with self._gathered.trees[one.source].open(self._gathered.path(one)) as stream:
                self._maker.add(entry, stream)
        else:
            self._write_large(one, one.item)

    def _write_large(self, one: Placed, item: Item) -> None:
        """Write a file of a context, without reading it as a whole."""
        from imgbuild.build.filereader import read_xattrs

        gathered, entry = self._gathered, one.entry
        tree, path = gathered.trees[one.source], gathered.path(one)
        assert isinstance(tree, ContextTree)  # noqa: S101  nothing else has files of this machine
        raw = gathered.facts.digest(one.number)
        with tree.open(path) as stream:
            known = gathered.facts.xattrs.get(one.number) if raw else read_xattrs(stream.fileno())
            digest = as_digest(raw) if raw else None
            entry = entry._replace(xattrs=known or NO_XATTRS, digest=digest)
            try:
                written = self._maker.add(entry, stream, vouched=raw is not None)
            finally:
                # Where it changed, that is why it could not be written.
                tree.check(stream, path, item)
        if raw is None and written is not None:
            gathered.facts.set(one.number, bytes.fromhex(written.encoded), known)


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield where numbers that follow each other start and end in a list."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield start, at
            start = at


def workdir_layer(maker: LayerMaker, step: WorkdirStep, view: RootView, clamp: int | None) -> None:
    """Write the directories that a WORKDIR has to make; none when it is there already."""
    path = fsencode(step.path)
    owner = users.owner(users.reader(view), step.user) if step.user else None
    made = clamp if clamp is not None else _time_above(view, path)
    for placed in make_path(view, path, owner, made):
        maker.add(placed.entry)


def _time_above(view: RootView, path: bytes) -> int:
    """Return the time of the nearest directory that exists, 0 at the root."""
    at = resolve(view.lstat, path)
    while at:
        entry = view.lstat(at)
        if entry is not None:
            return entry.mtime
        at = at.rpartition(b"/")[0]
    return 0
