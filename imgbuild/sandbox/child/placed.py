"""The mounts of a step where nothing can be mounted: files put in place before it, taken away after.

What an image has at a target is moved aside and comes back; what a step writes to a copy is
thrown away; a directory that may be written to is moved in and out again, locked meanwhile. So
none of it is in the layer. Targets are looked up inside the root, as they would be for a mount.
"""

import base64
import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from imgbuild import inroot
from imgbuild.sandbox.child import lent, syscalls, wire
from imgbuild.sandbox.child.failure import Failed
from imgbuild.sandbox.child.stubs import Stubs

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})
_Times = tuple[int, int]


class _Source(NamedTuple):
    """Where something has to go back to; `note` is that of `lent`, if any."""

    parent: int
    name: bytes
    note: bytes
    locks: Sequence[int]


class _Placed(NamedTuple):
    """Something at its target, known by a handle wherever a step moves it."""

    held: int
    parent: int
    name: bytes
    original: bytes
    before: _Times
    after: _Times
    source: _Source | None
    directory: bool
    secret: bool


class Places:
    """The targets of one step. `aside` is a directory beside the root, on its file system."""

    def __init__(self, root_fd: int, aside: int, shift: int) -> None:
        self._root = root_fd
        self._top = os.readlink(b"/proc/self/fd/%d" % root_fd)
        self._aside = aside
        self._shift = shift
        self._stubs = Stubs(root_fd, shift)
        self._placed: list[_Placed] = []
        self._moved: set[bytes] = set()
        self._count = 0

    def put(self, mount: wire.Message) -> None:
        """Have a mount of a spec at its target; raise `Failed` for what only a mount can do."""
        target = os.fsencode(mount["target"]).strip(b"/")
        try:
            source = _found(mount) if mount["kind"] == "bind" else b""
            if source and (not mount["readonly"] or stat.S_ISSOCK(os.lstat(source).st_mode)):
                self._move_in(source, target)
            else:
                secret = mount["kind"] == "secret"
                self._swap(self._make(mount, source), target, secret=secret)
        except OSError as problem:
            text = problem.strerror or str(problem)
            raise Failed("bind", f"/{os.fsdecode(target)}: {text}", problem.errno) from None

    def take_away(self) -> None:
        """Undo everything; when all processes of the step are gone."""
        for placed in reversed(self._placed):
            self._restore(placed)
        self._placed.clear()
        self._stubs.remove()

    # --- making what will be at a target, aside from the root

    def _make(self, mount: wire.Message, source: bytes) -> bytes:
        name = self._name()
        match mount["kind"]:
            case "file":
                self._copy_file(os.fsencode(mount["source"]), name)
            case "bind":
                _copy(source, self._aside, name)
            case "secret":
                ids = (self._shift + mount["uid"], self._shift + mount["gid"])
                self._write(name, base64.b64decode(mount["value"]), mount["mode"], ids)
            case "tmpfs":
                if mount["size"] is not None:
                    raise Failed("bind", f"a tmpfs cannot be kept to a size at {mount['target']}")
                self._make_directory(name, mount["mode"])
            case kind:
                raise Failed("bind", f"a mount of kind {kind} needs mounts: {mount['target']}")
        return name

    def _copy_file(self, source: bytes, name: bytes) -> None:
        with open(source, "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            data = file.readall()
        self._write(name, data, stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid))

    def _write(self, name: bytes, data: bytes, mode: int, ids: tuple[int, int]) -> None:
        fd = os.open(name, _NEW, 0o600, dir_fd=self._aside)
        with open(fd, "wb") as file:
            file.write(data)
            os.fchown(fd, *ids)
            os.fchmod(fd, mode)

    def _make_directory(self, name: bytes, mode: int) -> None:
        os.mkdir(name, 0o700, dir_fd=self._aside)
        fd = os.open(name, _DIRECTORY, dir_fd=self._aside)
        os.fchown(fd, self._shift, self._shift)
        os.fchmod(fd, mode)
        os.close(fd)

    # --- in and out of the root

    def _move_in(self, source: bytes, target: bytes) -> None:
        """Move what may be written to; who else wants it waits until it is back.

        Meanwhile an empty directory stands in its place, and is what they wait for.
        """
        if source in self._moved:  # it would wait for itself
            raise Failed(
                "bind", f"one directory at two targets needs mounts: {os.fsdecode(target)}"
            )
        self._moved.add(source)
        folder, _, last = source.rpartition(b"/")
        parent = os.open(folder, _DIRECTORY & ~os.O_NOFOLLOW)
        name, note, locks = self._name(), b"", []
        try:
            if stat.S_ISDIR(os.lstat(last, dir_fd=parent).st_mode):
                os.mkdir(name, 0o700, dir_fd=self._aside)
                locks = [_lock(last, parent), _lock(name, self._aside)]
                note = lent.note(self._aside, name, source, os.fstat(locks[0]))
                syscalls.exchange(parent, last, self._aside, name)
            else:  # a socket, which nobody shares
                os.rename(last, name, src_dir_fd=parent, dst_dir_fd=self._aside)
        except OSError as problem:
            if problem.errno != errno.EXDEV:
                raise
            text = "it is on another file system than the store, and cannot be mounted"
            raise Failed("bind", f"{os.fsdecode(source)}: {text}") from None
        self._swap(name, target, _Source(parent, last, note, locks))

    def _swap(
        self,
        made: bytes,
        target: bytes,
        source: _Source | None = None,
        *,
        secret: bool = False,
    ) -> None:
        is_directory = stat.S_ISDIR(os.lstat(made, dir_fd=self._aside).st_mode)
        self._stubs.ensure([(target, is_directory)])
        parent, name = self._located(target, directory=is_directory)
        before = _times(parent)
        held = os.open(made, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._aside)
        original = self._name()
        os.rename(name, original, src_dir_fd=parent, dst_dir_fd=self._aside)
        os.rename(made, name, src_dir_fd=self._aside, dst_dir_fd=parent)
        os.utime(parent, ns=before)
        after = _times(parent)
        self._placed.append(
            _Placed(held, parent, name, original, before, after, source, is_directory, secret)
        )

    def _located(self, target: bytes, *, directory: bool) -> tuple[int, bytes]:
        """Find the directory that really holds a target, behind all links."""
        flags = os.O_PATH | (os.O_DIRECTORY if directory else 0)
        fd = inroot.open_in_root(self._root, target, flags)
        try:
            path = os.readlink(b"/proc/self/fd/%d" % fd)
            if not directory and stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        finally:
            os.close(fd)
        if not path.startswith(self._top + b"/"):
            raise OSError(errno.EBUSY, "the root itself cannot be a target")
        return inroot.open_parent(self._root, path[len(self._top) + 1 :], follow=False)

    def _restore(self, placed: _Placed) -> None:
        now = _times(placed.parent)
        used = self._take_out(placed)
        with _tolerating():
            os.rename(
                placed.original, placed.name, src_dir_fd=self._aside, dst_dir_fd=placed.parent
            )
        # The moves do not show; what the step itself did there does.
        os.utime(placed.parent, ns=placed.before if now[1] == placed.after[1] else now)
        if placed.source is not None:
            self._move_out(used, placed.source, directory=placed.directory)
        else:
            self._destroy(used, placed)
        os.close(placed.parent)
        os.close(placed.held)

    def _take_out(self, placed: _Placed) -> bytes:
        """Take out of the root what was put there, wherever the step moved it, and what it put
        in its place. Give the first where it still exists, else the second."""
        there = self._name()
        with _tolerating():
            os.rename(placed.name, there, src_dir_fd=placed.parent, dst_dir_fd=self._aside)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(there, dir_fd=self._aside), os.fstat(placed.held)):
                return there
        elsewhere = self._name()
        return elsewhere if self._find(placed.held, elsewhere) else there

    def _find(self, held: int, name: bytes) -> bool:
        """Move something that the step moved within the root out of it; tell whether it is there."""
        try:
            path = os.readlink(b"/proc/self/fd/%d" % held)
            if not path.startswith(self._top + b"/"):
                return False
            parent, last = inroot.open_parent(self._root, path[len(self._top) + 1 :], follow=False)
        except OSError:
            return False
        try:
            if not os.path.samestat(os.lstat(last, dir_fd=parent), os.fstat(held)):
                return False
            times = _times(parent)
            os.rename(last, name, src_dir_fd=parent, dst_dir_fd=self._aside)
            os.utime(parent, ns=times)
        except FileNotFoundError:
            return False
        finally:
            os.close(parent)
        return True

    def _move_out(self, used: bytes, source: _Source, *, directory: bool) -> None:
        """Give something back; where the step removed it or made it a link, it is empty now."""
        try:
            found = stat.S_ISDIR(os.lstat(used, dir_fd=self._aside).st_mode)
        except FileNotFoundError:
            found = not directory
        if directory and not found:
            used = self._name()
            self._make_directory(used, 0o755)
        if directory:
            syscalls.exchange(self._aside, used, source.parent, source.name)
            os.unlink(source.note, dir_fd=self._aside)
        elif not found:
            with _tolerating():
                os.rename(used, source.name, src_dir_fd=self._aside, dst_dir_fd=source.parent)
        for fd in (*source.locks, source.parent):
            os.close(fd)

    def _destroy(self, name: bytes, placed: _Placed) -> None:
        """Remove a file at once, which may be a secret; directories go with the step's place."""
        if placed.secret:  # it may have more names
            os.truncate(b"/proc/self/fd/%d" % placed.held, 0)
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=self._aside)

    def _name(self) -> bytes:
        self._count += 1
        return b"%s-%d" % (os.urandom(8).hex().encode(), self._count)


def _lock(name: bytes, at: int) -> int:
    """Wait until a directory is nobody else's, and be who has it."""
    while True:
        lock = os.open(name, _DIRECTORY, dir_fd=at)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(lock), os.lstat(name, dir_fd=at)):
            return lock
        os.close(lock)  # what stood in its place


@contextlib.contextmanager
def _tolerating() -> Iterator[None]:
    """Let pass that the step itself removed what is looked for."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in _GONE:
            raise


def _times(directory: int) -> _Times:
    found = os.fstat(directory)
    return found.st_atime_ns, found.st_mtime_ns


def _found(mount: wire.Message) -> bytes:
    """Give the path of what a bind shows, which may have to be looked up inside its source."""
    source, path = os.fsencode(mount["source"]), os.fsencode(mount.get("path", ""))
    if not path:
        return source
    root = os.open(source, os.O_PATH | os.O_CLOEXEC)
    try:
        found = inroot.open_in_root(root, path, os.O_PATH)
        try:
            return os.readlink(b"/proc/self/fd/%d" % found)
        finally:
            os.close(found)
    finally:
        os.close(root)


def _copy(source: bytes, at: int, name: bytes) -> None:
    """Copy a file or a tree with owners, modes and times; sockets and devices are left out."""
    folder, _, last = source.rpartition(b"/")
    parent = os.open(folder or b"/", _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        _copy_entry(parent, last or b".", at, name)
    finally:
        os.close(parent)


def _copy_entry(source: int, name: bytes, at: int, new: bytes) -> None:
    found = os.lstat(name, dir_fd=source)
    if stat.S_ISDIR(found.st_mode):
        _copy_directory(source, name, at, new)
    elif stat.S_ISREG(found.st_mode):
        _copy_content(source, name, at, new)
    elif stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), new, dir_fd=at)
    elif stat.S_ISFIFO(found.st_mode):
        os.mkfifo(new, 0o600, dir_fd=at)
    else:
        return
    os.chown(new, found.st_uid, found.st_gid, dir_fd=at, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(new, stat.S_IMODE(found.st_mode), dir_fd=at)
    times = (found.st_atime_ns, found.st_mtime_ns)
    os.utime(new, ns=times, dir_fd=at, follow_symlinks=False)


def _copy_directory(source: int, name: bytes, at: int, new: bytes) -> None:
    os.mkdir(new, 0o700, dir_fd=at)
    inner = os.open(name, _DIRECTORY, dir_fd=source)
    made = os.open(new, _DIRECTORY, dir_fd=at)
    try:
        for child in map(os.fsencode, os.listdir(inner)):
            _copy_entry(inner, child, made, child)
    finally:
        os.close(inner)
        os.close(made)


def _copy_content(source: int, name: bytes, at: int, new: bytes) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    writing = os.open(new, _NEW, 0o600, dir_fd=at)
    try:
        while os.sendfile(writing, reading, None, _CHUNK):
            pass
    finally:
        os.close(reading)
        os.close(writing)
