"""The sources of one COPY or ADD together: where each comes from, and what is known of its content."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import BinaryIO, NamedTuple

from imgbuild.build.context import ContextTree
from imgbuild.build.copyrules import Placed, Source, show
from imgbuild.build.hashing import Facts, StatMemo, content_digest, read_facts, remember
from imgbuild.build.listing import Listing
from imgbuild.build.readers import expected
from imgbuild.build.sources import FileSource
from imgbuild.errors import ContextError
from imgbuild.layer.entry import ImagePath
from imgbuild.oci.digest import Digest
from imgbuild.store.cache import is_settled


class Part(NamedTuple):
    """Sources of one tree. `unpack` tells that archives among them are unpacked.

    `identity` stands for the content of a tree that was made anew for this build, so that the
    times of its files tell nothing: where it is the same, so are they.
    """

    tree: FileSource
    sources: Sequence[Source]
    unpack: bool = False
    identity: str = ""


class Gathered:
    """Sources of several trees, numbered through.

    `parts` has the part of each source, `trees` its tree. `begun` is when the first of them was looked at, in
    nanoseconds since 1970.
    """

    def __init__(self, parts: Sequence[Part], begun: int) -> None:
        self._begun = begun
        self.sources: list[Source] = []
        self.parts: list[Part] = []
        self.trees: list[FileSource] = []
        number = 0
        for part in parts:
            for source in part.sources:
                self.sources.append(source._replace(number=number))
                self.parts.append(part)
                self.trees.append(part.tree)
                number += 1 + len(source.below)
        self.count = number
        self.facts = Facts(number)
        self._files = sum(map(_files, self.sources))

    @property
    def expected(self) -> int:
        """What reading all costs, as `readers.expected` counts."""
        return expected(self.count, sum(map(_bytes, self.sources)))

    @property
    def is_known(self) -> bool:
        """Whether the facts about all files were read."""
        return self.facts.count >= self._files

    def path(self, placed: Placed) -> ImagePath:
        """Return where the content of something that was placed is in its tree."""
        source = self.sources[placed.source]
        if placed.item is None or placed.number == source.number:
            return source.path
        return source.path + b"/" + placed.item.rel if source.path else placed.item.rel

    @contextmanager
    def open(self, number: int) -> Iterator[BinaryIO]:
        """Open a source that is a file, by its place; raise `ContextError` when it changed meanwhile."""
        source, tree = self.sources[number], self.trees[number]
        with tree.open(source.path) as stream:
            yield stream
            if isinstance(tree, ContextTree) and source.item.stat:
                tree.check(stream, source.path, source.item)

    def fingerprint(self) -> str:
        """Return what is the same only as long as no file among the sources has changed."""
        state = sha256()
        for source, part in zip(self.sources, self.parts, strict=True):
            if part.identity:
                state.update(repr((source.name, source.path, part.identity)).encode())
                continue
            state.update(repr((source.name, source.path, tuple(source.item))).encode())
            if isinstance(source.below, Listing):
                state.update(source.below.fingerprint.encode())
        return state.hexdigest()

    @property
    def is_settled(self) -> bool:
        """Whether no file can have changed since it was looked at without its times showing it."""
        latest = 0
        for source, part in zip(self.sources, self.parts, strict=True):
            if part.identity:
                continue
            if source.item.stat:
                latest = max(latest, *source.item.stat[2:])
            if isinstance(source.below, Listing):
                latest = max(latest, source.below.latest_ns)
        return is_settled(latest, self._begun)

    def learn(self, memo: StatMemo) -> None:
        """Read the digests of all files that are not known yet; raise `ContextError`."""
        self._check_sizes()
        if self.is_known:
            return
        for tree in dict.fromkeys(self.trees):
            if isinstance(tree, ContextTree):
                own = [s for s, t in zip(self.sources, self.trees, strict=True) if t is tree]
                read_facts(tree, own, self.facts, memo, self._begun)

    def _check_sizes(self) -> None:
        """Refuse a file that no layer can hold before it is read for hours."""
        from imgbuild.layer.tarread import Limits

        most = Limits().total
        for source in self.sources:
            if _bytes(source) <= most:
                continue
            for item in (source.item, *source.below):
                if item.size > most:
                    path = source.path + b"/" + item.rel if item.rel else source.path
                    raise ContextError(
                        f"a layer cannot hold {show(path)}: it has {item.size} bytes",
                        hint="a sparse file counts with its whole length; ignore or remove it",
                    )

    def remember(self, memo: StatMemo) -> None:
        """Tell the memo all that is known of files."""
        remember(self.sources, self.facts, memo, self._begun)

    def digest(self) -> Digest:
        """Return the digest of all that reaches the layer; everything has to be known."""
        return content_digest(self.sources, self.facts)


def _files(source: Source) -> int:
    below = source.below.files if isinstance(source.below, Listing) else 0
    return below + (source.item.type == "file" and source.item.stat is not None)


def _bytes(source: Source) -> int:
    return source.below.bytes if isinstance(source.below, Listing) else source.item.size
