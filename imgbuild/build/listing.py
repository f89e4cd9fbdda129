"""What is below a directory, item by item, in flat memory: long lists go to a nameless file.

Nothing here looks at a file system but for that file.
"""

import marshal
import os
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

from imgbuild.layer.entry import NO_XATTRS, Entry, EntryType, ImagePath
from imgbuild.layer.stream import write_all

# As many items are held in memory; each takes some 400 bytes there.
_CHUNK = 4096
# The second version has no references between objects, so that equal lists have equal bytes.
_FORMAT = 2


class Item(NamedTuple):
    """One thing below a selected directory: `rel` is relative to it.

    The fields up to `digest` are those of an `Entry`. `stat` is of a file of this machine:
    what tells that it was not changed, as device, inode, mtime and ctime in nanoseconds.
    `group` is the same for all names of one file, and empty for a file with one name here. `implied`
    tells of a directory that is only there for what was selected below it.
    """

    rel: bytes
    type: EntryType
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    link: bytes = b""
    rdev: tuple[int, int] | None = None
    xattrs: Mapping[str, bytes] | None = None
    digest: str | None = None
    stat: tuple[int, int, int, int] | None = None
    group: bytes = b""
    implied: bool = False

    def entry(self, path: ImagePath) -> Entry:
        """Return what a tree says of this at `path`."""
        return Entry(
            path, self.type, self.mode, self.uid, self.gid, self.mtime, self.size, self.link,
            self.rdev, self.xattrs or NO_XATTRS,
        )  # fmt: skip


def from_entry(rel: bytes, e: Entry, group: bytes = b"") -> Item:
    """Return an entry of an image as an item."""
    xattrs = dict(e.xattrs) if e.xattrs else None
    digest = str(e.digest) if e.digest else None
    return Item(
        rel, e.type, e.mode, e.uid, e.gid, e.mtime, e.size, e.linkname, e.rdev, xattrs, digest,
        None, group,
    )  # fmt: skip


class Listing(Collection[Item]):
    """Items in the order they were given, as often as they are asked for; close it when done.

    `newest` is the latest time among them, in seconds, `bytes` the size of all files, `files` the
    number of those that are on this machine, `latest_ns` the latest change of any of them.
    `fingerprint` is the same only for lists with the same `Item.stat`s and all else.
    """

    def __init__(self, items: Iterable[Item], scratch: Path) -> None:
        self._scratch = scratch
        self._file: IO[bytes] | None = None
        self._places: list[tuple[int, int]] = []
        self._tail: list[Item] = []
        self._end = 0
        self._count = 0
        self.newest = 0
        self.bytes = 0
        self.files = 0
        self.latest_ns = 0
        self._has_groups = False
        self._inodes = array("q")  # a number for each item with a group
        state = sha256()
        try:
            for item in items:
                self._tail.append(item)
                if len(self._tail) >= _CHUNK:
                    state.update(self._account())
                    self._spill()
        except BaseException:
            self.close()
            raise
        state.update(self._account())
        self.fingerprint = state.hexdigest()
        self._repeated = _repeated(self._inodes)
        del self._inodes[:]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        for start, size in self._places:
            assert self._file is not None  # noqa: S101  a place is in a file
            data = os.pread(self._file.fileno(), size, start)
            items = map(Item._make, marshal.loads(data))  # noqa: S302  written by this process alone
            yield from map(self._grouped, items) if self._has_groups else items
        yield from map(self._grouped, self._tail) if self._has_groups else self._tail

    def _grouped(self, item: Item) -> Item:
        """Leave the group away where no other name of the file is here.

        Package managers link files into every tree from a store of theirs.
        """
        if item.group and hash(item.group) not in self._repeated:
            return item._replace(group=b"")
        return item

    def __contains__(self, item: object) -> bool:
        return any(item == one for one in self)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _account(self) -> bytes:
        """Count what was added, and return it as bytes."""
        tail = self._tail
        self._count += len(tail)
        if tail:
            self.newest = max(self.newest, *(item.mtime for item in tail))
            self.bytes += sum(item.size for item in tail)
            self.files += sum(item.type == "file" and item.stat is not None for item in tail)
            grouped = [hash(item.group) for item in tail if item.group]
            self._has_groups = self._has_groups or bool(grouped)
            self._inodes.extend(grouped)
            changed = [max(item.stat[2], item.stat[3]) for item in tail if item.stat]
            self.latest_ns = max([self.latest_ns, *changed])
        rows: list[tuple[Any, ...]] = list(map(tuple, tail))
        self._packed = marshal.dumps(rows, _FORMAT)
        return self._packed

    def _spill(self) -> None:
        import tempfile

        from imgbuild.store.failure import explained

        if self._file is None:
            with explained("list the sources of a step"):
                self._file = tempfile.TemporaryFile(dir=self._scratch, buffering=0)  # noqa: SIM115 - `close` does
        data = self._packed
        with explained("list the sources of a step"):
            write_all(self._file, data)
        self._places.append((self._end, len(data)))
        self._end += len(data)
        self._tail.clear()
        self._packed = b""


def _repeated(numbers: "array[int]") -> frozenset[int]:
    """Return the numbers that are there more than once."""
    ordered = sorted(numbers)
    return frozenset(a for a, b in pairwise(ordered) if a == b)
