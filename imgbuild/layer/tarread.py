"""A streaming reader of tar archives that expects them to be damaged or hostile.

It understands ustar, V7, star, GNU long names and PAX, as Go's archive/tar does, which decides
what an image means elsewhere; what has no meaning in an image is refused, not guessed. It
never touches a file: names come out as plain relative paths, and what they do is the caller's.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from imgbuild.errors import ImageError
from imgbuild.layer import pax, ustar, whiteouts, xattrs
from imgbuild.layer.entry import Entry, ImagePath, quoted
from imgbuild.layer.stream import CHUNK, Readable
from imgbuild.oci.digest import Digest

_Plain = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo"]
_TYPES: dict[bytes, _Plain] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
}
_EMPTY_DIGEST = Digest("sha256:" + hashlib.sha256().hexdigest())
LONGEST_NAME = 255  # bytes, on every Linux file system
# Global records, which every entry gets, and each costs time there.
_MOST_GLOBAL = 1024
_EXTENSIONS = {b"x", b"X", b"g", b"L", b"K"}


class Limits(NamedTuple):
    """What an archive may cost: far above any image, far below what hurts.

    `total` is the archive's size in bytes, `header` of one PAX header or long name; `path`
    is the length of a name in bytes, `depth` the number of its components. The writer keeps to
    the same limits, so that nothing is written that could not be read again.
    """

    entries: int = 1_000_000
    total: int = 1 << 40
    header: int = 1 << 20
    path: int = 4096
    depth: int = 1024


class Content:
    """The content of one entry; valid until the next entry is asked for.

    `digest` is of the content once it was read to its end; None before, and for archives
    that are read without hashing.
    """

    def __init__(self, source: "_Source", size: int, *, hashed: bool) -> None:
        self._source = source
        self._left = size
        self._padding = -size % ustar.BLOCK
        self._hash = hashlib.sha256() if hashed else None
        self.digest: Digest | None = None

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        data = self._source.some(min(size, self._left)) if self._left else b""
        self._left -= len(data)
        if self._hash is not None:
            self._hash.update(data)
            if not self._left:
                self.digest = Digest("sha256:" + self._hash.hexdigest())
                self._hash = None
        return data

    def drain(self) -> None:
        """Read the rest."""
        while self.read(CHUNK):
            pass

    def leave(self) -> None:
        """Skip the rest and the padding; nothing more can be read."""
        self._hash = None
        self._source.skip(self._left + self._padding)
        self._left = self._padding = 0


def _truncated() -> ImageError:
    return ImageError(
        "the archive is truncated", hint="fetch or make it again; nothing of it was kept"
    )


class _Source:
    """The stream with a count of what was read; an early end is an `ImageError`."""

    def __init__(self, stream: Readable, total: int) -> None:
        self._read = stream.read
        self._total = total
        self.offset = 0

    def some(self, size: int) -> bytes:
        data = self._read(min(size, CHUNK))
        if not data and size:
            raise _truncated()
        self.offset += len(data)
        if self.offset > self._total:
            raise ImageError(
                f"the archive is larger than {self._total} bytes",
                hint="if it is not a decompression bomb, split the layer",
            )
        return data

    def exactly(self, size: int) -> bytes:
        data = self.some(size)
        while len(data) < size:
            data += self.some(size - len(data))
        return data

    def up_to(self, size: int) -> bytes:
        """Return what is left when that is less than `size` bytes."""
        data = b""
        while len(data) < size and (more := self._read(size - len(data))):
            data += more
        self.offset += len(data)
        return data

    def skip(self, size: int) -> None:
        while size:
            size -= len(self.some(size))

    def drain(self) -> None:
        """Read what follows the archive's end, so that a verifying stream sees its own."""
        while data := self._read(CHUNK):
            self.offset += len(data)
            if self.offset > self._total:
                raise ImageError(f"the archive is larger than {self._total} bytes")


class _Names:
    """The values that extension headers give to the next entry, and to all that follow."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._global: dict[bytes, bytes] = {}
        self._next: dict[bytes, bytes] = {}
        self._taken = 0  # bytes since the last entry

    def take(self, source: _Source, header: ustar.Header) -> None:
        if header.size > self._limits.header:
            raise ImageError(f"the archive has an extension header of {header.size} bytes")
        self._taken += header.size
        if self._taken > 2 * self._limits.header:
            raise ImageError("the archive has extension headers without end")
        body = source.exactly(header.size) if header.size else b""
        source.skip(-header.size % ustar.BLOCK)
        if header.flag == b"L":
            self._next[b"path"] = body.partition(b"\0")[0]
        elif header.flag == b"K":
            self._next[b"linkpath"] = body.partition(b"\0")[0]
        elif header.flag == b"g":
            self._global.update(pax.parse(body))
            held = sum(len(k) + len(v) for k, v in self._global.items())
            if held > self._limits.header or len(self._global) > _MOST_GLOBAL:
                raise ImageError("the archive has global PAX headers without end")
        else:
            self._next.update(pax.parse(body))

    @property
    def pending(self) -> bool:
        """Tell whether an entry must follow."""
        return bool(self._next)

    def pop(self) -> dict[bytes, bytes]:
        """Return the values for one entry; an empty value means that there is none."""
        self._taken = 0
        if not self._global and not self._next:
            return self._next
        values = {k: v for k, v in (self._global | self._next).items() if v}
        self._next = {}
        return values


def read_tar(
    stream: Readable,
    limits: Limits | None = None,
    *,
    hashed: bool = True,
    markers: bool = True,
) -> Iterator[tuple[Entry, Content]]:
    """Yield the entries of an uncompressed tar as they come, and read the stream to its end.

    Whiteouts and opaque markers come out as entries of those types; the root itself, which
    many archives hold as `./`, has the path b"". Entries may repeat: the last one counts.
    Without `markers`, as in an archive that is no layer, such names mean nothing.
    Raises `ImageError` for whatever is wrong with the archive.
    """
    limits = limits or Limits()
    source = _Source(stream, limits.total)
    names = _Names(limits)
    count = 0
    while (header := _next_header(source)) is not None:
        if header.flag in _EXTENSIONS:
            names.take(source, header)
            continue
        count += 1
        if count > limits.entries:
            raise ImageError(f"the archive has more than {limits.entries} entries")
        entry, size = _entry(header, names.pop(), source.offset, limits, markers=markers)
        content = Content(source, size, hashed=hashed and size > 0)
        if entry is not None:
            if entry.type == "file" and not size:
                content.digest = _EMPTY_DIGEST
            yield entry, content
        content.leave()
    if names.pending:
        raise _truncated()
    source.drain()


def scan(
    stream: Readable,
    index: Callable[[Entry], object],
    limits: Limits | None = None,
    *,
    markers: bool = True,
) -> None:
    """Give `index` every entry of an uncompressed tar, with the digests of all files."""
    for entry, content in read_tar(stream, limits, markers=markers):
        if entry.type != "file":
            index(entry)
            continue
        content.drain()
        index(
            Entry(
                entry.path,
                "file",
                entry.mode,
                entry.uid,
                entry.gid,
                entry.mtime,
                entry.size,
                xattrs=entry.xattrs,
                digest=content.digest,
                offset=entry.offset,
            )
        )


def _next_header(source: _Source) -> ustar.Header | None:
    block = source.up_to(ustar.BLOCK)
    if not block:
        # Go's archive/tar takes an end without zero blocks, and layers like that are in use; what
        # was cut at just such a place is found by its digest.
        return None
    if len(block) < ustar.BLOCK:
        raise _truncated()
    if block != ustar.ZEROS:
        return ustar.parse(block)
    # GNU tar and Go both take a lone zero block before the end of the stream.
    if source.up_to(ustar.BLOCK).strip(b"\0"):
        raise ImageError("the archive goes on after its end", hint="it is damaged")
    return None


def _entry(
    header: ustar.Header, extra: dict[bytes, bytes], offset: int, limits: Limits, *, markers: bool
) -> tuple[Entry | None, int]:
    """Return the entry (None for what says nothing) and the bytes that follow its header."""
    if header.flag == b"V":  # a volume's name
        return None, header.size
    if header.flag == b"S" or any(key.startswith(b"GNU.sparse.") for key in extra):
        raise ImageError(
            f"the archive holds {quoted(header.name)} as a sparse file, which is not supported",
            hint="make the archive without --sparse",
        )
    kind = _TYPES.get(header.flag)
    if kind is None:
        raise ImageError(f"the archive has an entry of unknown type {quoted(header.flag)}")
    raw_name = extra.get(b"path", header.name)
    if kind == "file" and raw_name.endswith(b"/"):  # how V7 wrote directories
        kind = "dir"
    path = _path(raw_name, limits)
    # Other types have no content, whatever the size says (archive/tar, isHeaderOnly).
    size = 0
    if kind == "file":
        size = pax.number(extra[b"size"], "size") if b"size" in extra else header.size
        if offset + size > limits.total:
            raise ImageError(f"the archive says that {quoted(path)} has {size} bytes")
    marker = whiteouts.read_marker(path) if markers else None
    if marker is not None:
        if marker.type == "skip":
            return None, size
        return Entry(marker.path, marker.type, mode=0), size
    if not path and kind != "dir":
        raise ImageError(f"the archive has a {kind} where the root directory must be")
    uid = pax.number(extra[b"uid"], "uid") if b"uid" in extra else header.uid
    gid = pax.number(extra[b"gid"], "gid") if b"gid" in extra else header.gid
    if max(uid, gid) >= 0xFFFFFFFF:  # the last one means "no change" to chown
        raise ImageError(f"the archive says that {quoted(path)} belongs to {uid}:{gid}")
    entry = Entry(
        path,
        kind,
        header.mode,
        uid,
        gid,
        pax.seconds(extra[b"mtime"]) if b"mtime" in extra else header.mtime,
        size,
        _link(kind, path, extra.get(b"linkpath", header.link), limits, markers=markers),
        header.rdev if kind in {"char", "block"} else None,
        _xattrs(extra) if extra else {},
        None,
        offset if kind == "file" else 0,
    )
    return entry, size


def _path(name: bytes, limits: Limits) -> ImagePath:
    """Return `name` relative and without needless parts; b"" for the root."""
    if not name or b"\0" in name or len(name) > limits.path:
        raise ImageError(f"the archive has an illegal name: {quoted(name[:80])}")
    parts = [part for part in name.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise ImageError(
            f"the archive has a name that leads out of it: {quoted(name)}",
            hint="this is how hostile archives attack; get it from somewhere else",
        )
    if len(parts) > limits.depth or any(map(_too_long, parts)):
        raise ImageError(f"the archive has a name too deep or too long: {quoted(name[:80])}")
    return b"/".join(parts)


def _too_long(part: bytes) -> bool:
    """Tell whether no file can have this name; a marker's is longer than what it marks."""
    return len(part.removeprefix(whiteouts.PREFIX)) > LONGEST_NAME


def _link(kind: _Plain, path: ImagePath, link: bytes, limits: Limits, *, markers: bool) -> bytes:
    if kind == "hardlink":
        target = _path(link, limits)
        if not target or (markers and whiteouts.is_reserved(target)):
            raise ImageError(f"the archive links {quoted(path)} to {quoted(link)}")
        return target
    if kind != "symlink":
        return b""
    if not link or b"\0" in link or len(link) >= limits.path:
        raise ImageError(
            f"the archive has an illegal symlink {quoted(path)} to {quoted(link[:80])}"
        )
    return link


def _xattrs(extra: dict[bytes, bytes]) -> dict[str, bytes]:
    found = {}
    for key, value in extra.items():
        if key.startswith(pax.XATTR_PREFIX):
            name = key[len(pax.XATTR_PREFIX) :].decode("utf-8", "surrogateescape")
            if xattrs.keep(name):
                found[name] = value
    return found
