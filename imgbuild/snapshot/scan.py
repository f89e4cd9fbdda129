"""What a whole tree holds, as a file of small records, and how two such states differ.

Where nothing is mounted, this is how changes are found: every entry is looked at before a command
and after it. No file is read. What a command did to a file shows in its ctime, which nobody can
set. Memory stays small however large the tree is: both states are streams in the same order.
"""

import os
import stat
import struct
import time
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

from imgbuild.layer.entry import ImagePath, sort_key
from imgbuild.snapshot.lower import open_directory

# What a command finds there is made for it each time, and never part of the image.
OUTSIDE = frozenset({b"dev", b"proc", b"sys"})

# "new", "changed"; "touched": written to or looked at in a way that leaves all but its content
# and attributes known to be the same; "gone".
Kind = Literal["new", "changed", "touched", "gone"]
_KINDS: tuple[Kind, ...] = ("new", "changed", "touched", "gone")

_RECORD = struct.Struct("<QQqqqIIII")
_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<B?IQ")
_COARSE = 5  # CLOCK_REALTIME_COARSE, which files get their times from


class State(NamedTuple):
    """What is compared of one entry. Sizes and numbers of links mean nothing for directories."""

    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    rdev: int
    mode: int
    uid: int
    gid: int
    nlink: int

    @classmethod
    def of(cls, status: os.stat_result) -> "State":
        directory = stat.S_ISDIR(status.st_mode)
        return cls(
            status.st_ino,
            0 if directory else status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_rdev,
            status.st_mode,
            status.st_uid,
            status.st_gid,
            0 if directory else status.st_nlink,
        )

    def looks_like(self, other: "State") -> bool:
        """Tell whether all that a layer says is equal, but for content and attributes."""
        return (self.mode, self.uid, self.gid, self.mtime_ns, self.size, self.rdev) == (
            other.mode,
            other.uid,
            other.gid,
            other.mtime_ns,
            other.size,
            other.rdev,
        )


class Change(NamedTuple):
    """`ino` is 0 for what has one name only; `fresh` tells that the command made it."""

    kind: Kind
    path: ImagePath
    ino: int = 0
    fresh: bool = False


Item = tuple[ImagePath, State]


def walk(root: int) -> Iterator[Item]:
    """Give everything below an open directory but what is OUTSIDE, in the order of `sort_key`."""
    stack = [(os.dup(root), b"", _list(root, OUTSIDE))]
    try:
        while stack:
            fd, prefix, items = stack[-1]
            item = next(items, None)
            if item is None:
                os.close(stack.pop()[0])
                continue
            name, status = item
            yield prefix + name, State.of(status)
            if stat.S_ISDIR(status.st_mode):
                inner = open_directory(name, fd)
                stack.append((inner, prefix + name + b"/", _list(inner)))
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def _list(
    fd: int, without: frozenset[bytes] = frozenset()
) -> Iterator[tuple[bytes, os.stat_result]]:
    with os.scandir(fd) as listing:
        found = [(os.fsencode(e.name), e.stat(follow_symlinks=False)) for e in listing]
    found.sort(key=lambda item: item[0])
    return (item for item in found if item[0] not in without)


def record(root: int, out: BinaryIO) -> None:
    """Write the state of a tree; when this returns, whatever changes gets another ctime."""
    out.writelines(
        _LENGTH.pack(len(path)) + path + _RECORD.pack(*state) for path, state in walk(root)
    )
    out.flush()
    _wait_for_a_tick()


def recorded(source: BinaryIO) -> Iterator[Item]:
    """Read what `record` wrote."""
    while head := source.read(_LENGTH.size):
        path = source.read(_LENGTH.unpack(head)[0])
        yield path, State._make(_RECORD.unpack(source.read(_RECORD.size)))


def compare(before: Iterator[Item], after: Iterator[Item]) -> Iterator[Change]:
    """Give what differs, in the order of `sort_key`; of a removed directory the top alone."""
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        old_key = sort_key(old[0]) if old else b"\xff\xff"
        new_key = sort_key(new[0]) if new else b"\xff\xff"
        if old is None or (new is not None and new_key < old_key):
            assert new is not None  # noqa: S101  the loop would have ended
            yield _change("new", new, fresh=True)
            new = next(after, None)
        elif new is None or old_key < new_key:
            yield Change("gone", old[0])
            old = _past(old[0], before)
        else:
            if (change := _difference(old, new)) is not None:
                yield change
            was_directory = stat.S_ISDIR(old[1].mode)
            if was_directory and not stat.S_ISDIR(new[1].mode):
                old = _past(old[0], before)
            else:
                old = next(before, None)
            new = next(after, None)


def _difference(old: Item, new: Item) -> Change | None:
    if old[1] == new[1]:
        return None
    kind: Kind = "touched" if new[1].looks_like(old[1]) else "changed"
    return _change(kind, new, fresh=old[1].ino != new[1].ino)


def _change(kind: Kind, item: Item, *, fresh: bool) -> Change:
    path, state = item
    return Change(kind, path, state.ino if state.nlink > 1 else 0, fresh)


def _past(path: ImagePath, items: Iterator[Item]) -> Item | None:
    """Give the first item that is not below `path`."""
    below = path + b"/"
    return next((item for item in items if not item[0].startswith(below)), None)


def write_changes(changes: Iterator[Change], out: BinaryIO) -> int:
    """Write changes; give how many of them are of the kind "touched"."""
    touched = 0
    for kind, path, ino, fresh in changes:
        out.write(_HEAD.pack(_KINDS.index(kind), fresh, len(path), ino) + path)
        touched += kind == "touched"
    out.flush()
    return touched


def read_changes(source: BinaryIO) -> Iterator[Change]:
    """Read what `write_changes` wrote."""
    while head := source.read(_HEAD.size):
        kind, fresh, length, ino = _HEAD.unpack(head)
        yield Change(_KINDS[kind], source.read(length), ino, fresh)


def _wait_for_a_tick() -> None:
    now = time.clock_gettime_ns(_COARSE)
    while time.clock_gettime_ns(_COARSE) == now:
        time.sleep(0.001)
