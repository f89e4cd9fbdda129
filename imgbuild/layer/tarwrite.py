"""The only writer of layer tars: the same entries give the same bytes, whoever runs it.

ustar headers, PAX only for what ustar cannot hold, no names of users, no access or change
times, whiteouts as `.wh.` files. BuildKit writes no opaque markers, and neither do we.
"""

import hashlib
import re
from collections.abc import Callable, Iterable

from imgbuild.errors import ImageError
from imgbuild.layer import pax, ustar, whiteouts, xattrs
from imgbuild.layer.entry import Entry, ImagePath, quoted
from imgbuild.layer.stream import CHUNK, Readable
from imgbuild.layer.tarread import LONGEST_NAME, Limits
from imgbuild.oci.digest import Digest

_FLAGS = {
    "file": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
    "whiteout": b"0",
}
# A component that names nothing, or not what it stands in.
_NO_NAME = re.compile(rb"(?:^|/)\.{0,2}(?:/|\Z)")
# What is not the plain path of nearly every entry: as above, or with a NUL, or a reserved name.
_SPECIAL = re.compile(rb"(?:^|/)(?:\.{0,2}(?:/|\Z)|\.wh\.)|\0")
_PADDING = tuple(map(bytes, range(ustar.BLOCK)))
# Small files are handed on in pieces of about this many bytes.
_HELD = 256 << 10
_EMPTY_DIGEST = Digest("sha256:" + hashlib.sha256().hexdigest())


class TarWriter:
    """Write entries as they come; they must come in ascending order of `sort_key`.

    `write` takes the bytes of the archive. `index` gets every entry as it was written, with
    the digest and the offset of its content. `clamp` is the latest time an entry may have,
    in seconds since 1970.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        index: Callable[[Entry], object] | None = None,
        clamp: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._out = write
        self._parts: list[bytes] = []
        self._held = 0
        self._index = index
        self._clamp = clamp
        self._limits = limits or Limits()
        self._offset = 0
        self._entries = 0
        self._last = b""
        # What is no longer than this breaks no limit: each component takes a byte and a slash.
        room = self._limits.path - len(whiteouts.PREFIX) - 1
        self._short = min(LONGEST_NAME, room, 2 * self._limits.depth - 1)
        self._numbers: dict[tuple[int, int, int], bytes] = {}

    def add(
        self, entry: Entry, content: Readable | None = None, *, vouched: bool = False
    ) -> Digest | None:
        """Write one entry and return a file's digest; `content` must hold exactly `entry.size` bytes.

        Raises `ImageError` when it holds more, less, or other content than `entry.digest`
        says, and for what no layer can hold; `ValueError` for entries out of order. With
        `vouched` the caller makes sure that the content has `entry.digest`: it is not hashed again.
        """
        mtime = self._begin(entry)
        if entry.type == "whiteout":
            entry = Entry(entry.path, "whiteout", mode=0)
        offset, digest = 0, None
        if entry.type == "file":
            offset = self._offset
            digest = self._add_file(entry, content, entry.digest if vouched else None)
        self._note(entry, mtime, digest, offset)
        return digest

    def add_files(self, files: Iterable[tuple[Entry, bytes, Digest]]) -> None:
        """Write files with their contents and digests, for which the caller vouches."""
        index, parts = self._index, self._parts
        for entry, data, digest in files:
            size = len(data)
            if size != entry.size or entry.type != "file":
                raise _changed(entry.path, f"has {size} bytes, not {entry.size}")
            mtime = self._begin(entry)
            if index is not None:
                index(Entry(*entry[:5], mtime, *entry[6:10], digest, self._offset))
            parts.append(data)
            if padding := -size % ustar.BLOCK:
                parts.append(_PADDING[padding])
            self._offset += size + padding
            self._held += size + padding
            if self._held >= _HELD:
                self._flush()

    def _begin(self, entry: Entry) -> int:
        """Write the header of an entry and return its time."""
        self._check(entry)
        if entry.type == "whiteout":
            entry = Entry(entry.path, "whiteout", mode=0)
        mtime = entry.mtime if self._clamp is None else min(entry.mtime, self._clamp)
        head = self._file_header(entry, mtime) or _headers(entry, mtime)
        self._parts.append(head)
        self._held += len(head)
        self._offset += len(head)
        return mtime

    def _note(self, entry: Entry, mtime: int, digest: Digest | None, offset: int) -> None:
        if self._index is not None:
            self._index(Entry(*entry[:5], mtime, *entry[6:10], digest, offset))

    def finish(self) -> None:
        """Write the end of the archive."""
        self._write(bytes(2 * ustar.BLOCK))
        self._flush()

    def _write(self, data: bytes) -> None:
        """Write what is small together with what comes after it."""
        self._parts.append(data)
        self._held += len(data)
        if self._held >= _HELD:
            self._flush()

    def _flush(self) -> None:
        self._out(b"".join(self._parts))
        self._parts.clear()
        self._held = 0

    def _file_header(self, entry: Entry, mtime: int) -> bytes | None:
        """Return the header of a file that needs no PAX header; None for anything else."""
        if (
            entry.type != "file"
            or entry.xattrs
            or not 0 <= mtime <= ustar.MAX_SIZE
            or not entry.size <= ustar.MAX_SIZE
        ):
            return None
        split = ustar.split_name(entry.path)
        if split is None:
            return None
        key = (entry.mode, entry.uid, entry.gid)
        numbers = self._numbers.get(key)
        if numbers is None:
            if not (0 <= entry.uid <= ustar.MAX_ID and 0 <= entry.gid <= ustar.MAX_ID):
                return None
            numbers = ustar.file_numbers(entry.mode & 0o7777, entry.uid, entry.gid)
            self._numbers[key] = numbers
        return ustar.pack_file(split[0], split[1], numbers, entry.size, mtime)

    def _check(self, entry: Entry) -> None:
        path = entry.path
        key = path.replace(b"/", b"\0")  # `sort_key`, without a call
        if (
            key <= self._last
            or _SPECIAL.search(path)
            or entry.size < 0
            or (entry.type != "file" and (entry.size or entry.type not in _FLAGS))
        ):
            self._refuse(entry)
        self._check_limits(entry)
        self._last = key

    def _refuse(self, entry: Entry) -> None:
        """Say what is wrong with an entry."""
        path = entry.path
        if b"\0" in path or _NO_NAME.search(path):
            raise ValueError(f"not a path inside an image: {path!r}")
        if entry.type not in _FLAGS:
            raise ValueError(f"layers are written without {entry.type} entries: {path!r}")
        if whiteouts.is_reserved(path):
            raise ImageError(
                f"a layer cannot hold {quoted(path)}: names that start with .wh. mark removed files",
                hint="rename or remove it, or have an ignore file leave it out of COPY",
            )
        if entry.size < 0 or (entry.type != "file" and entry.size):
            raise ValueError(f"{entry.type} {path!r} has size {entry.size}")
        raise ValueError(f"{path!r} comes after {self._last!r}")

    def _check_limits(self, entry: Entry) -> None:
        limits, path = self._limits, entry.path
        self._entries += 1
        if len(path) > self._short and (
            len(path) >= limits.path - len(whiteouts.PREFIX)
            or path.count(b"/") >= limits.depth
            or len(path) - path.rfind(b"/") - 1 > LONGEST_NAME
        ):
            raise ImageError(
                f"a layer cannot hold {quoted(entry.path[:80])}...: its name is too long or too deep",
                hint="shorten or remove it, or have an ignore file leave it out of COPY",
            )
        if self._entries > limits.entries:
            raise ImageError(f"a layer cannot hold more than {limits.entries} files")
        if self._offset + entry.size > limits.total:
            raise ImageError(
                f"a layer cannot hold {quoted(entry.path)}: with its {entry.size} bytes"
                f" the layer gets larger than {limits.total} bytes",
                hint="a sparse file counts with its whole length; remove it before the step ends, "
                "or have an ignore file leave it out of COPY",
            )

    def _add_file(self, entry: Entry, content: Readable | None, known: Digest | None) -> Digest:
        if content is None:
            if entry.size:
                raise ValueError(f"no content for {entry.path!r}")
            digest = _EMPTY_DIGEST
        elif entry.size < CHUNK:
            # One read and one hash for all small files: most files are.
            data = _read_small(entry, content)
            digest = known or Digest("sha256:" + hashlib.sha256(data).hexdigest())
            self._write_padded(data)
        else:
            digest = self._copy(entry, content, known)
        if entry.digest not in {None, digest}:
            raise _changed(entry.path, "has other content than when it was looked at")
        return digest

    def _write_padded(self, data: bytes) -> None:
        self._write(data)
        if padding := -len(data) % ustar.BLOCK:
            self._write(_PADDING[padding])
        self._offset += len(data) + padding

    def _copy(self, entry: Entry, content: Readable, known: Digest | None) -> Digest:
        hasher = None if known else hashlib.sha256()
        left = entry.size
        self._flush()
        while data := content.read(min(left + 1, CHUNK)):
            if len(data) > left:
                raise _changed(entry.path, "grew")
            left -= len(data)
            if hasher is not None:
                hasher.update(data)
            self._out(data)
        if left:
            raise _changed(entry.path, f"is {left} bytes shorter than it was")
        self._write(bytes(-entry.size % ustar.BLOCK))
        self._offset += entry.size + -entry.size % ustar.BLOCK
        if hasher is not None:
            return Digest("sha256:" + hasher.hexdigest())
        assert known is not None  # noqa: S101  what the caller vouches for is hashed by nobody
        return known


def _read_small(entry: Entry, content: Readable) -> bytes:
    # One byte past the end shows a file that grew.
    wanted = entry.size + 1
    data = content.read(wanted)
    while len(data) < entry.size:
        more = content.read(wanted - len(data))
        if not more:
            raise _changed(entry.path, f"is {entry.size - len(data)} bytes shorter than it was")
        data += more
    if len(data) > entry.size:
        raise _changed(entry.path, "grew")
    return data


def _changed(path: ImagePath, how: str) -> ImageError:
    return ImageError(
        f"{quoted(path)} changed while it was read: it {how}",
        hint="make sure that nothing writes to it during the build, then build again",
    )


def _headers(entry: Entry, mtime: int) -> bytes:
    """Return the ustar header of an entry, after a PAX header when it needs one."""
    records: dict[bytes, bytes] = {}
    name = entry.path
    if entry.type == "dir":
        name += b"/"
    elif entry.type == "whiteout":
        name = whiteouts.whiteout_name(name)
    split = ustar.split_name(name)
    if split is None:
        records[b"path"] = name
        split = ustar.to_ascii(name)[:100], b""
    link = entry.linkname
    if link and (len(link) > 100 or not link.isascii()):
        records[b"linkpath"] = link
        link = ustar.to_ascii(link)[:100]
    if entry.xattrs:
        _add_xattrs(entry, records)
    header = ustar.pack(
        split[0],
        entry.mode & 0o7777,
        _fit(entry.uid, ustar.MAX_ID, b"uid", records),
        _fit(entry.gid, ustar.MAX_ID, b"gid", records),
        _fit(entry.size, ustar.MAX_SIZE, b"size", records),
        _fit(mtime, ustar.MAX_SIZE, b"mtime", records),
        _FLAGS[entry.type],
        link,
        _device(entry),
        split[1],
    )
    return pax.pack(records, name) + header if records else header


def _fit(value: int, largest: int, key: bytes, records: dict[bytes, bytes]) -> int:
    if 0 <= value <= largest:
        return value
    if value < 0 and key != b"mtime":
        raise ValueError(f"{key.decode()} cannot be {value}")
    records[key] = b"%d" % value
    return 0


def _device(entry: Entry) -> tuple[int, int]:
    if entry.rdev is None or entry.type not in {"char", "block"}:
        return 0, 0
    if not all(0 <= number <= ustar.MAX_ID for number in entry.rdev):
        raise ImageError(f"tar cannot hold the device number of {quoted(entry.path)}: {entry.rdev}")
    return entry.rdev


def _add_xattrs(entry: Entry, records: dict[bytes, bytes]) -> None:
    for name, value in entry.xattrs.items():
        if not xattrs.keep(name):
            continue
        if "=" in name or "\0" in name:
            raise ImageError(
                f"tar cannot hold the extended attribute {name!r} of {quoted(entry.path)}"
            )
        if name == xattrs.CAPABILITY:
            value = xattrs.to_v2(value)  # noqa: PLW2901 - the rest of the loop wants it so
        records[pax.XATTR_PREFIX + name.encode("utf-8", "surrogateescape")] = value
