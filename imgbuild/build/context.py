"""A build context seen as an image tree: what its ignore file leaves, all owned by root.

Everything is opened through `inroot`, so that no symlink, and no race with one, leaves the context.
Only what is asked for is read.
"""

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self, TypeVar

from imgbuild import inroot
from imgbuild.build.copyrules import show
from imgbuild.build.filereader import FileChangedError, FileReadError, Wanted, check
from imgbuild.build.ignorefile import Ignore, IgnoreScope, read_ignore_file
from imgbuild.build.listing import Item
from imgbuild.build.readers import Batch, Readers
from imgbuild.errors import ContextError, UsageError
from imgbuild.layer.entry import Entry, EntryType, ImagePath

_DEEPEST = 400  # directories, each of which stays open while what is below it is listed
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_KINDS: dict[int, EntryType] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    # BuildKit copies a socket as an empty file.
    stat.S_IFSOCK: "file",
}
_ENCODING = sys.getfilesystemencoding()
_ROOT = Item(b"", "dir", 0o755)
_NEVER = sys.maxsize
_MANY = 2000

if TYPE_CHECKING:
    from imgbuild.dockerfile.ignore import Decision

Key = TypeVar("Key")
Skip = Callable[[ImagePath], bool]


class _Frame(NamedTuple):
    """A directory that is being listed; `rel` ends in a slash unless it is where the walk began.

    Without a `scope` nothing below is hidden. `folders` are the names that may be directories,
    None where that was not looked at.
    """

    fd: int
    rel: bytes
    names: Iterator[bytes]
    scope: IgnoreScope | None
    folders: frozenset[bytes] | None


class ContextTree:
    """The tree below `root`, which errors call `where`; close it when done.

    `identity` stands for the content of a tree that was made anew for this build.

    Raises `UsageError` when `root` is no directory, `ContextError` for what cannot be read.
    """

    def __init__(
        self, root: Path, ignore: Ignore | None = None, ignore_name: str = "", where: str = ""
    ) -> None:
        self.root = root
        self.where = where or f"the build context, {root}"
        self.identity = ""
        self._ignore = ignore
        self._ignore_name = ignore_name or ".dockerignore"
        self._items: dict[ImagePath, Item | None] = {}
        self._readers: Readers | None = None
        self._early = _NEVER  # after as many items, a walk starts what reads files
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as problem:
            raise UsageError(
                f"cannot use {root} as a build context: {problem.strerror}",
                hint="give a directory that can be read",
            ) from None

    def close(self) -> None:
        if self._readers is not None:
            self._readers.close()
            self._readers = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def lstat(self, path: ImagePath) -> Entry | None:
        """Describe what is at `path`, whose parents are real; None for what is not there or ignored."""
        item = self.item(path)
        return None if item is None else item.entry(path)

    def item(self, path: ImagePath) -> Item | None:
        """Return what `lstat` tells as an item without a name, with the `stat` of a file."""
        if path not in self._items:
            self._items[path] = self._look(path)
        return self._items[path]

    def listdir(self, path: ImagePath) -> list[bytes]:
        """Return the sorted names in a directory that are not ignored."""
        fd = self._open_dir(path)
        try:
            names = sorted(map(os.fsencode, os.listdir(fd)))
        finally:
            os.close(fd)
        prefix = path + b"/" if path else b""
        return [name for name in names if self.lstat(prefix + name) is not None]

    def walk(self, path: ImagePath, skip: Skip | None = None) -> Iterator[Item]:
        """Yield what is below a directory in layer order.

        Directories for which `skip` is true are left out with all that they hold. An ignored
        directory is there only for the sake of what was brought back below it.
        """
        prefix = path + b"/" if path else b""
        left = self._early
        scope = None if self._ignore is None else _heard(self._ignore.scope(path))
        if scope is not None and scope.prunes:
            return
        way = [self._enter(self._open_dir(path), prefix, b"", scope)]
        kept: list[Item] = []  # ignored directories down to here, which may turn out to be empty
        try:
            while way:
                frame = way[-1]
                name = next(frame.names, None)
                if name is None:
                    _leave(way, kept)
                    continue
                seen = self._seen(frame, name, prefix)
                if seen is None:
                    continue
                item, hidden = seen
                left -= 1
                if left == 0:
                    self._reading().start()
                at = prefix + item.rel
                if item.type == "dir" and skip is not None and skip(at):
                    continue
                if hidden:
                    kept.append(item)
                else:
                    yield from kept
                    kept.clear()
                    yield item
                if item.type == "dir":
                    way.append(self._descend(way, at, item.rel, name))
        finally:
            for frame in way:
                os.close(frame.fd)

    def expect_reading(self) -> None:
        """Say that what is walked next is read then: with many files, that is made ready meanwhile."""
        self._early = _MANY

    def open(self, path: ImagePath) -> BinaryIO:
        """Open a file for reading; no symlink is followed at its end. Raises `ContextError`."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            fd = inroot.open_in_root(self._fd, path, flags)
        except OSError as problem:
            raise self._unreadable(path, problem.strerror) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            # It was a file when it was listed: a pipe or a device may have no end.
            os.close(fd)
            raise self._changed(path)
        return open(fd, "rb", buffering=0)

    def check(self, stream: BinaryIO, path: ImagePath, item: Item) -> None:
        """Raise `ContextError` when an open file is not what was listed, or was written to."""
        try:
            check(stream.fileno(), wanted(path, item))
        except FileChangedError:
            raise self._changed(path) from None

    def read(
        self, batches: Iterable[tuple[Key, list[Wanted]]], flags: int, expected: int
    ) -> Iterator[tuple[Key, Batch]]:
        """Read files in batches, as `Readers.read` does; raise `ContextError`."""
        try:
            yield from self._reading().read(batches, flags, expected)
        except FileChangedError as error:
            raise self._changed(error.path) from None
        except FileReadError as error:
            raise self._unreadable(error.path, error.reason) from None

    def is_ignored(self, path: ImagePath) -> bool:
        """Tell whether the ignore file, and nothing else, hides `path`: for error messages."""
        return self._hidden(path) and self.exists(path)

    def exists(self, path: ImagePath) -> bool:
        """Tell whether something is at `path`, ignored or not."""
        try:
            inroot.lstat_in_root(self._fd, path)
        except OSError:
            return False
        return True

    def decide(self, path: ImagePath) -> "Decision | None":
        """Return what the ignore file says of `path`; None where there is no ignore file."""
        return None if self._ignore is None else self._ignore.decide(path)

    def why_ignored(self, path: ImagePath) -> str:
        """Say which line of the ignore file excludes a path that it does exclude."""
        decision = self.decide(path)
        if decision is None or decision.line is None:
            return f"{self._ignore_name} excludes it"
        where = f"(line {decision.line.number}: {decision.line.text})"
        at = decision.at.encode("utf-8", "surrogateescape")
        if at == path:
            return f"{self._ignore_name} excludes it {where}"
        return (
            f"{self._ignore_name} excludes {show(at)} above it {where}, and nothing brings it back"
        )

    @property
    def ignore_name(self) -> str:
        return self._ignore_name

    # --- below here nothing is public

    def _reading(self) -> Readers:
        if self._readers is None:
            self._readers = Readers(self._fd)
        return self._readers

    def _hidden(self, path: ImagePath) -> bool:
        return self._ignore is not None and self._ignore.matches(path)

    def _may_include_below(self, path: ImagePath) -> bool:
        return self._ignore is not None and self._ignore.may_include_below(path)

    def _open_dir(self, path: ImagePath) -> int:
        try:
            return inroot.open_in_root(self._fd, path, _DIR)
        except OSError as problem:
            raise self._unreadable(path, problem.strerror) from None

    def _look(self, path: ImagePath) -> Item | None:
        if not path:
            return _ROOT
        try:
            parent_fd, name = inroot.open_parent(self._fd, path)
        except OSError as problem:
            if problem.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise self._unreadable(path, problem.strerror) from None
        try:
            item = self._stat(path, b"", name, parent_fd)
        finally:
            os.close(parent_fd)
        if item is not None and self._hidden(path):
            return item if item.type == "dir" and self._has_included(path) else None
        return item

    def _has_included(self, path: ImagePath) -> bool:
        """Tell whether an ignored directory holds anything that a `!` pattern brings back."""
        return self._may_include_below(path) and next(self.walk(path), None) is not None

    def _stat(self, path: ImagePath, rel: bytes, name: bytes, at: int) -> Item | None:
        """Describe what a directory holds by `name`; None when it is gone since it was listed."""
        try:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            kind = _KINDS[stat.S_IFMT(found.st_mode)]
            link = os.readlink(name, dir_fd=at) if kind == "symlink" else b""
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise self._unreadable(path, problem.strerror) from None
        mode = found.st_mode & 0o7777
        modified, changed = found.st_mtime_ns, found.st_ctime_ns
        identity = (found.st_dev, found.st_ino, modified, changed)
        mtime = modified // 1_000_000_000
        if kind == "file":
            group = b""
            if stat.S_ISSOCK(found.st_mode):
                return Item(rel, kind, mode, mtime=mtime)
            if found.st_nlink > 1:
                group = b"%d:%d" % identity[:2]
            return Item(
                rel, kind, mode, 0, 0, mtime, found.st_size, b"", None, None, None, identity, group
            )
        if kind == "symlink":
            return Item(rel, kind, 0o777, 0, 0, mtime, 0, link, stat=identity)
        if kind in ("char", "block"):
            rdev = (os.major(found.st_rdev), os.minor(found.st_rdev))
            return Item(rel, kind, mode, 0, 0, mtime, rdev=rdev, stat=identity)
        return Item(rel, kind, mode, 0, 0, mtime, stat=identity)

    def _enter(self, fd: int, path: bytes, rel: bytes, scope: IgnoreScope | None) -> _Frame:
        """Take over `fd`, a directory, to list what it holds."""
        try:
            if scope is None or not scope.revives:
                names, folders = _encoded(os.listdir(fd)), None
            else:
                names, folders = _names_and_folders(fd)
            return _Frame(fd, rel, iter(sorted(names)), scope, folders)
        except OSError as problem:
            os.close(fd)
            raise self._unreadable(path.rstrip(b"/"), problem.strerror) from None

    def _seen(self, frame: _Frame, name: bytes, prefix: bytes) -> tuple[Item, bool] | None:
        """Describe a name in a directory, and tell whether it is hidden; None for what is out."""
        scope = frame.scope
        hidden = scope is not None and scope.hides(name)
        if hidden and not _may_show(frame, name):
            return None
        rel = frame.rel + name
        item = self._stat(prefix + rel, rel, name, frame.fd)
        if item is None or (hidden and item.type != "dir"):
            return None
        return item, hidden

    def _descend(self, way: list[_Frame], path: ImagePath, rel: bytes, name: bytes) -> _Frame:
        if len(way) > _DEEPEST:
            raise ContextError(
                f"the build context {self.root} is more than {_DEEPEST} directories deep",
                hint=f"add what is so deep to {self._ignore_name}",
            )
        try:
            inner = os.open(name, _DIR | os.O_CLOEXEC, dir_fd=way[-1].fd)
        except OSError as problem:
            raise self._unreadable(path, problem.strerror) from None
        scope = way[-1].scope
        below = None if scope is None else _heard(scope.below(name))
        return self._enter(inner, path, rel + b"/", below)

    def _unreadable(self, path: ImagePath, reason: str | None) -> ContextError:
        return ContextError(
            f"cannot read {show(path)} in the build context {self.root}: {reason}",
            hint=f"make it readable, or add it to {self._ignore_name}",
        )

    def _changed(self, path: ImagePath) -> ContextError:
        return ContextError(
            f"{show(path)} in the build context changed while it was read",
            hint=f"stop what writes to it, or add it to {self._ignore_name}",
        )


def _heard(scope: IgnoreScope) -> IgnoreScope | None:
    """Return a scope that has something to say."""
    return None if scope.silent else scope


def _leave(way: list[_Frame], kept: list[Item]) -> None:
    """Close the last directory of `way`; `kept` has it while nothing below it was seen."""
    frame = way.pop()
    os.close(frame.fd)
    if kept and kept[-1].rel == frame.rel[:-1]:
        kept.pop()


def _may_show(frame: _Frame, name: bytes) -> bool:
    """Tell whether a hidden name may be that of a directory with something to see below it."""
    scope, folders = frame.scope, frame.folders
    if scope is None or folders is None or name not in folders:
        return False
    return not scope.below(name).prunes


def _names_and_folders(fd: int) -> tuple[list[bytes], frozenset[bytes]]:
    """List a directory; what is no directory is known without looking at it."""
    with os.scandir(fd) as found:
        entries = [
            (name, entry.is_dir(follow_symlinks=False))
            for entry in found
            for name in _encoded([entry.name])
        ]
    return [name for name, _ in entries], frozenset(name for name, is_dir in entries if is_dir)


def _encoded(names: list[str]) -> list[bytes]:
    return [name.encode(_ENCODING, "surrogateescape") for name in names]


def wanted(path: ImagePath, item: Item) -> Wanted:
    """Return a file that was listed as it is asked for from `filereader`."""
    dev, ino, mtime_ns, ctime_ns = item.stat or (0, 0, 0, 0)
    return (path, item.size, dev, ino, mtime_ns, ctime_ns)


def open_context(root: Path, dockerfile: Path | None = None) -> ContextTree:
    """Open a context with its ignore file, if it has one."""
    found = read_ignore_file(root, dockerfile)
    if found is None:
        return ContextTree(root)
    from imgbuild.dockerfile.ignore import IgnoreMatcher

    text, name = found
    return ContextTree(root, IgnoreMatcher.read(text, name), name)
