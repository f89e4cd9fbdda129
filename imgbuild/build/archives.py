"""Archives that ADD unpacks: told by content, decompressed into a nameless file, listed."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from imgbuild.build.copyrules import Source, show
from imgbuild.build.listing import Item, from_entry
from imgbuild.errors import ContextError, ImageError
from imgbuild.layer.entry import Entry
from imgbuild.store.failure import store_error

_CHUNK = 1 << 20
_MAGIC_BZIP2 = b"BZh"
_MAGIC_XZ = b"\xfd7zXZ\0"
_MAGIC_GZIP = b"\x1f\x8b"
_MAGIC_ZSTD = b"\x28\xb5\x2f\xfd"
_BLOCK = 512


class UnpackedArchive:
    """A decompressed archive with its members; close it when done."""

    def __init__(self, file: IO[bytes], members: list[Entry]) -> None:
        self._file = file
        self._members = members

    def below(self) -> tuple[Item, ...]:
        """Return the members in their own order: a later one replaces an earlier one."""
        return tuple(from_entry(entry.path, entry) for entry in self._members)

    def open(self, number: int) -> "Section":
        """Return the content of a member that is a file, by its place among `below`."""
        entry = self._members[number]
        return Section(self._file, entry.offset, entry.size)

    def close(self) -> None:
        self._file.close()


class Section:
    """Part of a file as something to read."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._file = file
        self._left = size
        file.seek(offset)

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


def looks_like_archive(head: bytes) -> bool:
    """Tell whether the first 512 bytes of a file are those of a tar or of something compressed."""
    compressed = (_MAGIC_BZIP2, _MAGIC_XZ, _MAGIC_GZIP, _MAGIC_ZSTD)
    return head.startswith(compressed) or _is_tar_header(head)


def _is_tar_header(head: bytes) -> bool:
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


def unpack(stream: BinaryIO, name: str, scratch: Path) -> UnpackedArchive | None:
    """Decompress and list an archive; None when the content is no tar, which is then copied.

    Raises `ContextError` for an archive that is damaged or tries to leave its directory,
    `DiskFullError` when there is no room for it.
    """
    from imgbuild.layer.tarread import scan

    file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by the archive
    try:
        if not _decompress(stream, file):
            file.close()
            return None
        members: list[Entry] = []
        file.seek(0)
        scan(file, members.append)
        return UnpackedArchive(file, _as_docker_reads(members, name))
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


def _as_docker_reads(members: list[Entry], name: str) -> list[Entry]:
    """Refuse whiteouts: in an archive that is no layer they would mean nothing good."""
    for entry in members:
        if entry.type in ("whiteout", "opaque"):
            raise ContextError(f"cannot unpack {name}: it holds a whiteout of {show(entry.path)}")
    return members


def _decompress(stream: BinaryIO, out: IO[bytes]) -> bool:
    """Write the tar inside `stream` to `out`; False when there is no tar inside.

    What cannot be decompressed as far as to the end of a header is no archive, as in BuildKit.
    """
    plain = _plain(stream)
    head = b""
    try:
        while len(head) < _BLOCK and (more := plain(_BLOCK - len(head))):
            head += more
    except ImageError:
        if not _begins_with_header(stream):
            return False
        raise
    if not _is_tar_header(head):
        return False
    out.write(head)
    while chunk := plain(_CHUNK):
        out.write(chunk)
    return True


def _begins_with_header(stream: BinaryIO) -> bool:
    """Tell whether damaged data can be decompressed as far as to the end of a tar header."""
    import bz2
    import lzma
    import zlib

    stream.seek(0)
    data = stream.read(_CHUNK)
    try:
        if data.startswith(_MAGIC_GZIP):
            head = zlib.decompressobj(31).decompress(data, _BLOCK)
        elif data.startswith(_MAGIC_BZIP2):
            head = bz2.BZ2Decompressor().decompress(data, _BLOCK)
        else:
            head = lzma.LZMADecompressor().decompress(data, _BLOCK)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        return False
    return _is_tar_header(head)


def _plain(stream: BinaryIO) -> Callable[[int], bytes]:
    """Return a function that reads the decompressed content; it raises `ImageError`."""
    head = stream.read(8)
    stream.seek(0)
    if head.startswith(_MAGIC_BZIP2):
        import bz2

        return _guarded(bz2.BZ2File(stream).read)
    if head.startswith(_MAGIC_XZ):
        import lzma

        return _guarded(lzma.LZMAFile(stream).read)
    from imgbuild.layer.decompress import open_uncompressed

    return open_uncompressed(stream).read


def _guarded(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    def guarded(size: int) -> bytes:
        try:
            return read(size)
        except (OSError, EOFError, ValueError) as error:
            raise ImageError(f"the compressed data is damaged: {error}") from None
        except Exception as error:
            # lzma.LZMAError has no base class of use, and lzma need not be there to name it.
            if type(error).__name__ != "LZMAError":
                raise
            raise ImageError(f"the compressed data is damaged: {error}") from None

    return guarded


def with_archives(
    sources: Sequence[Source],
    wanted: Sequence[bool],
    open_file: Callable[[int], AbstractContextManager[BinaryIO]],
    scratch: Path,
) -> tuple[list[Source], dict[int, UnpackedArchive]]:
    """Turn the files among `sources` that are archives, and are `wanted`, into their members.

    `open_file` opens a source by its place. The archives are to be closed.
    """
    out: list[Source] = []
    archives: dict[int, UnpackedArchive] = {}
    try:
        for number, source in enumerate(sources):
            found = None
            # Sockets, which are copied as empty files, cannot be opened.
            if wanted[number] and source.item.type == "file" and source.item.size:
                found = _archive(source, partial(open_file, number), scratch)
            if found is None:
                out.append(source)
                continue
            archives[number] = found
            out.append(source._replace(below=found.below(), unpacked=True))
    except BaseException:
        for archive in archives.values():
            archive.close()
        raise
    return out, archives


def _archive(
    source: Source, open_file: Callable[[], AbstractContextManager[BinaryIO]], scratch: Path
) -> UnpackedArchive | None:
    with open_file() as stream:
        if not looks_like_archive(stream.read(_BLOCK)):
            return None
    with open_file() as stream:
        return unpack(stream, show(source.path), scratch)
