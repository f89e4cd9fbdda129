"""Archives that ADD unpacks: told by content, decompressed into a nameless file, listed."""

import io
import os
from array import array
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Self

from imgbuild.build.copyrules import Source, show
from imgbuild.build.listing import Item, Listing, from_entry
from imgbuild.errors import ContextError, ImageError
from imgbuild.layer.decompress import LARGEST_WINDOW, open_uncompressed
from imgbuild.layer.entry import Entry
from imgbuild.layer.stream import Readable
from imgbuild.options import ArchiveLimits
from imgbuild.store.failure import store_error

if TYPE_CHECKING:
    from imgbuild.layer.tarread import Limits

if TYPE_CHECKING:
    from imgbuild.layer.sortedindex import SortedIndex

_CHUNK = 1 << 20
_MAGIC_BZIP2 = b"BZh"
_MAGIC_XZ = b"\xfd7zXZ\0"
_MAGIC_GZIP = b"\x1f\x8b"
_MAGIC_ZSTD = b"\x28\xb5\x2f\xfd"
_BLOCK = 512
# What is packed well is only suspicious once it is large (bytes).
_RATIO_FROM = 1 << 30
# What names and attributes of members take together (bytes).
_MOST_NAMES = 256 << 20


class UnpackedArchive:
    """A decompressed archive with its members; close it when done.

    `is_plain` tells that each member is there once, and none below what is no directory; they are
    sorted then.
    """

    def __init__(
        self, file: IO[bytes], members: "list[Entry] | SortedIndex", scratch: Path
    ) -> None:
        self._file = file
        self._members = members
        self._scratch = scratch
        self._places = array("Q")  # where contents are: offset, size
        self.is_plain = not isinstance(members, list) and not any(members.hard_links())
        self._below: Collection[Item] | None = None

    def below(self) -> Collection[Item]:
        """Return the members in their own order: a later one replaces an earlier one."""
        if self._below is None:
            entries = self._members if isinstance(self._members, list) else self._members.entries()
            items = map(self._item, entries)
            self._below = Listing(items, self._scratch) if self.is_plain else tuple(items)
        return self._below

    def _item(self, entry: Entry) -> Item:
        self._places.extend((entry.offset, entry.size))
        return from_entry(entry.path, entry)

    def open(self, number: int) -> "Section":
        """Return the content of a member that is a file, by its place among `below`."""
        return Section(self._file, self._places[2 * number], self._places[2 * number + 1])

    def close(self) -> None:
        self._file.close()
        if not isinstance(self._members, list):
            self._members.close()
        if isinstance(self._below, Listing):
            self._below.close()


class Section(io.RawIOBase):
    """The `size` bytes of a file at `start`; many may be open on one file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        super().__init__()
        self._file = file
        self._start = start
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]  # typeshed's Buffer is 3.12
        size = min(len(buffer), max(0, self._size - self._at))
        data = os.pread(self._file.fileno(), size, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def looks_like_archive(head: bytes) -> bool:
    """Tell whether the first 512 bytes of a file are those of a tar or of something compressed."""
    compressed = (_MAGIC_BZIP2, _MAGIC_XZ, _MAGIC_GZIP, _MAGIC_ZSTD)
    return head.startswith(compressed) or is_tar_header(head)


def is_tar_header(head: bytes) -> bool:
    """Tell whether `head` is a tar header: its checksum says so (POSIX ustar, pax(1))."""
    if len(head) < _BLOCK or not head[:1].strip(b"\0"):
        return False
    field = head[148:156].strip(b" \0")
    if not field.isdigit():
        return False
    plain = head[:148] + b" " * 8 + head[156:_BLOCK]
    try:
        return int(field, 8) == sum(plain)
    except ValueError:
        return False


def unpack(
    stream: BinaryIO, name: str, scratch: Path, limits: ArchiveLimits
) -> UnpackedArchive | None:
    """Decompress and list an archive; None when the content is no tar, which is then copied.

    Raises `ContextError` for an archive that is damaged, tries to leave its directory or is past
    `limits`, `DiskFullError` when there is no room for it.
    """
    import tempfile

    from imgbuild.layer.tarread import scan

    file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by the archive
    try:
        if not _decompress(stream, file, limits):
            file.close()
            return None
        file.seek(0)
        with Members(limits, scratch) as members:
            scan(file, members.add, tar_limits(limits))
            return UnpackedArchive(file, members.finish(), scratch)
    except BaseException as error:
        # What could not be written is tried again when the file is closed.
        with suppress(OSError):
            file.close()
        if isinstance(error, ImageError):
            text = f"cannot unpack {name}: {error.message}"
            raise ContextError(text, hint=error.hint) from error
        if isinstance(error, OSError):
            raise store_error(error, f"unpack {name}") from error
        raise


class Members:
    """Collects the members of an archive within limits; raises `ImageError`. Close it when done.

    `newest` is the latest time of a file among them, in seconds.
    """

    def __init__(self, limits: ArchiveLimits, scratch: Path) -> None:
        from imgbuild.layer.spool import EntrySpool

        self._most = limits.entries
        self._names = 0
        self._spool = EntrySpool(scratch)
        self.newest: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self._spool.close()

    def finish(self) -> "list[Entry] | SortedIndex":
        """Return all members, in a file where there are many."""
        return self._spool.finish()

    def add(self, entry: Entry) -> None:
        if entry.type in ("whiteout", "opaque"):
            # In an archive that is no layer it would mean nothing good.
            raise ImageError(f"it holds a whiteout of {show(entry.path)}")
        if len(self._spool) >= self._most:
            raise _past(f"it has more than {self._most} members", "entries")
        attributes = sum(len(value) for value in entry.xattrs.values())
        self._names += len(entry.path) + len(entry.linkname) + attributes
        if self._names > _MOST_NAMES:
            raise ImageError(f"its names and attributes are larger than {_MOST_NAMES} bytes")
        if entry.type == "file":
            self.newest = entry.mtime if self.newest is None else max(self.newest, entry.mtime)
        self._spool.add(entry)


class Counted:
    """A stream that tells how much was read of it."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        return data


def _decompress(stream: BinaryIO, out: IO[bytes], limits: ArchiveLimits) -> bool:
    """Write the tar inside `stream` to `out`; False when there is no tar inside.

    What cannot be decompressed as far as to the end of a header is no archive, as in BuildKit.
    """
    packed = Counted(stream)
    plain = open_uncompressed(packed, "archive")
    head = b""
    try:
        while len(head) < _BLOCK and (more := plain.read(_BLOCK - len(head))):
            head += more
    except ImageError:
        if not _begins_with_header(stream):
            return False
        raise
    if not is_tar_header(head):
        return False
    written, chunk = 0, head
    while chunk:
        written += len(chunk)
        check_size(written, packed.count, limits)
        out.write(chunk)
        chunk = plain.read(_CHUNK)
    return True


def check_size(written: int, packed: int, limits: ArchiveLimits) -> None:
    """Raise `ImageError` for an archive of `packed` bytes that is too large unpacked so far."""
    if written > limits.size:
        raise _past(f"unpacked it is larger than {limits.size} bytes", "size")
    if limits.ratio and written > max(_RATIO_FROM, limits.ratio * packed):
        raise _past(f"unpacked it is more than {limits.ratio} times larger", "ratio")


def _begins_with_header(stream: BinaryIO) -> bool:
    """Tell whether data that cannot be decompressed is an archive all the same.

    It is, when it is damaged only behind a tar header, or when it asks for too much memory.
    """
    stream.seek(0)
    data = stream.read(_CHUNK)
    if data.startswith(_MAGIC_ZSTD):
        return _zstd_window(data) > LARGEST_WINDOW
    import bz2
    import lzma
    import zlib

    try:
        if data.startswith(_MAGIC_GZIP):
            head = zlib.decompressobj(31).decompress(data, _BLOCK)
        elif data.startswith(_MAGIC_BZIP2):
            head = bz2.BZ2Decompressor().decompress(data, _BLOCK)
        else:
            head = lzma.LZMADecompressor(memlimit=LARGEST_WINDOW).decompress(data, _BLOCK)
    except lzma.LZMAError as error:
        return "Memory usage limit" in str(error)
    except (zlib.error, OSError, EOFError, ValueError):
        return False
    return is_tar_header(head)


def _zstd_window(data: bytes) -> int:
    """Return how much memory a frame asks for, in bytes; 0 for a damaged one."""
    import zstandard

    try:
        return zstandard.get_frame_parameters(data).window_size
    except zstandard.ZstdError:
        return 0


def tar_limits(limits: ArchiveLimits) -> "Limits":
    """Return what reading a tar may cost at most; members are counted as they are kept."""
    from imgbuild.layer.tarread import Limits

    # What is no member takes a block.
    return Limits(entries=limits.size // _BLOCK + 1, total=limits.size)


def _past(what: str, limit: str) -> ImageError:
    return ImageError(
        f"{what}, which is the limit",
        hint=f"if it is no decompression bomb, raise --add-limit-{limit} (archive_limits.{limit})",
    )


def with_archives(
    sources: Sequence[Source],
    wanted: Sequence[bool],
    open_file: Callable[[int], AbstractContextManager[BinaryIO]],
    scratch: Path,
    limits: ArchiveLimits,
) -> tuple[list[Source], dict[int, UnpackedArchive]]:
    """Turn the files among `sources` that are archives, and are `wanted`, into their members.

    `open_file` opens a source by its place. The archives are to be closed.
    """
    out: list[Source] = []
    archives: dict[int, UnpackedArchive] = {}
    try:
        for number, source in enumerate(sources):
            found = None
            # What is empty is none, and a socket, which is taken for empty, cannot be opened.
            if wanted[number] and source.item.type == "file" and source.item.size:
                found = _archive(source, partial(open_file, number), scratch, limits)
            if found is None:
                out.append(source)
                continue
            archives[number] = found
            out.append(
                source._replace(below=found.below(), unpacked="plain" if found.is_plain else "any")
            )
    except BaseException:
        for archive in archives.values():
            archive.close()
        raise
    return out, archives


def _archive(
    source: Source,
    open_file: Callable[[], AbstractContextManager[BinaryIO]],
    scratch: Path,
    limits: ArchiveLimits,
) -> UnpackedArchive | None:
    with open_file() as stream:
        if not looks_like_archive(stream.read(_BLOCK)):
            return None
    with open_file() as stream:
        return unpack(stream, show(source.path), scratch, limits)
