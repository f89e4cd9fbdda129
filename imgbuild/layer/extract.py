"""Unpacking one layer into a tree of its own, in the form that overlayfs merges.

Whiteouts become character devices 0:0, opaque markers the attribute `user.overlay.opaque`
(https://docs.kernel.org/filesystems/overlayfs.html). The tree is reached through directory
descriptors alone: no link in an archive leads out of it. Whoever calls this removes the tree
when it fails.
"""

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import assert_never

from imgbuild import recorded
from imgbuild.errors import DiskFullError, ImageError, StoreError
from imgbuild.layer.entry import Entry, ImagePath
from imgbuild.layer.lowers import Found, Lowers
from imgbuild.layer.merged import MergedTree
from imgbuild.layer.owners import Ownership, Status
from imgbuild.layer.stream import CHUNK, Readable
from imgbuild.layer.tarread import Content, Limits, read_tar
from imgbuild.layer.tree import Tree

__all__ = ["Ownership", "extract"]

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What an archive can be blamed for; all else is the machine's or the store's fault.
_BAD_ARCHIVE = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EINVAL, errno.EMLINK}


def extract(
    stream: Readable,
    root: Path | int,
    ownership: Ownership,
    parents: Sequence[Path] = (),
    limits: Limits | None = None,
    *,
    merge: bool = False,
) -> list[str]:
    """Unpack an uncompressed tar into `root`, an empty directory or a descriptor of one.

    `parents` are the unpacked layers below, the top one first: directories that the archive
    does not mention get the attributes they have there, and hard links to files there become
    copies. With `merge`, `root` holds the layers below already: it becomes what all show together,
    and what a whiteout names is removed. Returns notes about what the tree cannot hold, such as device nodes.

    Raises `ImageError` for a hostile or damaged archive, `DiskFullError`, `StoreError`.
    """
    fd = (
        os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if isinstance(root, Path)
        else root
    )
    lowers = Lowers(parents)
    tree = MergedTree(fd, ownership) if merge else Tree(fd, ownership, lowers)
    extraction = _Extraction(tree, ownership, lowers)
    try:
        for entry, content in read_tar(stream, limits, hashed=False):
            extraction.add(entry, content)
        extraction.finish()
    except OSError as error:
        raise _explained(error, extraction.path) from error
    finally:
        extraction.close()
        if isinstance(root, Path):
            os.close(fd)
    return extraction.notes


class _Extraction:
    """The state of one run: `path` is the entry at hand."""

    def __init__(self, tree: Tree, ownership: Ownership, lowers: Lowers) -> None:
        self._tree = tree
        self._ownership = ownership
        self._lowers = lowers
        self.path: ImagePath = b""
        self.notes: list[str] = []

    def add(self, entry: Entry, content: Content) -> None:
        self.path = entry.path
        match entry.type:
            case "file":
                self._add_file(entry, content)
            case "dir":
                self._tree.make_dir(entry.path, Status.of(entry))
            case "symlink":
                self._make_special(
                    entry, lambda at, name: os.symlink(entry.linkname, name, dir_fd=at)
                )
            case "hardlink":
                self._add_hardlink(entry)
            case "fifo":
                self._make_special(entry, lambda at, name: os.mkfifo(name, 0o600, dir_fd=at))
            case "char" | "block":
                self._add_device(entry)
            case "whiteout":
                self._tree.hide(entry.path)
            case "opaque":
                self._tree.empty(entry.path)
            case _:
                assert_never(entry.type)

    def finish(self) -> None:
        """Give directories what must come last."""
        self._tree.finish(self._note)

    def close(self) -> None:
        self._tree.close()
        self._lowers.close()

    def _replace(self, path: ImagePath, make: Callable[[int, bytes], object]) -> None:
        """Make something that is not a directory, in place of whatever is there."""
        at, name = self._tree.parent(path)
        try:
            make(at, name)
        except FileExistsError:
            self._tree.discard(path)
            at, name = self._tree.parent(path)
            make(at, name)
        self._tree.note_name(at, name)

    def _add_file(self, entry: Entry, content: Content) -> None:
        fd = self._create(entry.path)
        try:
            while data := content.read(CHUNK):
                _write(fd, data)
            self._ownership.apply(fd, Status.of(entry), self._note)
        finally:
            os.close(fd)

    def _create(self, path: ImagePath) -> int:
        """Return a new empty file, in place of whatever is there."""
        at, name = self._tree.parent(path)
        try:
            fd = os.open(name, _NEW, 0o600, dir_fd=at)
        except FileExistsError:
            self._tree.discard(path)
            at, name = self._tree.parent(path)
            fd = os.open(name, _NEW, 0o600, dir_fd=at)
        self._tree.note_file(fd)
        return fd

    def _add_device(self, entry: Entry) -> None:
        """Make what stands for a device node, or nothing.

        A user namespace may not make them, and nothing needs them: /dev is mounted.
        """
        value = recorded.device_value(entry.type, *(entry.rdev or (0, 0)))
        if not self._ownership.single or recorded.parse_device(value) is None:
            self._tree.discard(entry.path)
            self.notes.append(f"device node {_shown(entry.path)} was not created")
            return
        fd = self._create(entry.path)
        try:
            os.setxattr(fd, recorded.DEVICE, value)
            self._ownership.apply(fd, Status.of(entry), self._note)
        finally:
            os.close(fd)

    def _make_special(self, entry: Entry, make: Callable[[int, bytes], object]) -> None:
        self._replace(entry.path, make)
        at, name = self._tree.parent(entry.path)
        is_link = entry.type == "symlink"
        self._ownership.apply_at(at, name, Status.of(entry), self._note, symlink=is_link)

    def _add_hardlink(self, entry: Entry) -> None:
        if entry.path == entry.linkname:
            raise ImageError(f"the archive links {_shown(entry.path)} to itself")
        try:
            with self._tree.held_parent(entry.linkname) as (source, name):
                status = os.lstat(name, dir_fd=source)
                mode = status.st_mode
                if not self._tree.is_ours(status):
                    self._copy_from_below(entry, Found(os.dup(source), name, status))
                    return
                if stat.S_ISDIR(mode) or stat.S_ISCHR(mode):
                    raise ImageError(
                        f"the archive links {_shown(entry.path)} to {_shown(entry.linkname)},"
                        " which is a directory or was removed"
                    )
                self._replace(
                    entry.path,
                    lambda at, new: os.link(
                        name, new, src_dir_fd=source, dst_dir_fd=at, follow_symlinks=False
                    ),
                )
        except FileNotFoundError:
            self._copy_from_below(entry, self._lowers.find(entry.linkname))

    def _copy_from_below(self, entry: Entry, found: Found | None) -> None:
        try:
            if found is not None and stat.S_ISLNK(found.mode):
                text = found.readlink()
                self._replace(entry.path, lambda at, name: os.symlink(text, name, dir_fd=at))
            elif found is not None and stat.S_ISREG(found.mode):
                self._copy_file(found, entry.path)
            else:
                raise ImageError(
                    f"the archive links {_shown(entry.path)} to {_shown(entry.linkname)},"
                    " which is no file of this layer or the ones below"
                )
        finally:
            if found is not None:
                found.close()

    def _copy_file(self, found: Found, path: ImagePath) -> None:
        source = found.open()
        try:
            fd = self._create(path)
            try:
                while data := os.read(source, CHUNK):
                    _write(fd, data)
                found.copy_status(source, fd)
            finally:
                os.close(fd)
        finally:
            os.close(source)

    def _note(self, text: str) -> None:
        self.notes.append(f"{_shown(self.path)}: {text}")


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def _shown(path: ImagePath) -> str:
    return path.decode(errors="backslashreplace")


def _explained(error: OSError, path: ImagePath) -> ImageError | StoreError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(
            f"no space left to unpack {_shown(path)}", hint="make room where the store is"
        )
    message = f"cannot unpack {_shown(path)}: {error.strerror or error}"
    return ImageError(message) if error.errno in _BAD_ARCHIVE else StoreError(message)
