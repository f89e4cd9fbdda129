"""The tree that a layer is unpacked into, reached by directory descriptors alone."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from imgbuild import inroot
from imgbuild.errors import ImageError
from imgbuild.layer.entry import ImagePath, quoted, sort_key
from imgbuild.layer.lowers import Lowers
from imgbuild.layer.marks import is_whiteout, make_opaque, make_whiteout
from imgbuild.layer.owners import Ownership, Status

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What directories are while the tree is filled, so that filling it needs no privilege.
_WHILE_FILLED = 0o700
_IMPLICIT = Status(0o755, 0, 0, 0, {})


class Tree:
    """A root and the open directories on the way to the last entry.

    Archives mostly go through a tree in order, so most entries find their directory open.
    What is set on directories is set by `finish`, because filling them changes their times.
    """

    def __init__(self, root: int, ownership: Ownership, lowers: Lowers) -> None:
        self._root = root
        self._ownership = ownership
        self._lowers = lowers
        self._chain: list[tuple[ImagePath, int]] = []
        # None for a directory that no entry described yet.
        self._pending: dict[ImagePath, Status | None] = {b"": None}
        self._opaque_root = False
        self._open_up()

    def _open_up(self) -> None:
        # New files take the group of a directory with sgid: the caller's is wanted.
        os.fchmod(self._root, _WHILE_FILLED)

    # --- what a tree over other layers does in its own way

    def note_file(self, fd: int) -> None:
        """Take note of an open file that was just made."""

    def note_name(self, at: int, name: bytes) -> None:
        """Take note of something that was just made."""

    def is_ours(self, _status: os.stat_result) -> bool:
        """Tell whether this layer made what has this status."""
        return True

    def hide(self, path: ImagePath) -> None:
        """Hide a lower path; what this layer itself has there stays (image-spec layer.md)."""
        at, name = self.parent(path)
        try:
            make_whiteout(name, at)
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(name, dir_fd=at).st_mode):
                make_opaque(self.ensure_dir(path))

    def empty(self, path: ImagePath) -> None:
        """Hide what lower layers have in a directory."""
        if path:
            make_opaque(self.ensure_dir(path))
            return
        # overlayfs ignores the attribute on the root of a layer.
        self._opaque_root = True

    def parent(self, path: ImagePath) -> tuple[int, bytes]:
        """Return the directory of `path` and its last component.

        The directory is made where it is missing. The descriptor stays the tree's, and open
        until the next call.
        """
        directory, _, name = path.rpartition(b"/")
        return self.ensure_dir(directory), name

    @contextmanager
    def held_parent(self, path: ImagePath) -> Iterator[tuple[int, bytes]]:
        """Give the directory of `path`, which must exist, open until the block ends."""
        fd, name = inroot.open_parent(self._root, path)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def ensure_dir(self, path: ImagePath) -> int:
        """Return the directory `path`, which is made where it is missing."""
        return self._open(path, self._make_implicit)

    def make_dir(self, path: ImagePath, status: Status) -> None:
        """Make a directory in place of whatever else is there; one that is there is kept."""
        if path:
            at, name = self.parent(path)
            try:
                os.mkdir(name, _WHILE_FILLED, dir_fd=at)
                self.note_name(at, name)
            except FileExistsError:
                found = os.lstat(name, dir_fd=at)
                if is_whiteout(found, name, at):
                    _dir_for_whiteout(name, at)
                elif not stat.S_ISDIR(found.st_mode):
                    self.discard(path)
                    at, name = self.parent(path)
                    os.mkdir(name, _WHILE_FILLED, dir_fd=at)
                    self.note_name(at, name)
        self._pending[path] = status

    def discard(self, path: ImagePath) -> None:
        """Remove what this layer has at `path`, with all below it."""
        at, name = self.parent(path)
        try:
            is_dir = stat.S_ISDIR(os.lstat(name, dir_fd=at).st_mode)
        except FileNotFoundError:
            return
        if is_dir:
            remove_tree(name, at)
            below = path + b"/"
            self._pending = {
                key: status
                for key, status in self._pending.items()
                if key != path and not key.startswith(below)
            }
        else:
            os.unlink(name, dir_fd=at)
        # Links may have led to what is gone: no open directory can be trusted.
        self._shorten(0)

    def finish(self, note: Callable[[str], object]) -> None:
        """Hide what an opaque root hides; set owners, modes, attributes and times of directories."""
        if self._opaque_root:
            for name in self._lowers.names():
                self.hide(name)
        # Children first: a parent may end up closed to whoever unpacks without privileges.
        for path in sorted(self._pending, key=sort_key, reverse=True):
            with suppress(FileNotFoundError, NotADirectoryError):  # replaced through a link
                self._finish_dir(path, self._open(path, None), note)

    def close(self) -> None:
        self._shorten(0)

    def _finish_dir(self, path: ImagePath, fd: int, note: Callable[[str], object]) -> None:
        status = self._pending[path]
        if status is not None:
            self._ownership.apply(fd, status, note)
            return
        found = self._lowers.find(path)
        if found is None:
            self._ownership.apply(fd, _IMPLICIT, note)
            return
        try:
            if not stat.S_ISDIR(found.mode):
                self._ownership.apply(fd, _IMPLICIT, note)
                return
            source = found.open()
            try:
                found.copy_status(source, fd)
            finally:
                os.close(source)
        finally:
            found.close()

    def _open(self, path: ImagePath, make: Callable[[bytes, int, ImagePath], None] | None) -> int:
        if not path:
            return self._root
        chain = self._chain
        while chain and path != chain[-1][0] and not path.startswith(chain[-1][0] + b"/"):
            os.close(chain.pop()[1])
        done, fd = chain[-1] if chain else (b"", self._root)
        if done != path:
            for name in path[len(done) :].lstrip(b"/").split(b"/"):
                done = done + b"/" + name if done else name
                fd = self._enter(name, fd, done, make)
                chain.append((done, fd))
        return fd

    def _enter(
        self,
        name: bytes,
        at: int,
        path: ImagePath,
        make: Callable[[bytes, int, ImagePath], None] | None,
    ) -> int:
        try:
            return os.open(name, DIRECTORY, dir_fd=at)
        except (FileNotFoundError, NotADirectoryError):
            if make is None and not _is_symlink(name, at):
                raise
        if _is_symlink(name, at):
            return self._follow(path, create=make is not None)
        if make is not None:
            make(name, at, path)
        return os.open(name, DIRECTORY, dir_fd=at)

    def _follow(self, path: ImagePath, *, create: bool) -> int:
        """Open a directory behind a link of this layer, which cannot lead out of the root."""
        if not create:
            return inroot.open_in_root(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
        owner = None
        if not self._ownership.single:
            owner = self._ownership.on_disk(_IMPLICIT)
        return inroot.make_dirs(self._root, path, _IMPLICIT.mode, owner)

    def _make_implicit(self, name: bytes, at: int, path: ImagePath) -> None:
        try:
            os.mkdir(name, _WHILE_FILLED, dir_fd=at)
            self.note_name(at, name)
        except FileExistsError:
            if not is_whiteout(os.lstat(name, dir_fd=at), name, at):
                raise ImageError(
                    f"the archive has entries below {quoted(path)}, which is not a directory"
                ) from None
            _dir_for_whiteout(name, at)
        self._pending.setdefault(path, None)

    def _shorten(self, length: int) -> None:
        while len(self._chain) > length:
            os.close(self._chain.pop()[1])


def _dir_for_whiteout(name: bytes, at: int) -> None:
    """Put a directory where a whiteout is; that it hid the lower one must not be lost."""
    os.unlink(name, dir_fd=at)
    os.mkdir(name, _WHILE_FILLED, dir_fd=at)
    fd = os.open(name, DIRECTORY, dir_fd=at)
    try:
        make_opaque(fd)
    finally:
        os.close(fd)


def _is_symlink(name: bytes, at: int) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(name, dir_fd=at).st_mode)
    except FileNotFoundError:
        return False


def remove_tree(name: bytes, at: int) -> None:
    """Remove a directory with all below it, however deep links let an archive build it."""
    fd = os.open(name, DIRECTORY, dir_fd=at)
    levels = [(fd, name, _remove_files(fd))]  # with the directories still to be removed
    try:
        while levels:
            fd, name, left = levels[-1]
            if left:
                inner = left.pop()
                below = os.open(inner, DIRECTORY, dir_fd=fd)
                levels.append((below, inner, _remove_files(below)))
                continue
            os.close(levels.pop()[0])
            os.rmdir(name, dir_fd=levels[-1][0] if levels else at)
    finally:
        for fd, _, _ in levels:
            os.close(fd)


def _remove_files(fd: int) -> list[bytes]:
    """Remove what is no directory; return the names of those."""
    with os.scandir(fd) as found:
        entries = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in found]
    for name, is_dir in entries:
        if not is_dir:
            os.unlink(name, dir_fd=fd)
    return [name for name, is_dir in entries if is_dir]
