"""Read many small files fast, and say when one is not what was looked at before.

Runs in the caller, or as a process of its own that serves requests over pipes; that half must
import nothing but the standard library, its siblings and `inroot`.
"""

import errno
import hashlib
import marshal
import os
import stat
from collections.abc import Callable, Iterator
from typing import IO, Any

from imgbuild import inroot
from imgbuild.layer.xattrs import CAPABILITY

# What is wanted of files.
HASH, CONTENT, XATTRS = 1, 2, 4
CHUNK = 1 << 20
# What a process says first, so that nothing else is taken for one.
GREETING = b"imgbuild reader\n"

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

# path, size, device, inode, mtime_ns, ctime_ns
Wanted = tuple[bytes, int, int, int, int, int]
# The digest's 32 bytes, and attributes by name; each None where it was not asked for.
Fact = tuple[bytes | None, dict[str, bytes] | None]


class FileChangedError(Exception):
    """The file at `path` is no longer what it was when the tree was listed."""

    def __init__(self, path: bytes) -> None:
        super().__init__(path)
        self.path = path


class FileReadError(Exception):
    """The file at `path` cannot be read; `reason` is the system's word for it."""

    def __init__(self, path: bytes, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason


class TreeReader:
    """Opens files below a directory, cheapest in the order of a walk.

    A long file is given up once `is_wanted` says that nobody waits for it any more.
    """

    def __init__(self, root: int, is_wanted: Callable[[], bool] | None = None) -> None:
        self._root = root
        self._is_wanted = is_wanted
        self._at: tuple[bytes, int] | None = None

    def close(self) -> None:
        if self._at is not None:
            os.close(self._at[1])
            self._at = None

    def open(self, path: bytes) -> int:
        """Open a file for reading; no symlink is followed at its end, and none leads out.

        Raises `FileReadError`.
        """
        parent, _, name = path.rpartition(b"/")
        try:
            if self._at is None or self._at[0] != parent:
                self.close()
                self._at = (parent, inroot.open_in_root(self._root, parent, _DIR))
            return os.open(name, _FLAGS, dir_fd=self._at[1])
        except OSError as problem:
            raise FileReadError(path, problem.strerror or str(problem)) from None

    def read(self, wanted: Wanted, flags: int) -> tuple[Fact, bytes]:
        """Return what is asked for of a file; content is empty unless asked for.

        Raises `FileChangedError` and `FileReadError`.
        """
        fd = self.open(wanted[0])
        try:
            # Before reading, too: a device that took the place of a file has no end.
            check(fd, wanted)
            size = wanted[1]
            data = os.read(fd, min(size, CHUNK) + 1)
            length = len(data)
            if length == size and size < CHUNK:
                digest = hashlib.sha256(data).digest() if flags & HASH else b""
            else:
                parts = [data] if flags & CONTENT else []
                digest, length = self._digest_rest(fd, size, data, parts)
                data = b"".join(parts)
            if length != size:
                raise FileChangedError(wanted[0])
            check(fd, wanted)
            xattrs = read_xattrs(fd) if flags & XATTRS else None
        except OSError as problem:
            raise FileReadError(wanted[0], problem.strerror or str(problem)) from None
        finally:
            os.close(fd)
        return (digest if flags & HASH else None, xattrs), data if flags & CONTENT else b""

    def _digest_rest(
        self, fd: int, size: int, data: bytes, parts: list[bytes]
    ) -> tuple[bytes, int]:
        """Read to the end, or past `size`; give the digest of it all and its length."""
        state = hashlib.sha256(data)
        length = len(data)
        # What grows as fast as it is read has no end either.
        while data and length <= size:
            if self._is_wanted is not None and not self._is_wanted():
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            data = os.read(fd, CHUNK)
            state.update(data)
            length += len(data)
            if parts:
                parts.append(data)
        return state.digest(), length


def check(fd: int, wanted: Wanted) -> None:
    """Raise `FileChangedError` when the open file is not the one that was looked at, or was written to.

    After reading, the times show what was written before and meanwhile.
    """
    found = os.fstat(fd)
    if (
        found.st_size != wanted[1]
        or found.st_ino != wanted[3]
        or found.st_mtime_ns != wanted[4]
        or found.st_ctime_ns != wanted[5]
        or found.st_dev != wanted[2]
        or not stat.S_ISREG(found.st_mode)
    ):
        raise FileChangedError(wanted[0])


def read_xattrs(fd: int) -> dict[str, bytes]:
    """Return the attributes of an open file that reach an image: its capabilities, if it has any.

    Others tell of this machine, and BuildKit leaves them out as well.
    """
    try:
        if CAPABILITY not in os.listxattr(fd):
            return {}
        return {CAPABILITY: os.getxattr(fd, CAPABILITY)}
    except OSError as problem:
        if problem.errno in (errno.ENOTSUP, errno.EPERM):
            return {}
        raise


# --- as a process: requests and answers are framed by their length in 8 bytes


def send(stream: IO[bytes], message: Any, data: bytes = b"") -> None:
    """Write a message, and bytes that go with it."""
    body = marshal.dumps(message)
    stream.write(len(body).to_bytes(8, "little") + len(data).to_bytes(8, "little") + body)
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[Any, bytes] | None:
    """Read a message with its bytes; None at the end of the stream."""
    head = stream.read(16)
    if len(head) < 16:
        return None
    body = stream.read(int.from_bytes(head[:8], "little"))
    data = stream.read(int.from_bytes(head[8:], "little"))
    # Between this process and one that it started, nobody else writes.
    return marshal.loads(body), data  # noqa: S302


def serve(root: int, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more."""
    parent = os.getppid()
    reader = TreeReader(root, lambda: os.getppid() == parent)
    answers.write(GREETING)
    answers.flush()
    while (request := receive(requests)) is not None:
        flags, batch = request[0]
        try:
            found = list(_read_all(reader, batch, flags))
        except FileChangedError as problem:
            send(answers, ("changed", problem.path))
        except FileReadError as problem:
            send(answers, ("unreadable", problem.path, problem.reason))
        else:
            facts = [fact for fact, _ in found]
            send(answers, ("done", facts), b"".join([data for _, data in found]))


def _read_all(reader: TreeReader, batch: list[Wanted], flags: int) -> Iterator[tuple[Fact, bytes]]:
    for wanted in batch:
        yield reader.read(wanted, flags)


def main(root: int) -> None:
    """Serve the descriptor `root` over standard input and output."""
    serve(root, open(0, "rb"), open(1, "wb"))  # noqa: SIM115 - open until the process ends
