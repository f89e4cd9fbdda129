"""Digests of what COPY and ADD selected: content, and the metadata that reaches the layer.

A file's content is read once; a memo keyed by its stat makes the next look cost one stat.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

from imgbuild.build.context import ContextTree, wanted
from imgbuild.build.copyrules import Source
from imgbuild.build.filereader import HASH, XATTRS, Wanted
from imgbuild.build.listing import Item
from imgbuild.build.readers import batched, expected
from imgbuild.layer.entry import ImagePath
from imgbuild.oci.digest import Digest
from imgbuild.store.filememo import FileKey

_SIZE = 32
_CHUNK = 4096


class StatMemo(Protocol):
    """Remembers the sha256 of a file by its stat; `store.cache.StepCache` is one.

    `before` is when the files were looked at, in nanoseconds since 1970: what changed so short
    before that it could change again without its times showing it is left out.
    """

    def get_many(self, keys: Sequence[FileKey]) -> Mapping[FileKey, bytes]: ...
    def put_many(self, digests: Mapping[FileKey, bytes], before: int) -> None: ...


class Facts:
    """What was read of the files of a step, by the numbers that their sources give them."""

    def __init__(self, count: int) -> None:
        # 32 bytes a file, where an object would take five times as much.
        self._digests = bytearray(_SIZE * count)
        self._known = bytearray(count)
        self.count = 0  # of files that were read
        self.xattrs: dict[int, Mapping[str, bytes]] = {}

    def set(self, number: int, digest: bytes, xattrs: Mapping[str, bytes] | None) -> None:
        self._digests[number * _SIZE : number * _SIZE + _SIZE] = digest
        self.count += not self._known[number]
        self._known[number] = 1
        if xattrs:
            self.xattrs[number] = xattrs

    def digest(self, number: int) -> bytes | None:
        """Return the sha256 of a file's content, None when it was not read."""
        if not self._known[number]:
            return None
        return bytes(self._digests[number * _SIZE : number * _SIZE + _SIZE])


class Numbered(NamedTuple):
    """A file that has to be read; `number` is what `Facts` knows it by."""

    number: int
    path: ImagePath
    item: Item


def read_facts(
    tree: ContextTree, sources: Iterable[Source], facts: Facts, memo: StatMemo, begun: int
) -> None:
    """Fill `facts` with what is not known yet of the files of `sources`, all of which are in `tree`.

    `begun` is when they were looked at, in nanoseconds since 1970. Raises `ContextError` for files that changed meanwhile.
    """
    unknown = (one for one in files(sources) if facts.digest(one.number) is None)
    while chunk := list(islice(unknown, _CHUNK)):
        _read_chunk(tree, chunk, facts, memo, begun)


def remember(sources: Iterable[Source], facts: Facts, memo: StatMemo, begun: int) -> None:
    """Tell the memo what is known of the files of `sources`."""
    fresh: dict[FileKey, bytes] = {}
    for number, _, item in files(sources):
        digest = facts.digest(number)
        if digest is not None and number not in facts.xattrs:
            fresh[file_key(item)] = digest
        if len(fresh) >= _CHUNK:
            memo.put_many(fresh, begun)
            fresh = {}
    memo.put_many(fresh, begun)


def files(sources: Iterable[Source]) -> Iterator[Numbered]:
    """Yield the files of this machine among `sources`; sockets and the like have no content."""
    for source in sources:
        if source.item.type == "file" and source.item.stat:
            yield Numbered(source.number, source.path, source.item)
        prefix = source.path + b"/" if source.path else b""
        for number, item in enumerate(source.below, source.number + 1):
            if item.type == "file" and item.stat:
                yield Numbered(number, prefix + item.rel, item)


def _read_chunk(
    tree: ContextTree, chunk: Sequence[Numbered], facts: Facts, memo: StatMemo, begun: int
) -> None:
    known = memo.get_many([file_key(one.item) for one in chunk])
    missing: list[tuple[Numbered, Wanted]] = []
    for one in chunk:
        digest = known.get(file_key(one.item))
        if digest is not None:
            facts.set(one.number, digest, None)
        else:
            missing.append((one, wanted(one.path, one.item)))
    fresh: dict[FileKey, bytes] = {}
    cost = expected(len(missing), sum(one.item.size for one, _ in missing))
    try:
        for batch, read in tree.read(batched(missing), HASH | XATTRS, cost):
            for one, (raw, xattrs) in zip(batch, read.facts, strict=True):
                assert raw is not None  # noqa: S101  it was asked for
                facts.set(one.number, raw, xattrs)
                if not xattrs:
                    # What has attributes is read each time: the memo has no place for them.
                    fresh[file_key(one.item)] = raw
    finally:
        if fresh:
            memo.put_many(fresh, begun)


def file_key(item: Item) -> FileKey:
    dev, ino, mtime_ns, ctime_ns = item.stat or (0, 0, 0, 0)
    return (dev, ino, item.size, mtime_ns, ctime_ns)


def as_digest(raw: bytes) -> Digest:
    return Digest("sha256:" + raw.hex())


def content_digest(sources: Iterable[Source], facts: Facts | None = None) -> Digest:
    """Return one digest of all that reaches the layer but for times.

    The name and the metadata of a selected directory itself do not: its content is copied.
    `facts` tells the digests of files of this machine; entries of images bring theirs.
    """
    state = hashlib.sha256(b"imgbuild sources 2\0")
    for source in sources:
        item = source.item
        if item.type == "dir":
            state.update(b"dir\0%d\0" % len(source.below))
        else:
            record = _record(source.name, item, source.number, facts, b"")
            state.update(b"one\0" + record)
        firsts: dict[bytes, int] = {}
        numbered = enumerate(source.below, source.number + 1)
        while chunk := list(islice(numbered, _CHUNK)):
            records = []
            for number, below in chunk:
                link = below.link
                if below.group:
                    # Which of the others it is one file with; how it is known does not matter.
                    first = firsts.setdefault(below.group, number)
                    link = b"%d" % (first - source.number) if first != number else b""
                records.append(_record(below.rel, below, number, facts, link))
            state.update(b"".join(records))
    return Digest("sha256:" + state.hexdigest())


def _record(name: bytes, i: Item, number: int, facts: Facts | None, link: bytes) -> bytes:
    """Frame what is known of one path: every field ends with a NUL, which none contains."""
    digest = b""
    xattrs = i.xattrs
    if i.type == "file":
        raw = facts.digest(number) if facts else None
        if raw is not None and facts is not None:
            digest, xattrs = raw.hex().encode(), facts.xattrs.get(number)
        elif i.digest:
            digest = i.digest.removeprefix("sha256:").encode()
    rdev = b"%d,%d" % i.rdev if i.rdev else b""
    extra = _xattr_digest(xattrs) if xattrs else b""
    return b"%b\0%b\0%o\0%d\0%d\0%d\0%b\0%b\0%b\0%b\0" % (
        name, i.type.encode(), i.mode, i.uid, i.gid, i.size, link, rdev, digest, extra,
    )  # fmt: skip


def _xattr_digest(xattrs: Mapping[str, bytes]) -> bytes:
    state = hashlib.sha256()
    for name in sorted(xattrs):
        state.update(b"%b\0%d\0%b" % (name.encode(), len(xattrs[name]), xattrs[name]))
    return state.hexdigest().encode()
