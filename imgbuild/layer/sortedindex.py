"""Look things up in the index of a large layer without reading all of it.

Its lines are in the order of `sort_key`, and a directory is followed by all that is below it: what
is asked for is found by bisection over pieces of the file, of which a few are kept.
"""

import io
import json
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import NamedTuple

from imgbuild.errors import ImageError
from imgbuild.layer.entry import Entry, ImagePath, sort_key

_PIECE = 64 << 10
_HASHED = 1 << 20
_HEAD = 1 << 10  # holds nearly every line
_KEPT = 16


class _Piece(NamedTuple):
    """The entries whose lines start in one piece of the file, by key and by path."""

    keys: list[bytes]
    entries: list[Entry]
    paths: dict[ImagePath, Entry]


class SortedIndex:
    """The lines of `file` from `start` to `end`; close it when done.

    `decode` turns lines into entries. `has_whiteouts` tells whether there is any among them.
    Raises `ImageError` for lines that are damaged.
    """

    def __init__(
        self,
        file: io.FileIO,
        start: int,
        end: int,
        decode: Callable[[bytes], list[Entry]],
        *,
        has_whiteouts: bool,
    ) -> None:
        self._file = file
        self._start = start
        self._end = end
        self._decode = decode
        self._has_whiteouts = has_whiteouts
        self._count = -(-(end - start) // _PIECE)
        self._firsts: dict[int, bytes | None] = {}
        self._pieces: dict[int, _Piece] = {}
        self._hidden: dict[ImagePath, bool] = {}

    def close(self) -> None:
        self._file.close()

    def digest(self) -> str:
        """Return the sha256 of all before the last line, in hexadecimal."""
        state = sha256()
        for at in range(0, self._end, _HASHED):
            state.update(self._read(at, min(_HASHED, self._end - at)))
        return state.hexdigest()

    def get(self, path: ImagePath) -> Entry | None:
        """Return what the layer has at `path`; a directory that it only implies looks as any."""
        entry = self._find(path)
        if entry is not None:
            return None if entry.type == "whiteout" else entry
        return Entry(path, "dir", 0o755) if path and self._is_implied(path) else None

    def is_implicit(self, path: ImagePath) -> bool:
        """Tell of a path that `get` finds whether no entry says so."""
        return self._find(path) is None

    def hides(self, path: ImagePath, *, below: bool = False) -> bool:
        """Tell whether lower layers cannot show `path` (or, with `below`, what it contains)."""
        if not path:
            return False
        if self._hides_below(path.rpartition(b"/")[0]):
            return True
        entry = self._find(path)
        return entry is not None and (entry.type == "whiteout" or (below and entry.type != "dir"))

    def names(self, directory: ImagePath) -> list[bytes]:
        """Return what this layer brings into a directory."""
        return [name for name, gone in self._children(directory) if not gone]

    def gone(self, directory: ImagePath) -> list[bytes]:
        """Return the names that this layer takes out of a directory."""
        if not self._has_whiteouts:
            return []
        return [name for name, gone in self._children(directory) if gone]

    def entries(self) -> Iterator[Entry]:
        """Yield all entries in their order."""
        for number in range(self._count):
            yield from self._decoded(self._lines(number))

    def hard_links(self) -> Iterator[ImagePath]:
        """Yield the paths of all hard links."""
        for number in range(self._count):
            lines = self._lines(number)
            if b'"hardlink"' in lines:
                yield from (e.path for e in self._decode(lines) if e.type == "hardlink")

    # --- below here nothing is public

    def _hides_below(self, path: ImagePath) -> bool:
        """Tell whether `path` or something above it hides what lower layers have below it."""
        if not path:
            return False
        known = self._hidden.get(path)
        if known is None:
            entry = self._find(path)
            hidden = entry is not None and entry.type != "dir"
            known = hidden or self._hides_below(path.rpartition(b"/")[0])
            if len(self._hidden) >= 4096:
                self._hidden.clear()
            self._hidden[path] = known
        return known

    def _is_implied(self, path: ImagePath) -> bool:
        prefix = path + b"/"
        for entry in self._after(sort_key(prefix)):
            if not entry.path.startswith(prefix):
                return False
            if entry.type != "whiteout":
                return True
        return False

    def _children(self, directory: ImagePath) -> Iterator[tuple[bytes, bool]]:
        """Yield the names in a directory, and whether each is a whiteout."""
        prefix = directory + b"/" if directory else b""
        key: bytes | None = sort_key(prefix)
        while key is not None:
            entries, key = self._after(key), None
            for entry in entries:
                if not entry.path.startswith(prefix):
                    return
                if not entry.path:
                    continue
                name, slash, _ = entry.path[len(prefix) :].partition(b"/")
                is_whiteout = entry.type == "whiteout"
                if not slash:
                    yield name, is_whiteout
                elif not is_whiteout or self._is_implied(prefix + name):
                    yield name, False
                if slash or entry.type == "dir":
                    # Behind all that is below it: no name has a byte between NUL and this.
                    key = sort_key(prefix + name) + b"\1"
                    break

    def _find(self, path: ImagePath) -> Entry | None:
        number = self._locate(sort_key(path))
        return self._piece(number).paths.get(path) if number >= 0 else None

    def _after(self, key: bytes) -> Iterator[Entry]:
        """Yield the entries from the first whose key is not less than `key`."""
        number = max(self._locate(key), 0)
        if number < self._count:
            piece = self._piece(number)
            yield from piece.entries[bisect_left(piece.keys, key) :]
            for later in range(number + 1, self._count):
                yield from self._piece(later).entries

    def _locate(self, key: bytes) -> int:
        """Return the last piece that starts with no more than `key`, -1 when none does."""
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            first = self._first(middle)
            if first is None or first > key:
                high = middle
            else:
                low = middle + 1
        return low - 1

    def _first(self, number: int) -> bytes | None:
        """Return the key of the first line that starts in or behind a piece, None behind the last."""
        if number not in self._firsts:
            line = self._line(self._start + number * _PIECE)
            key = None if line is None else sort_key(self._decoded(line)[0].path)
            self._firsts[number] = key
        return self._firsts[number]

    def _piece(self, number: int) -> _Piece:
        piece = self._pieces.get(number)
        if piece is None:
            entries = self._decoded(self._lines(number))
            keys = [sort_key(entry.path) for entry in entries]
            piece = _Piece(keys, entries, {entry.path: entry for entry in entries})
            if len(self._pieces) >= _KEPT:
                del self._pieces[next(iter(self._pieces))]
            self._pieces[number] = piece
        return piece

    def _decoded(self, lines: bytes) -> list[Entry]:
        return self._decode(lines) if lines else []

    def _lines(self, number: int) -> bytes:
        """Return the lines that start in a piece."""
        start = self._line_start(self._start + number * _PIECE)
        after = self._line_start(min(self._start + (number + 1) * _PIECE, self._end))
        return self._read(start, after - start)

    def _line(self, at: int) -> bytes | None:
        """Return the first line that starts at or behind a place in the file."""
        start = self._line_start(at)
        if start >= self._end:
            return None
        return self._read(start, self._line_start(start + 1) - start)

    def _line_start(self, at: int) -> int:
        """Return where the first line starts at or behind a place in the file."""
        if at <= self._start:
            return self._start
        at -= 1
        while at < self._end:
            data = self._read(at, min(_HEAD, self._end - at))
            found = data.find(b"\n")
            if found >= 0:
                return at + found + 1
            at += len(data)
        return self._end

    def _read(self, at: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, at)
        if len(data) != size:
            raise ImageError("the index of a layer is shorter than it was")
        return data


def as_sorted(
    file: io.FileIO, header: bytes, decode: Callable[[bytes], list[Entry]]
) -> tuple[SortedIndex, dict[str, object]] | None:
    """Return an index with its last line, where it is one whose lines are in order."""
    size = os.fstat(file.fileno()).st_size
    tail = os.pread(file.fileno(), _HEAD, max(size - _HEAD, 0))
    end = tail.rfind(b"\n", 0, len(tail) - 1) + 1
    if not end or not tail.endswith(b"\n") or os.pread(file.fileno(), len(header), 0) != header:
        return None
    try:
        trailer = json.loads(tail[end:])
        if trailer["plain"] is not True:
            return None
        has_whiteouts = bool(trailer["whiteouts"])
    except (ValueError, TypeError, LookupError):
        return None
    lines_end = size - (len(tail) - end)
    found = SortedIndex(file, len(header), lines_end, decode, has_whiteouts=has_whiteouts)
    return found, trailer
