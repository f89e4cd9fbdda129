"""Collect the entries of an archive in flat memory, whatever their order, to look them up then."""

import io
import marshal
import os
import tempfile
from collections.abc import Iterator
from heapq import merge
from pathlib import Path

from imgbuild.layer.entry import Entry, sort_key
from imgbuild.layer.index import IndexWriter, decode_lines, encode_entry
from imgbuild.layer.sortedindex import SortedIndex
from imgbuild.layer.stream import write_all

_HELD = 8192  # entries
_CHUNK = 256
# The second version has no references between objects.
_FORMAT = 2
# Sort key, the place among all, type, and the line of an index.
_Row = tuple[bytes, int, str, bytes]


class EntrySpool:
    """Takes entries with `add`; long lists go to a nameless file in `scratch`, sorted in runs.

    Raises `OSError` where they cannot be written. Close it when done.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._held: list[Entry] = []
        self._file: io.FileIO | None = None
        self._runs: list[list[tuple[int, int]]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count + len(self._held)

    def add(self, entry: Entry) -> None:
        self._held.append(entry)
        if len(self._held) >= _HELD:
            self._spill()

    def finish(self) -> list[Entry] | SortedIndex:
        """Return the entries: sorted in a file, where there are many and no two are in the way of
        each other; else in the order in which they came."""
        if self._file is None:
            return self._held
        if self._held:
            self._spill()
        return self._sorted() or self._all()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._scratch, buffering=0)  # noqa: SIM115 - `close` does
        numbered = enumerate(self._held, self._count)
        rows = sorted((sort_key(e.path), n, e.type, encode_entry(e)) for n, e in numbered)
        places = []
        for start in range(0, len(rows), _CHUNK):
            data = marshal.dumps(rows[start : start + _CHUNK], _FORMAT)
            places.append((self._file.tell(), len(data)))
            write_all(self._file, data)
        self._runs.append(places)
        self._count += len(self._held)
        self._held.clear()

    def _rows(self, places: list[tuple[int, int]]) -> Iterator[_Row]:
        assert self._file is not None  # noqa: S101  a place is in a file
        for start, size in places:
            yield from marshal.loads(os.pread(self._file.fileno(), size, start))  # noqa: S302  written by this process alone

    def _sorted(self) -> SortedIndex | None:
        """Write all in the order of their keys; None when that is no plain index."""
        out = tempfile.TemporaryFile(dir=self._scratch, buffering=0)  # noqa: SIM115 - the index closes it
        try:
            index = IndexWriter(out)
            for key, _, kind, line in merge(*map(self._rows, self._runs)):
                index.add_line(key, kind, line)
                if not index.is_plain:
                    out.close()
                    return None
            return index.lookup(out)
        except BaseException:
            out.close()
            raise

    def _all(self) -> list[Entry]:
        rows = [(number, line) for run in self._runs for _, number, _, line in self._rows(run)]
        rows.sort()
        return decode_lines(b"".join(line for _, line in rows))
