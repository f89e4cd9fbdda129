"""Make what mounts are put on where an image lacks it, and take it away again.

The skeleton below all layers usually has it; an image that hides or replaces a directory of
that may still lack it. What is made here must not end up in the step's layer.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator

from imgbuild import inroot
from imgbuild.sandbox.child import syscalls

_Times = tuple[int, int]


class Stubs:
    """The stand-ins of one root, as long as a step runs."""

    def __init__(self, root_fd: int, owner: int = 0) -> None:
        """`owner` is the container's root as seen from here."""
        self._root = root_fd
        self._owner = owner
        # (parent, name, the parent's times before and after)
        self._made: list[tuple[int, bytes, _Times, _Times]] = []

    def ensure(self, paths: Iterable[tuple[bytes, bool]]) -> None:
        """Make sure of some paths, given with whether each is a directory."""
        for path, directory in paths:
            flags = os.O_PATH | (os.O_DIRECTORY if directory else 0)
            try:
                os.close(inroot.open_in_root(self._root, path, flags))
            except FileNotFoundError:
                self._make(path, directory=directory)
            except OSError as problem:
                text = f"/{os.fsdecode(path)}: {problem.strerror}"
                raise OSError(problem.errno, text) from None

    def _make(self, path: bytes, *, directory: bool, links: int = 0) -> None:
        above = os.path.dirname(path)
        self.ensure([(above, True)])
        parent, name = inroot.open_parent(self._root, path)
        try:
            text = os.readlink(name, dir_fd=parent)
        except OSError:
            self._make_at(parent, name, directory=directory)
            return
        os.close(parent)
        # A dangling link: what it points at is made, inside the root.
        if links == 40:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        self._make(os.path.join(above, text), directory=directory, links=links + 1)

    def _make_at(self, parent: int, name: bytes, *, directory: bool) -> None:
        before = _times(parent)
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=parent))
        if self._owner:
            os.chown(name, self._owner, self._owner, dir_fd=parent, follow_symlinks=False)
        self._made.append((parent, name, before, _times(parent)))

    def remove(self) -> None:
        """Remove what was made and is still empty, and what is mounted on it.

        To be called when all processes of the step are gone, in its mount namespace.
        """
        for parent, name, before, after in reversed(self._made):
            now = _times(parent)
            _unmount(name, parent)
            with _tolerating():
                _remove_empty(name, parent)
            os.utime(parent, ns=before if now[1] == after[1] else now)
            os.close(parent)


def _unmount(name: bytes, parent: int) -> None:
    """Take away all that is mounted on a name, wherever its parent is by now."""
    os.fchdir(parent)
    with contextlib.suppress(OSError):  # until nothing is; what is left shows at the removal
        while True:
            syscalls.umount(name, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)


@contextlib.contextmanager
def _tolerating() -> Iterator[None]:
    """Let pass that the command itself removed, replaced or filled what was made."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in {errno.ENOENT, errno.EINVAL, errno.ENOTEMPTY, errno.ENOTDIR}:
            raise


def _remove_empty(name: bytes, parent: int) -> None:
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode):
        os.rmdir(name, dir_fd=parent)
    elif stat.S_ISREG(found.st_mode) and found.st_size == 0:
        os.unlink(name, dir_fd=parent)


def _times(directory: int) -> _Times:
    found = os.fstat(directory)
    return found.st_atime_ns, found.st_mtime_ns
