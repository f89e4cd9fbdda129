"""Digests of files by their stat, packed: files made together have inode numbers close together.

A bucket holds what is known of up to 128 inodes in a row, so that a tree of thousands of files
takes hundreds of rows in a database.
"""

import struct
from collections.abc import Iterable, Mapping

# device, inode, size, mtime_ns, ctime_ns
FileKey = tuple[int, int, int, int, int]
# size, mtime_ns, ctime_ns, sha256
Record = tuple[int, int, int, bytes]

_BITS = 7
LOW = (1 << _BITS) - 1  # the part of an inode number that tells it from others in its bucket
EARLIEST = -(1 << 63)  # the first time that a record can hold, in nanoseconds since 1970
_RECORD = struct.Struct("<Bqqq32s")


def buckets(keys: Iterable[FileKey]) -> dict[tuple[int, int], list[FileKey]]:
    """Return the keys by device and bucket."""
    found: dict[tuple[int, int], list[FileKey]] = {}
    for key in keys:
        place = (key[0], key[1] >> _BITS)
        if place in found:
            found[place].append(key)
        else:
            found[place] = [key]
    return found


def pack(records: Mapping[int, Record]) -> bytes:
    """Return a bucket as bytes; the numbers are the low parts of the inodes."""
    return b"".join([_RECORD.pack(low, *record) for low, record in records.items()])


def unpack(data: bytes) -> dict[int, Record]:
    """Return what `pack` made bytes of; a torn end is left out."""
    whole = len(data) - len(data) % _RECORD.size
    return {row[0]: row[1:] for row in _RECORD.iter_unpack(data[:whole])}
