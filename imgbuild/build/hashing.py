"""Digests of what COPY and ADD selected: content, and the metadata that reaches the layer.

A file's content is read once; a memo keyed by its stat makes the next look cost one stat.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from imgbuild.build.context import ContextTree
from imgbuild.build.copyrules import Selected, Source
from imgbuild.errors import ContextError
from imgbuild.layer.entry import Entry, ImagePath
from imgbuild.oci.digest import Digest, digest_bytes

_CHUNK = 1 << 20


# device, inode, size, mtime_ns, ctime_ns
FileKey = tuple[int, int, int, int, int]


class Fact(NamedTuple):
    """What had to be read of a file."""

    digest: Digest
    xattrs: Mapping[str, bytes]


class StatMemo(Protocol):
    """Remembers the digest of a file by its stat; `store.cache.StepCache` is one.

    `put_many` leaves out what changed so short before `get_many` that it could change again
    without its times showing it.
    """

    def get_many(self, keys: Sequence[FileKey]) -> Mapping[FileKey, Digest]: ...
    def put_many(self, digests: Mapping[FileKey, Digest]) -> None: ...


_NO_XATTRS: Mapping[str, bytes] = {}
_EMPTY = digest_bytes(b"")


def read_facts(
    tree: ContextTree, paths: Iterable[ImagePath], memo: StatMemo
) -> dict[ImagePath, Fact]:
    """Return digest and attributes of each file; files that changed meanwhile raise `ContextError`."""
    wanted: dict[ImagePath, FileKey] = {path: tree.identity(path) for path in paths}
    known = memo.get_many(list(wanted.values())) if wanted else {}
    facts: dict[ImagePath, Fact] = {}
    fresh: dict[FileKey, Digest] = {}
    try:
        for path, key in wanted.items():
            digest = known.get(key)
            if digest is not None:
                facts[path] = Fact(digest, _NO_XATTRS)
                continue
            facts[path] = fact = _read_file(tree, path)
            # What has attributes is read each time: the memo has no place for them.
            if not fact.xattrs:
                fresh[key] = fact.digest
    finally:
        if fresh:
            memo.put_many(fresh)
    return facts


def _read_file(tree: ContextTree, path: ImagePath) -> Fact:
    with tree.open(path) as stream:
        fd = stream.fileno()
        xattrs = read_xattrs(fd)
        digest = _digest(fd)
        tree.check(path, fd)
    return Fact(digest, xattrs)


def _digest(fd: int) -> Digest:
    data = os.read(fd, _CHUNK)
    if not data:
        return _EMPTY
    state = hashlib.sha256(data)
    while data := os.read(fd, _CHUNK):
        state.update(data)
    return Digest("sha256:" + state.hexdigest())


def read_xattrs(fd: int) -> Mapping[str, bytes]:
    """Return the extended attributes that layers keep; none where the file system has none."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return _NO_XATTRS
    if not names:
        return _NO_XATTRS
    from imgbuild.layer.xattrs import keep

    out = {}
    for name in sorted(names):
        if keep(name):
            try:
                out[name] = os.getxattr(fd, name)
            except OSError as problem:
                raise ContextError(f"cannot read attribute {name}: {problem.strerror}") from None
    return out or _NO_XATTRS


def apply_facts(sources: Sequence[Source], facts: Mapping[ImagePath, Fact]) -> list[Source]:
    """Return `sources` with digests and attributes filled in."""
    if not facts:
        return list(sources)

    def filled(path: ImagePath, e: Entry) -> Entry:
        fact = facts.get(path)
        if fact is None:
            return e
        return Entry(
            e.path, e.type, e.mode, e.uid, e.gid, e.mtime, e.size, e.linkname, e.rdev,
            fact.xattrs, fact.digest,
        )  # fmt: skip

    return [
        Source(
            Selected(s.selected.name, s.selected.path, filled(s.selected.path, s.selected.entry)),
            tuple(b._replace(entry=filled(b.path, b.entry)) for b in s.below),
            s.unpacked,
        )
        for s in sources
    ]


def content_digest(sources: Iterable[Source], facts: Mapping[ImagePath, Fact]) -> Digest:
    """Return one digest of all that reaches the layer but for times.

    The name and the metadata of a selected directory itself do not: its content is copied.
    """
    state = hashlib.sha256(b"imgbuild sources 1\0")
    for source in sources:
        name, path, entry = source.selected
        if entry.type == "dir":
            state.update(b"dir\0%d\0" % len(source.below))
        else:
            state.update(b"one\0" + _record(name, path, entry, facts))
        base = len(path) + 1 if path else 0
        for rel, below_path, below, _ in source.below:
            state.update(_record(rel, below_path, below, facts, base))
    return Digest("sha256:" + state.hexdigest())


def _record(
    name: bytes, path: ImagePath, e: Entry, facts: Mapping[ImagePath, Fact], base: int = 0
) -> bytes:
    """Frame what is known of one path: every field ends with a NUL, which none contains."""
    fact = facts.get(path)
    digest = fact.digest if fact else e.digest or ""
    xattrs = fact.xattrs if fact else e.xattrs
    # Links name a path of the source; how the source is called must not matter.
    link = e.linkname[base:] if e.type == "hardlink" else e.linkname
    rdev = b"%d,%d" % e.rdev if e.rdev else b""
    extra = _xattr_digest(xattrs) if xattrs else b""
    size = e.size if e.type == "file" else 0
    return b"%b\0%b\0%o\0%d\0%d\0%d\0%b\0%b\0%b\0%b\0" % (
        name, e.type.encode(), e.mode, e.uid, e.gid, size, link, rdev, digest.encode(), extra,
    )  # fmt: skip


def _xattr_digest(xattrs: Mapping[str, bytes]) -> bytes:
    state = hashlib.sha256()
    for name in sorted(xattrs):
        state.update(b"%b\0%d\0%b" % (name.encode(), len(xattrs[name]), xattrs[name]))
    return state.hexdigest().encode()
