"""A build context seen as an image tree: what its ignore file leaves, all owned by root.

Everything is opened through `inroot`, so that no symlink, and no race with one, leaves the context.
Only what is asked for is read.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, Self

from imgbuild import inroot
from imgbuild.build.copyrules import Below, show
from imgbuild.errors import ContextError, UsageError
from imgbuild.layer.entry import Entry, ImagePath

# A .dockerignore of more than this is a mistake, not a list of patterns.
_MAX_IGNORE = 1 << 20
_DEEPEST = 400  # directories: the walk is recursive
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    # BuildKit copies a socket as an empty file.
    stat.S_IFSOCK: "file",
}


class Ignore(Protocol):
    """Which paths a context hides; `dockerfile.ignore.IgnoreMatcher` is one."""

    def matches(self, path: bytes) -> bool: ...
    def may_include_below(self, path: bytes) -> bool: ...


class Identity(NamedTuple):
    """What tells that a file was not changed: times are in nanoseconds."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int


def identity(found: os.stat_result) -> Identity:
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class _Walk(NamedTuple):
    """What one walk remembers, and which directories it does not enter."""

    links: dict[tuple[int, int], ImagePath]
    skip: Callable[[ImagePath], bool] | None


class ContextTree:
    """The tree below `root`; close it when done.

    Raises `UsageError` when `root` is no directory, `ContextError` for what cannot be read.
    """

    def __init__(self, root: Path, ignore: Ignore | None = None, ignore_name: str = "") -> None:
        self.root = root
        self._ignore = ignore
        self._ignore_name = ignore_name or ".dockerignore"
        self._entries: dict[ImagePath, Entry | None] = {}
        self._identities: dict[ImagePath, Identity] = {}
        self._at: tuple[ImagePath, int] | None = None
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as problem:
            raise UsageError(
                f"cannot use {root} as a build context: {problem.strerror}",
                hint="give a directory that can be read",
            ) from None

    def close(self) -> None:
        self._leave()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def lstat(self, path: ImagePath) -> Entry | None:
        """Describe what is at `path`, whose parents are real; None for what is not there or ignored."""
        if path not in self._entries:
            self._entries[path] = self._look(path)
        return self._entries[path]

    def listdir(self, path: ImagePath) -> list[bytes]:
        """Return the sorted names in a directory that are not ignored."""
        fd = self._open_dir(path)
        try:
            names = sorted(os.fsencode(name) for name in os.listdir(fd))
        finally:
            os.close(fd)
        prefix = path + b"/" if path else b""
        return [name for name in names if self.lstat(prefix + name) is not None]

    def walk(
        self, path: ImagePath, skip: Callable[[ImagePath], bool] | None = None
    ) -> Iterator[Below]:
        """Yield what is below a directory in layer order; names of one file after the first are links.

        Directories for which `skip` is true are left out with all that they hold.
        """
        fd = self._open_dir(path)
        try:
            yield from self._walk(fd, path + b"/" if path else b"", b"", _Walk({}, skip))
        finally:
            os.close(fd)

    def open(self, path: ImagePath) -> BinaryIO:
        """Open a file that was looked at; raise `ContextError` when it changed since then."""
        parent, _, name = path.rpartition(b"/")
        try:
            if self._at is None or self._at[0] != parent:
                self._leave()
                self._at = (parent, self._open_dir(parent))
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            # One component below a directory that inroot opened.
            fd = os.open(name, flags, dir_fd=self._at[1])
        except OSError as problem:
            raise self._unreadable(path, problem) from None
        stream = open(fd, "rb", buffering=0)  # noqa: SIM115 - the caller closes it
        try:
            self.check(path, fd)
        except ContextError:
            stream.close()
            raise
        return stream

    def check(self, path: ImagePath, fd: int) -> None:
        """Raise `ContextError` when the open file is no longer what was looked at."""
        if identity(os.fstat(fd)) != self._identities[path]:
            raise ContextError(
                f"{show(path)} in the build context changed while it was read",
                hint="stop what writes to it, or add it to .dockerignore",
            )

    def identity(self, path: ImagePath) -> Identity:
        """Return the identity of a file that was looked at."""
        return self._identities[path]

    def is_ignored(self, path: ImagePath) -> bool:
        """Tell whether the ignore file, and nothing else, hides `path`: for error messages."""
        if self._ignore is None or not self._hidden(path):
            return False
        try:
            inroot.lstat_in_root(self._fd, path)
        except OSError:
            return False
        return True

    @property
    def ignore_name(self) -> str:
        return self._ignore_name

    # --- below here nothing is public

    def _hidden(self, path: ImagePath) -> bool:
        return self._ignore is not None and self._ignore.matches(path)

    def _leave(self) -> None:
        if self._at is not None:
            os.close(self._at[1])
            self._at = None

    def _open_dir(self, path: ImagePath) -> int:
        try:
            return inroot.open_in_root(self._fd, path, _DIR)
        except OSError as problem:
            raise self._unreadable(path, problem) from None

    def _look(self, path: ImagePath) -> Entry | None:
        if not path:
            return Entry(b"", "dir", 0o755)
        try:
            parent_fd, name = inroot.open_parent(self._fd, path)
        except OSError as problem:
            if problem.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise self._unreadable(path, problem) from None
        try:
            found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            entry = self._entry(path, name, parent_fd, found)
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise self._unreadable(path, problem) from None
        finally:
            os.close(parent_fd)
        if self._hidden(path) and (entry.type != "dir" or not self._has_included(path)):
            return None
        return entry

    def _has_included(self, path: ImagePath) -> bool:
        """Tell whether an ignored directory holds anything that a `!` pattern brings back."""
        if self._ignore is None or not self._ignore.may_include_below(path):
            return False
        return next(self.walk(path), None) is not None

    def _entry(self, path: ImagePath, name: bytes, at: int, found: os.stat_result) -> Entry:
        kind = _KINDS[stat.S_IFMT(found.st_mode)]
        mode = stat.S_IMODE(found.st_mode)
        mtime = found.st_mtime_ns // 1_000_000_000
        if kind == "file":
            self._identities[path] = identity(found)
            size = found.st_size if stat.S_ISREG(found.st_mode) else 0
            return Entry(path, "file", mode, 0, 0, mtime, size)
        if kind == "symlink":
            return Entry(path, "symlink", 0o777, 0, 0, mtime, 0, os.readlink(name, dir_fd=at))
        if kind in ("char", "block"):
            rdev = (os.major(found.st_rdev), os.minor(found.st_rdev))
            return Entry(path, "char" if kind == "char" else "block", mode, 0, 0, mtime, rdev=rdev)
        return Entry(path, "dir" if kind == "dir" else "fifo", mode, 0, 0, mtime)

    def _walk(self, fd: int, prefix: bytes, rel: bytes, walk: "_Walk") -> Iterator[Below]:
        try:
            with os.scandir(fd) as listing:
                children = sorted((os.fsencode(child.name), child) for child in listing)
        except OSError as problem:
            raise self._unreadable(prefix + rel, problem) from None
        for name, child in children:
            below = rel + name
            path = prefix + below
            hidden = self._hidden(path)
            if hidden and not child.is_dir(follow_symlinks=False):
                continue
            try:
                found = child.stat(follow_symlinks=False)
                entry = self._entry(path, name, fd, found)
            except FileNotFoundError:
                continue  # gone since the directory was listed
            except OSError as problem:
                raise self._unreadable(path, problem) from None
            if entry.type == "dir":
                if walk.skip is None or not walk.skip(path):
                    yield from self._walk_dir(fd, Below(below, path, entry), walk, hidden=hidden)
                continue
            if found.st_nlink > 1 and stat.S_ISREG(found.st_mode):
                first = walk.links.setdefault((found.st_dev, found.st_ino), path)
                if first != path:
                    entry = _link(entry, first)
            self._entries[path] = entry
            yield Below(below, path, entry)

    def _walk_dir(self, fd: int, item: Below, walk: "_Walk", *, hidden: bool) -> Iterator[Below]:
        if hidden and (self._ignore is None or not self._ignore.may_include_below(item.path)):
            return
        if item.rel.count(b"/") >= _DEEPEST:
            raise ContextError(
                f"the build context {self.root} is more than {_DEEPEST} directories deep",
                hint=f"add what is so deep to {self._ignore_name}",
            )
        try:
            name = item.rel.rpartition(b"/")[2]
            inner = os.open(name, _DIR | os.O_CLOEXEC, dir_fd=fd)
        except OSError as problem:
            raise self._unreadable(item.path, problem) from None
        try:
            prefix = item.path.removesuffix(item.rel)
            below = self._walk(inner, prefix, item.rel + b"/", walk)
            if hidden:
                # An ignored directory exists only for the sake of what was brought back below it.
                first = next(below, None)
                if first is None:
                    return
                yield item
                yield first
            else:
                yield item
            yield from below
        finally:
            os.close(inner)

    def _unreadable(self, path: ImagePath, problem: OSError) -> ContextError:
        return ContextError(
            f"cannot read {show(path)} in the build context {self.root}: {problem.strerror}",
            hint=f"make it readable, or add it to {self._ignore_name}",
        )


def _link(entry: Entry, first: ImagePath) -> Entry:
    return Entry(entry.path, "hardlink", entry.mode, 0, 0, entry.mtime, entry.size, linkname=first)


def read_ignore_file(context: Path, dockerfile: Path | None = None) -> tuple[str, str] | None:
    """Return the text of the ignore file and its name; None where there is none.

    `<Dockerfile>.dockerignore` beside the Dockerfile comes before `.dockerignore` in the context.
    Raises `ContextError`.
    """
    candidates = [context / ".dockerignore"]
    if dockerfile is not None:
        candidates.insert(0, dockerfile.with_name(dockerfile.name + ".dockerignore"))
    for path in candidates:
        try:
            with path.open("rb") as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raise ContextError(f"{path} is not a regular file", hint="remove it")
                data = stream.read(_MAX_IGNORE + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as problem:
            raise ContextError(
                f"cannot read {path}: {problem.strerror}",
                hint="make it a file that this user can read, or remove it",
            ) from None
        if len(data) > _MAX_IGNORE:
            raise ContextError(
                f"{path} is larger than {_MAX_IGNORE} bytes",
                hint="patterns such as **/*.tmp stand for many files",
            )
        return data.decode("utf-8", "surrogateescape"), path.name
    return None


def open_context(root: Path, dockerfile: Path | None = None) -> ContextTree:
    """Open a context with its ignore file, if it has one."""
    found = read_ignore_file(root, dockerfile)
    if found is None:
        return ContextTree(root)
    from imgbuild.dockerfile.ignore import IgnoreMatcher, parse_ignore

    text, name = found
    patterns = parse_ignore(text)
    return ContextTree(root, IgnoreMatcher(patterns) if patterns else None, name)
