"""Tell what a command changed: the upper directory of an overlay as entries of a layer.

Runs inside the build's namespaces, after every process of the command is dead. It sees ids as
they are on disk. What overlayfs copied up without a change is left out, as BuildKit does; opaque
directories become one whiteout for each name that is gone.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

from imgbuild.errors import ImageError, SandboxError
from imgbuild.layer import xattrs
from imgbuild.layer.entry import NO_XATTRS, Entry, EntryType, ImagePath
from imgbuild.layer.owners import Ownership
from imgbuild.snapshot import attribution
from imgbuild.snapshot.attribution import Attribution, Ids, Place
from imgbuild.snapshot.lower import (
    LowerDirectory,
    Shown,
    is_opaque,
    is_whiteout,
    open_directory,
    open_file,
)

# What is put below every image so that there is something to mount on. Nobody asked for it, so
# it does not become part of the image.
STUB_DIRECTORIES = (b"dev", b"etc", b"proc", b"sys")
STUB_FILES = (b"etc/hosts", b"etc/resolv.conf")

_WHITEOUT_PREFIX = b".wh."
_SECOND = 1_000_000_000
_CHUNK = 1 << 18
_TYPES: dict[int, EntryType] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


class Writer(Protocol):
    """Where entries go: a `TarWriter`."""

    def add(self, entry: Entry, content: BinaryIO | None = None) -> object: ...


class Directory:
    """A directory being walked; `entry` waits until something below it (or itself) changed."""

    def __init__(self, fd: int, path: ImagePath, lower: LowerDirectory, opaque: bool) -> None:
        self.fd = fd
        self.prefix = path + b"/" if path else b""
        self.lower = lower
        # Below an opaque directory no layer shows through, whether it says so itself or not.
        self.opaque = opaque or is_opaque(fd)
        self.entry: Entry | None = None
        self.mtime: int | None = None
        self.group: int | None = None  # that new things in it get
        self.items = self._list()

    def _list(self) -> Iterator[tuple[bytes, os.stat_result | None]]:
        """Give names in order; without a status, one of a lower layer that is gone."""
        with os.scandir(self.fd) as listing:
            items: dict[bytes, os.stat_result | None] = {
                os.fsencode(item.name): item.stat(follow_symlinks=False) for item in listing
            }
        if self.opaque:
            items |= dict.fromkeys(name for name in self.lower.names() if name not in items)
        return iter(sorted(items.items()))

    def close(self) -> None:
        os.close(self.fd)
        self.lower.close()


class ChangeWalk:
    """One pass over an upper directory.

    With `settle`, the tree is changed to what a layer made of it would unpack to: whole seconds,
    none newer than `clamp`, no sockets; then it can serve as the unpacked layer. With `whole`, it
    is a tree that no image is below: nothing in it is there to be mounted on. `maker` is who ran
    the command, in ids of the image.
    """

    def __init__(
        self,
        writer: Writer,
        ownership: Ownership,
        *,
        clamp: int | None = None,
        settle: bool = False,
        whole: bool = False,
        maker: Ids = (0, 0),
    ) -> None:
        self._whole = whole
        self._writer = writer
        self._ownership = ownership
        self._clamp = clamp
        self._settle = settle
        self._attribution = Attribution(maker, settle=settle) if ownership.single else None
        self._links: dict[tuple[int, int], Entry] = {}
        self._stack: list[Directory] = []

    def run(self, upper: int, lowers: Sequence[int]) -> None:
        """Walk `upper`, compare with `lowers` (top first); both are open directories.

        Raises `ImageError` for what a layer cannot hold.
        """
        lower = LowerDirectory([os.dup(fd) for fd in lowers])
        self._stack.append(Directory(os.dup(upper), b"", lower, opaque=False))
        try:
            while self._stack:
                here = self._stack[-1]
                item = next(here.items, None)
                if item is None:
                    self._leave(self._stack.pop())
                elif item[1] is None:
                    self._emit(Entry(here.prefix + item[0], "whiteout"))
                else:
                    self._visit(here, item[0], item[1])
        finally:
            for directory in self._stack:
                directory.close()

    def _leave(self, directory: Directory) -> None:
        if self._settle and directory.mtime is not None:
            os.utime(directory.fd, ns=(directory.mtime, directory.mtime))
        directory.close()

    def _visit(self, here: Directory, name: bytes, status: os.stat_result) -> None:
        path = here.prefix + name
        below = here.lower.look(name)
        if is_whiteout(status):
            # overlayfs also leaves one where only the skeleton had the name.
            if below is not None:
                self._emit(Entry(path, "whiteout"))
            return
        check_name(path)
        if stat.S_ISSOCK(status.st_mode):
            self._drop_socket(here, name, path, below)
        elif stat.S_ISDIR(status.st_mode):
            self._enter(here, name, status, below)
        elif stat.S_ISREG(status.st_mode):
            self._visit_file(here, name, status, below)
        else:
            self._visit_special(here, name, status, below)

    def _drop_socket(self, here: Directory, name: bytes, path: bytes, below: Shown | None) -> None:
        if below is not None:
            self._emit(Entry(path, "whiteout"))
        if self._settle:
            os.unlink(name, dir_fd=here.fd)
            if below is not None:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=here.fd)

    def _enter(
        self, here: Directory, name: bytes, status: os.stat_result, below: Shown | None
    ) -> None:
        path = here.prefix + name
        fd = open_directory(name, here.fd)
        directory = Directory(fd, path, here.lower.descend(name), here.opaque)
        self._stack.append(directory)
        entry = directory.entry = self._entry(path, status, fd, new=self._new_owner(here))
        directory.group = attribution.inherited_group(status, entry.gid)
        directory.mtime = self._final(status) if self._settle else None
        if below is not None:
            if self._same_directory(status, entry, below, name):
                return
        elif self._is_stub(entry):
            return
        self._flush()

    def _is_stub(self, entry: Entry) -> bool:
        plain = (entry.mode, entry.uid, entry.gid) == (0o755, 0, 0)
        return not self._whole and plain and entry.path in STUB_DIRECTORIES

    def _same_directory(
        self, status: os.stat_result, entry: Entry, below: Shown, name: bytes
    ) -> bool:
        if not _same_metadata(status, below.status):
            return False
        fd = open_directory(name, below.at)
        try:
            return self._same_attributes(entry, self._entry(entry.path, below.status, fd))
        finally:
            os.close(fd)

    def _visit_file(
        self, here: Directory, name: bytes, status: os.stat_result, below: Shown | None
    ) -> None:
        path = here.prefix + name
        if self._emit_link(path, status):
            return
        fd = open_file(name, here.fd)
        with open(fd, "rb", buffering=0) as content:
            if self._attribution is not None and attribution.is_apt_stub(name, status, fd):
                if self._settle:
                    os.unlink(name, dir_fd=here.fd)
                return
            entry = self._entry(path, status, fd, new=self._new_owner(here))
            if below is None:
                if path in STUB_FILES and not status.st_size and not self._whole:
                    return
            elif status.st_nlink == 1 and _same_metadata(status, below.status):
                other = open_file(name, below.at)
                with open(other, "rb", buffering=0) as lower_content:
                    lower_entry = self._entry(path, below.status, other)
                    same = self._same_attributes(entry, lower_entry)
                    if same and _same_content(content, lower_content):
                        return
                content.seek(0)
            self._emit_new(entry, status, content if entry.type == "file" else None)
            if self._settle and status.st_mtime_ns != self._final(status):
                os.utime(fd, ns=(self._final(status),) * 2)

    def _visit_special(
        self, here: Directory, name: bytes, status: os.stat_result, below: Shown | None
    ) -> None:
        path = here.prefix + name
        if self._emit_link(path, status):
            return
        target = b""
        same = below is not None and status.st_nlink == 1
        same = same and below is not None and _same_metadata(status, below.status)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=here.fd)
            same = same and below is not None and os.readlink(name, dir_fd=below.at) == target
        # Copied by overlayfs or not: what equals the one below in all else is taken for it.
        new = (0, 0) if same else self._new_owner(here)
        entry = self._entry(path, status, (here.fd, name), target, new=new)
        if same and below is not None:
            lower_entry = self._entry(path, below.status, (below.at, name), target)
            if self._same_attributes(entry, lower_entry):
                return
        self._emit_new(entry, status, None)
        if self._settle and status.st_mtime_ns != self._final(status):
            times = (self._final(status),) * 2
            os.utime(name, ns=times, dir_fd=here.fd, follow_symlinks=False)

    def _emit_link(self, path: ImagePath, status: os.stat_result) -> bool:
        """Write a further name of a file that was written already."""
        first = self._links.get((status.st_dev, status.st_ino)) if status.st_nlink > 1 else None
        if first is None:
            return False
        # Some unpackers apply a link's owner and mode, so it says again what the file has.
        link = first._replace(
            path=path, type="hardlink", linkname=first.path, size=0, xattrs=NO_XATTRS
        )
        self._emit(link)
        return True

    def _emit_new(self, entry: Entry, status: os.stat_result, content: BinaryIO | None) -> None:
        if status.st_nlink > 1:
            self._links[status.st_dev, status.st_ino] = entry
        self._emit(entry, content)

    def _emit(self, entry: Entry, content: BinaryIO | None = None) -> None:
        self._flush()
        self._writer.add(entry, content)

    def _flush(self) -> None:
        """Write the directories that lead here, unless they are written."""
        waiting = []
        for directory in reversed(self._stack):
            if directory.entry is None:
                break
            waiting.append(directory.entry)
            directory.entry = None
        for entry in reversed(waiting):
            self._writer.add(entry)

    def _new_owner(self, here: Directory) -> Ids:
        """Return the owner of what is new in a directory, where the disk does not tell."""
        return (0, 0) if self._attribution is None else self._attribution.new(here.group)

    def _entry(
        self,
        path: ImagePath,
        status: os.stat_result,
        place: Place,
        linkname: bytes = b"",
        *,
        new: Ids = (0, 0),
    ) -> Entry:
        kind = _TYPES[stat.S_IFMT(status.st_mode)]
        found = self._attributes(place) if isinstance(place, int) else {}
        if self._attribution is None:
            uid, gid = self._owner(path, status)
        else:
            uid, gid = self._attribution.owner(place, found, new)
        size = status.st_size if kind == "file" else 0
        rdev = None
        if kind in {"char", "block"}:
            rdev = (os.major(status.st_rdev), os.minor(status.st_rdev))
        elif kind == "file" and (node := attribution.device(found)) is not None:
            kind, size, rdev = node[0], 0, node[1:]
        for name in attribution.RECORDS & found.keys():
            del found[name]
        if xattrs.CAPABILITY in found:
            found[xattrs.CAPABILITY] = xattrs.to_v2(found[xattrs.CAPABILITY])
        mtime = status.st_mtime_ns // _SECOND
        mode = stat.S_IMODE(status.st_mode)
        return Entry(path, kind, mode, uid, gid, mtime, size, linkname, rdev, found)

    def _attributes(self, fd: int) -> dict[str, bytes]:
        """Read those that belong to the image, and records where there are any."""
        records = attribution.RECORDS if self._attribution is not None else frozenset()
        names = os.listxattr(fd)
        return {n: os.getxattr(fd, n) for n in names if xattrs.keep(n) or n in records}

    def _owner(self, path: ImagePath, status: os.stat_result) -> Ids:
        ownership = self._ownership
        uid, gid = status.st_uid - ownership.shift, status.st_gid - ownership.shift
        if not (0 <= uid < ownership.count and 0 <= gid < ownership.count):
            raise SandboxError(
                f"/{os.fsdecode(path)} belongs to {status.st_uid}:{status.st_gid}, "
                "an owner that the sandbox does not have",
                hint="remove the unpacked layers with `imgbuild reset`, then build again",
            )
        return uid, gid

    @staticmethod
    def _same_attributes(one: Entry, other: Entry) -> bool:
        return (
            (one.uid, one.gid, one.xattrs) == (other.uid, other.gid, other.xattrs)
            and one.type == other.type
            and one.rdev == other.rdev
        )

    def _final(self, status: os.stat_result) -> int:
        """Return the time that the layer will have, in nanoseconds."""
        seconds = status.st_mtime_ns // _SECOND
        if self._clamp is not None:
            seconds = min(seconds, self._clamp)
        return seconds * _SECOND


def check_name(path: ImagePath) -> None:
    """Raise `ImageError` for what would be a whiteout in a layer."""
    if path.rpartition(b"/")[2].startswith(_WHITEOUT_PREFIX):
        raise ImageError(
            f"the command made /{os.fsdecode(path)}, a name that layers reserve for removals",
            hint="names that start with .wh. cannot be part of an image; remove the file",
        )


def _same_metadata(one: os.stat_result, other: os.stat_result) -> bool:
    return (
        one.st_mode == other.st_mode
        and one.st_uid == other.st_uid
        and one.st_gid == other.st_gid
        and one.st_mtime_ns == other.st_mtime_ns
        and one.st_rdev == other.st_rdev
        and (one.st_size == other.st_size or stat.S_ISDIR(one.st_mode))
    )


def _same_content(one: BinaryIO, other: BinaryIO) -> bool:
    while True:
        data = one.read(_CHUNK)
        if data != other.read(_CHUNK):
            return False
        if not data:
            return True
