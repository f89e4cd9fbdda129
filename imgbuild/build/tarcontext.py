"""A build context that is an archive: decompressed once into a nameless file, never unpacked.

It is looked at through an index of its entries, as a layer is: no name in it reaches the file system,
links are followed inside it alone, and owners, modes and device nodes are as the archive says.
"""

import os
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from imgbuild.build.archives import (
    Counted,
    Members,
    Section,
    check_size,
    is_tar_header,
    looks_like_archive,
    tar_limits,
)
from imgbuild.build.copyrules import show
from imgbuild.build.definition import check_bytes
from imgbuild.errors import ContextError, ImageError
from imgbuild.layer.entry import Entry, ImagePath
from imgbuild.layer.stream import Readable, write_all
from imgbuild.layer.tarread import read_tar, scan
from imgbuild.options import ArchiveLimits
from imgbuild.snapshot.view import LayerFiles, RootView
from imgbuild.store.failure import explained

if TYPE_CHECKING:
    from imgbuild.layer.sortedindex import SortedIndex

# As much tells what a file is: a tar header is that long, a magic number shorter.
HEAD = 512


class IndexedTree(RootView):
    """A tree whose contents are parts of one file; close it when done.

    `where` is what errors call it, `newest` the latest time of a file in it, in seconds.
    """

    def __init__(
        self,
        entries: "list[Entry] | SortedIndex",
        file: IO[bytes],
        where: str,
        newest: int | None = None,
    ) -> None:
        size = os.fstat(file.fileno()).st_size
        whole = LayerFiles(lambda: entries, partial(self._part, 0, size))
        super().__init__([whole], where=where)
        self._file = file
        self.newest = newest

    def open(self, path: ImagePath) -> BinaryIO:
        """Open a regular file; raise `ContextError` for anything else."""
        entry = self.lstat(path)
        if entry is None or entry.type != "file":
            raise ContextError(f"{show(path)} is not a regular file in {self.where}")
        return self._part(entry.offset, entry.size)

    def close(self) -> None:
        super().close()
        self._file.close()

    def _part(self, start: int, size: int) -> BinaryIO:
        return Section(self._file, start, size)  # type: ignore[return-value]  # RawIOBase lacks only typeshed's BinaryIO


class Peeked:
    """A stream that shows how it starts before it is read."""

    def __init__(self, stream: Readable, name: str) -> None:
        self._stream = stream
        self._name = name
        self.head = b""
        while len(self.head) < HEAD and (more := self._more(HEAD - len(self.head))):
            self.head += more
        self._start = self.head

    @property
    def is_archive(self) -> bool:
        """Whether it is a tar, or compressed with what tars are compressed with."""
        return looks_like_archive(self.head)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; raise `ContextError` where they cannot be read."""
        if not self._start:
            return self._more(size)
        if size < 0:
            size = len(self._start)
        data, self._start = self._start[:size], self._start[size:]
        return data

    def _more(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise ContextError(f"cannot read {self._name}: {error.strerror or error}") from None
        check_bytes(data, self._name)
        return data


def open_archive(stream: Peeked, name: str, scratch: Path, limits: ArchiveLimits) -> IndexedTree:
    """Read an archive to its end and return it as a tree; `name` is what errors call it.

    Raises `ContextError` for what is damaged, past `limits` or tries to leave its directory, and
    `DiskFullError`. What is left is a file without a name in `scratch`.
    """
    with explained("keep the build context"):
        file = tempfile.TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115 - the tree closes it
    try:
        packed = Counted(stream)
        copied = _Copied(_inside(packed, name), file, packed, limits)
        with explained("keep the build context"), Members(limits, scratch) as members:
            scan(copied, members.add, tar_limits(limits), markers=False)
            tree = IndexedTree(members.finish(), file, name, members.newest)
        tree.linked()  # which looks each hard link up
    except BaseException as error:
        # What could not be written is tried again when the file is closed.
        with suppress(OSError):
            file.close()
        if isinstance(error, ImageError):
            text = f"cannot use {name} as a build context: {error.message}"
            raise ContextError(text, hint=error.hint) from error
        raise
    return tree


def _inside(stream: Readable, name: str) -> Peeked:
    """Return the tar in what may be compressed; raise `ImageError` where there is none."""
    from imgbuild.layer.decompress import open_uncompressed

    inside = Peeked(open_uncompressed(stream, name), name)
    if not is_tar_header(inside.head) and inside.head.strip(b"\0"):
        raise ImageError(
            "what is compressed there is no tar",
            hint="send a Dockerfile as it is, or a tar that has one",
        )
    return inside


class _Copied:
    """A stream that keeps in a file what is read of it; raises `ImageError` past the limits."""

    def __init__(
        self, stream: Readable, file: IO[bytes], packed: Counted, limits: ArchiveLimits
    ) -> None:
        self._stream = stream
        self._file = file
        self._packed = packed
        self._limits = limits
        self._written = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._written += len(data)
        check_size(self._written, self._packed.count, self._limits)
        with explained("keep the build context"):
            write_all(self._file, data)
        return data


def newest_inside(stream: Readable, limits: ArchiveLimits) -> int | None:
    """Return the latest time of a file in an archive; None for what is none, or past `limits`."""
    peeked = Peeked(stream, "the file")
    if not peeked.is_archive:
        return None
    latest: int | None = None
    try:
        inside = _inside(peeked, "the file")
        for entry, _ in read_tar(inside, tar_limits(limits), hashed=False, markers=False):
            if entry.type == "file":
                latest = entry.mtime if latest is None else max(latest, entry.mtime)
    except ImageError:
        return None
    return latest
