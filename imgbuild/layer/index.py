"""The index of a layer: its entries as a file, so that looking one up needs no unpacked layer.

JSON lines. The first holds the version; then one array an entry, in the order of the tar; the
last tells the diff id, the tar's size, the number of entries and the sha256 of all before it, and
shows that it is whole. It also tells of a plain layer, as nearly all are: paths ascend, and nothing
is below what is no directory.
Bytes are written as text with the bytes that are not UTF-8 as lone surrogates.
"""

import base64
import io
import json
import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, get_args

from imgbuild.errors import ImageError
from imgbuild.layer.entry import NO_XATTRS, Entry, EntryType, sort_key
from imgbuild.layer.stream import Readable, Writable, write_all
from imgbuild.oci.digest import Digest

if TYPE_CHECKING:
    from imgbuild.layer.sortedindex import SortedIndex

VERSION = 2
_HEADER = b'{"imgbuild-layer-index":%d}\n' % VERSION
_TYPES = frozenset(get_args(EntryType))
# What JSON writes as it is: no quotes, backslashes, control characters or bytes above ASCII.
_PLAIN = re.compile(rb"[ !#-\[\]-~]*")
# As many lines are written at once.
_LINES = 500
# What is larger is looked up in the file.
_LARGE = 1 << 20
_encode = json.JSONEncoder(separators=(",", ":")).encode


class IndexWriter:
    """Write an index to `stream`, which stays open."""

    def __init__(self, stream: Writable) -> None:
        self._stream = stream
        self._entries = 0
        self._whiteouts = 0
        self._size = 0
        self._hash = sha256()
        self._lines = [_HEADER]
        self.is_plain = True
        self._last = b""
        self._leaf = b"\0"  # what everything below the last entry that is no directory starts with

    def add(self, entry: Entry) -> None:
        self.add_line(sort_key(entry.path), entry.type, encode_entry(entry))

    def add_line(self, key: bytes, kind: str, line: bytes) -> None:
        """Add the line of an entry of type `kind`, whose path has that `sort_key`."""
        self._entries += 1
        self._lines.append(line)
        if self.is_plain:
            self._check(key, kind)
        if len(self._lines) >= _LINES:
            self._flush()

    def _check(self, key: bytes, kind: str) -> None:
        """See whether the layer is still plain."""
        ascends = key > self._last or self._entries == 1
        self.is_plain = ascends and kind != "opaque" and not key.startswith(self._leaf)
        self._last = key
        if kind != "dir":
            self._leaf = key + b"\0"
            self._whiteouts += kind == "whiteout"

    def _flush(self) -> None:
        data = b"".join(self._lines)
        self._lines.clear()
        self._size += len(data)
        self._hash.update(data)
        write_all(self._stream, data)

    def lookup(self, file: io.FileIO) -> "SortedIndex":
        """Return what looks entries up in `file`, the stream that was written to; it is plain."""
        from imgbuild.layer.sortedindex import SortedIndex

        self._flush()
        return SortedIndex(
            file, len(_HEADER), self._size, decode_lines, has_whiteouts=self._whiteouts > 0
        )

    def finish(self, diff_id: Digest, uncompressed_size: int) -> None:
        """Write the last line; a file without it is refused when read."""
        self._flush()
        trailer = {
            "diff_id": diff_id,
            "size": uncompressed_size,
            "entries": self._entries,
            "plain": self.is_plain,
            "whiteouts": self._whiteouts,
            "sha256": self._hash.hexdigest(),
        }
        self._lines.append(_encode(trailer).encode() + b"\n")
        self._flush()


def open_index(file: io.FileIO, diff_id: Digest) -> "list[Entry] | SortedIndex":
    """Return the index of the layer `diff_id`: the entries, or the open file when it is large.

    Raises what `read_index` raises; `file` is closed but for a `SortedIndex`.
    """
    if os.fstat(file.fileno()).st_size >= _LARGE:
        from imgbuild.layer.sortedindex import as_sorted

        found = as_sorted(file, _HEADER, decode_lines)
        if found is not None:
            index, trailer = found
            if trailer.get("diff_id") == diff_id:
                if index.digest() == trailer.get("sha256"):
                    return index
                index.close()
                raise _unusable(diff_id, "is damaged")
    with file:
        return read_index(file, diff_id)


def decode_lines(lines: bytes) -> list[Entry]:
    """Return the entries of lines as `encode_entry` makes them; raise `ImageError`."""
    try:
        return _decode(lines)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ImageError(
            f"the index of a layer is damaged: {error}", hint="reset the store: imgbuild reset"
        ) from error


def read_index(stream: Readable, diff_id: Digest) -> list[Entry]:
    """Return the entries of the layer `diff_id`.

    Raises `ImageError` for an index of another version or layer, and for a damaged one.
    """
    data = b"".join(iter(lambda: stream.read(1 << 24), b""))
    if not data.startswith(_HEADER):
        raise _unusable(diff_id, "is of another version")
    end = data.rfind(b"\n", 0, len(data) - 1) + 1
    try:
        trailer = json.loads(data[end:])
        if not data.endswith(b"\n") or trailer["diff_id"] != diff_id:
            raise _unusable(diff_id, "is truncated or of another layer")
        entries = _decode(data[len(_HEADER) : end])
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise _unusable(diff_id, f"is damaged ({error})") from error
    if trailer["entries"] != len(entries):
        raise _unusable(diff_id, "lacks entries")
    return entries


def encode_entry(entry: Entry) -> bytes:
    """Return the line of one entry."""
    if (
        entry.type == "file"
        and not (entry.xattrs or entry.linkname or entry.rdev)
        and _PLAIN.fullmatch(entry.path)
    ):
        # Nearly every entry is like this, and JSON takes six times as long to say the same.
        return b'["%b","file",%d,%d,%d,%d,%d,"",null,null,%b,%d]\n' % (
            entry.path, entry.mode, entry.uid, entry.gid, entry.mtime, entry.size,
            b'"%b"' % entry.digest.encode() if entry.digest else b"null", entry.offset,
        )  # fmt: skip
    return (
        _encode(
            [
                _text(entry.path),
                entry.type,
                entry.mode,
                entry.uid,
                entry.gid,
                entry.mtime,
                entry.size,
                _text(entry.linkname),
                entry.rdev,
                {name: base64.b64encode(value).decode() for name, value in entry.xattrs.items()}
                if entry.xattrs
                else None,
                entry.digest,
                entry.offset,
            ]
        ).encode()
        + b"\n"
    )


def decode_entry(line: bytes) -> Entry:
    """Return the entry of one line; raise `ImageError` when it is none."""
    try:
        return _decode(line)[0]
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ImageError(f"not an entry of a layer index: {line[:80]!r}") from error


def _decode(lines: bytes) -> list[Entry]:
    # One parse of all lines takes a third of the time of one parse a line.
    rows: list[Any] = json.loads(b"[%b]" % lines.rstrip(b"\n").replace(b"\n", b","))
    entries = []
    for path, kind, mode, uid, gid, mtime, size, link, rdev, xattrs, digest, offset in rows:
        if kind not in _TYPES:
            raise ValueError(kind)
        entries.append(
            Entry(
                path.encode("utf-8", "surrogateescape"),
                kind,
                mode,
                uid,
                gid,
                mtime,
                size,
                link.encode("utf-8", "surrogateescape") if link else b"",
                (rdev[0], rdev[1]) if rdev else None,
                {name: base64.b64decode(value) for name, value in xattrs.items()}
                if xattrs
                else NO_XATTRS,
                Digest(digest) if digest else None,
                offset,
            )
        )
    return entries


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _unusable(diff_id: Digest, why: str) -> ImageError:
    return ImageError(
        f"the index of layer {diff_id} {why}", hint="remove it; it is made again from the layer"
    )
