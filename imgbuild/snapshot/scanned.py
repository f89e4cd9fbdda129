"""What a command changed in a root that holds a whole file system, as entries of a layer.

The rules are those of `changes`: times in whole seconds, no sockets, and what is the same as in
the layers below is left out. What a command touched without a visible difference is compared with
what the indexes of those layers say. Runs after every process of the command is dead.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import BinaryIO

from imgbuild.layer.entry import Entry, ImagePath, sort_key
from imgbuild.layer.index import decode_entry
from imgbuild.layer.inodes import InodeSet
from imgbuild.snapshot.attribution import Ids, inherited_group, is_apt_stub
from imgbuild.snapshot.changes import STUB_DIRECTORIES, ChangeWalk, Directory, check_name
from imgbuild.snapshot.lower import LowerDirectory, open_directory, open_file
from imgbuild.snapshot.scan import Change, read_changes

_CHUNK = 1 << 18

# What the layers below have at a path; None where nobody can tell.
Expected = Callable[[ImagePath], Entry | None]


class _Level(Directory):
    """A directory on the way to a change; `final` is the time that a layer would give it."""

    def __init__(
        self, fd: int, path: ImagePath, entry: Entry | None, final: int, group: int | None = None
    ) -> None:
        # Nothing of the base's: what is in a directory is known from elsewhere.
        self.fd = fd
        self.path = path
        self.prefix = path + b"/" if path else b""
        self.lower = LowerDirectory()
        self.opaque = False
        self.entry = entry
        self.mtime = None
        self.group = group
        self.items = iter(())
        self.final = final


class ScanWalk(ChangeWalk):
    """One pass over the changes that `scan.compare` found; settles as `ChangeWalk` does."""

    _levels: list[_Level]

    def run_changes(self, root: int, found: BinaryIO, expected: Expected) -> None:
        """Write the entries of a layer. Raises `ImageError` for what one cannot hold."""
        linked = InodeSet()
        for change in read_changes(found):
            if change.ino and change.kind != "touched":
                linked.add(change.ino)
        found.seek(0)
        self._levels = [_Level(os.dup(root), b"", None, -1)]
        try:
            for change in read_changes(found):
                self._approach(change.path)
                self._take(change, linked, expected)
            self._retreat(0)
        finally:
            for level in self._levels:
                level.close()

    def _approach(self, path: ImagePath) -> None:
        """Have the directories on the way to a path open, and no others."""
        parent, _, _ = path.rpartition(b"/")
        keep = len(self._levels)
        while keep > 1 and not (parent + b"/").startswith(self._levels[keep - 1].prefix):
            keep -= 1
        self._retreat(keep)
        done = self._levels[-1]
        for name in filter(None, parent[len(done.prefix) :].split(b"/")):
            self._descend(name)

    def _descend(self, name: bytes, *, fresh: bool = False) -> _Level:
        above = self._levels[-1]
        fd = open_directory(name, above.fd)
        path = above.prefix + name
        status = os.fstat(fd)
        entry = self._entry(path, status, fd, new=self._maker_of(fresh))
        group = inherited_group(status, entry.gid)
        level = _Level(fd, path, entry, self._final(status), group)
        self._levels.append(level)
        self._stack.append(level)
        return level

    def _retreat(self, keep: int) -> None:
        while len(self._levels) > keep:
            level = self._levels.pop()
            if self._stack:
                self._stack.pop()
            if self._settle and level.entry is None and level.path:
                os.utime(level.fd, ns=(level.final, level.final))
            level.close()

    def _maker_of(self, fresh: bool) -> Ids:
        """Return the owner where the disk does not tell: what layers brought without one is root's."""
        return self._new_owner(self._levels[-1]) if fresh else (0, 0)

    def _take(self, change: Change, linked: InodeSet, expected: Expected) -> None:
        name = change.path.rpartition(b"/")[2]
        at = self._levels[-1].fd
        if change.kind == "gone":
            self._emit(Entry(change.path, "whiteout"))
            return
        check_name(change.path)
        status = os.lstat(name, dir_fd=at)
        known = None
        if change.kind == "touched" and not (change.ino and change.ino in linked):
            known = expected(change.path)
        if stat.S_ISDIR(status.st_mode):
            self._take_directory(change, name, known)
        elif stat.S_ISREG(status.st_mode):
            self._take_file(change, name, status, known)
        elif stat.S_ISSOCK(status.st_mode) or _is_no_device(status):
            self._drop(change, name)
        else:
            self._take_special(change, name, status, known)

    def _take_directory(self, change: Change, name: bytes, known: Entry | None) -> None:
        level = self._descend(name, fresh=change.fresh)
        entry = level.entry
        assert entry is not None  # noqa: S101  just made
        if change.kind == "touched" and (known is None or self._same_attributes(entry, known)):
            return
        is_stub = entry.path in STUB_DIRECTORIES
        if is_stub and change.kind == "new" and (entry.mode, entry.uid, entry.gid) == (0o755, 0, 0):
            return
        self._flush()

    def _take_file(
        self, change: Change, name: bytes, status: os.stat_result, known: Entry | None
    ) -> None:
        path, new = change.path, self._maker_of(change.fresh)
        if self._emit_link(path, status):
            return
        fd = open_file(name, self._levels[-1].fd)
        with open(fd, "rb", buffering=0) as content:
            if self._attribution is not None and is_apt_stub(name, status, fd):
                return
            entry = self._entry(path, status, fd, new=new)
            if known is not None and self._same_attributes(entry, known):
                if entry.type != "file" or _digest(content) == known.digest:
                    return
                content.seek(0)
            self._emit_new(entry, status, content if entry.type == "file" else None)
            if self._settle and status.st_mtime_ns != self._final(status):
                os.utime(fd, ns=(self._final(status),) * 2)

    def _take_special(
        self, change: Change, name: bytes, status: os.stat_result, known: Entry | None
    ) -> None:
        path, new = change.path, self._maker_of(change.fresh)
        if self._emit_link(path, status):
            return
        at = self._levels[-1].fd
        target = os.readlink(name, dir_fd=at) if stat.S_ISLNK(status.st_mode) else b""
        entry = self._entry(path, status, (at, name), target, new=new)
        if known is not None and self._same_attributes(entry, known) and known.linkname == target:
            return
        self._emit_new(entry, status, None)
        if self._settle and status.st_mtime_ns != self._final(status):
            times = (self._final(status),) * 2
            os.utime(name, ns=times, dir_fd=at, follow_symlinks=False)

    def _drop(self, change: Change, name: bytes) -> None:
        """Leave a socket out, or the device 0:0, which overlayfs takes for a removal."""
        if change.kind != "new":
            self._emit(Entry(change.path, "whiteout"))
        if self._settle:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._levels[-1].fd)


class Known:
    """What layers have at some paths: lines of an index, asked for in their order."""

    def __init__(self, lines: BinaryIO) -> None:
        self._lines = lines
        self._next: Entry | None = None
        self._advance()

    def look(self, path: ImagePath) -> Entry | None:
        while self._next is not None and sort_key(self._next.path) < sort_key(path):
            self._advance()
        return self._next if self._next is not None and self._next.path == path else None

    def _advance(self) -> None:
        line = self._lines.readline()
        self._next = decode_entry(line) if line else None


def _is_no_device(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _digest(content: BinaryIO) -> str:
    hasher = sha256()
    while data := content.read(_CHUNK):
        hasher.update(data)
    return "sha256:" + hasher.hexdigest()
