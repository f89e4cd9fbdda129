"""Reading a layer or an archive whatever it is compressed with: its first bytes tell.

Media types lie often enough (layers called gzip that are plain tar, and the other way round)
that every runtime looks at the content instead, and so does this.
"""

import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, Protocol

from imgbuild.errors import ImageError
from imgbuild.layer.stream import CHUNK, Readable

Compression = Literal["gzip", "zstd", "bzip2", "xz"]

_MAGIC: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
}
_LONGEST_MAGIC = 6
_INPUT = 1 << 17
# What a decoder must support by RFC 8878 is 8 MiB; 128 MiB is the limit of the zstd program.
LARGEST_WINDOW = 1 << 27


class _Decompressor(Protocol):
    """What the decompressors of isal, bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


def sniff(start: bytes) -> Compression | None:
    """Return the compression of content that starts with `start` (six bytes tell)."""
    for magic, compression in _MAGIC.items():
        if start.startswith(magic):
            return compression
    # Skippable frames may come first (RFC 8878, 3.1.2).
    if len(start) >= 4 and start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50:
        return "zstd"
    return None


def open_uncompressed(stream: Readable, media_type: str = "") -> BinaryIO:
    """Return a stream of the content of `stream`, which is read to its very end.

    `media_type` only makes error messages clearer. Reading raises `ImageError` for damaged,
    truncated or unknown data. Closing the result leaves `stream` open.
    """
    what = media_type or "content"
    start = b""
    while len(start) < _LONGEST_MAGIC and (more := stream.read(_LONGEST_MAGIC - len(start))):
        start += more
    source = _Rewound(start, stream)
    compression = sniff(start)
    match compression:
        case None:
            chunks = iter(lambda: source.read(_INPUT), b"")
        case "zstd":
            chunks = _zstd_frames(source, what)
        case _:
            chunks = _members(source, compression, what)
    return io.BufferedReader(_Chunks(chunks), _INPUT)


class _Rewound:
    """A stream whose start was read already."""

    def __init__(self, start: bytes, stream: Readable) -> None:
        self._start = start
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if not self._start:
            return self._stream.read(size)
        data, self._start = self._start[:size], self._start[size:]
        return data


class _Chunks(io.RawIOBase):
    """A raw stream of the bytes that an iterator yields."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]  # typeshed's Buffer is 3.12
        while not self._chunk:  # an empty chunk is not the end
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._chunk = memoryview(chunk)
        size = min(len(buffer), len(self._chunk))
        buffer[:size] = self._chunk[:size]
        self._chunk = self._chunk[size:]
        return size


def _members(source: Readable, compression: Compression, what: str) -> Iterator[bytes]:
    """Yield what one or more compressed streams, one after the other, hold."""
    make, failure = _decompressor(compression)
    decompressor = make()
    data = source.read(_INPUT)
    while True:
        try:
            out = decompressor.decompress(data, CHUNK)
        except failure as error:
            raise _damaged(what, compression, str(error)) from error
        if out:
            yield out
        data = b""
        if decompressor.eof:
            data = _next_member(decompressor.unused_data, source)
            if not data:
                return
            if sniff(data) != compression:
                raise _damaged(what, compression, "something else follows")
            decompressor = make()
        elif decompressor.needs_input:
            data = source.read(_INPUT)
            if not data:
                raise _damaged(what, compression, "it is truncated")


def _next_member(data: bytes, source: Readable) -> bytes:
    """Return the start of what follows a compressed stream, without the zeros of tape blocks."""
    data = data.lstrip(b"\0")
    while len(data) < _LONGEST_MAGIC and (more := source.read(_INPUT)):
        data = (data + more).lstrip(b"\0")
    return data


def _decompressor(
    compression: Compression,
) -> tuple[Callable[[], _Decompressor], type[Exception] | tuple[type[Exception], ...]]:
    if compression == "gzip":
        from isal import igzip_lib

        # isal's stubs call the exception class an instance.
        failure: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]
        return lambda: igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP), failure
    if compression == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, ValueError)
    import lzma

    return lambda: lzma.LZMADecompressor(memlimit=LARGEST_WINDOW), lzma.LZMAError


def _zstd_frames(source: Readable, what: str) -> Iterator[bytes]:
    """Yield what the frames of zstd data hold.

    The library's own stream reader takes truncated data for complete, and has no bound for
    what one call may return. So it is given one block at a time, at most 128 KiB decompressed
    (RFC 8878, 3.1.1).
    """
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
    while start := source.read(1):
        magic = start + _exactly(source, 3, what)
        if magic[1:] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50:
            _skip(source, int.from_bytes(_exactly(source, 4, what), "little"), what)
            continue
        if sniff(magic) != "zstd":
            raise _damaged(what, "zstd", "something else follows")
        frame = decompressor.decompressobj()
        try:
            yield from _zstd_blocks(source, magic, frame.decompress, what)
        except zstandard.ZstdError as error:
            raise _damaged(what, "zstd", str(error)) from error
        if not frame.eof:
            raise _damaged(what, "zstd", "a frame does not end")


def _zstd_blocks(
    source: Readable, magic: bytes, decompress: Callable[[bytes], bytes], what: str
) -> Iterator[bytes]:
    descriptor = _exactly(source, 1, what)
    flags = descriptor[0]
    single = flags >> 5 & 1
    sizes = (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6] + (1 - single)
    yield decompress(magic + descriptor + _exactly(source, sizes, what))
    last = 0
    while not last:
        head = _exactly(source, 3, what)
        value = int.from_bytes(head, "little")
        last, kind, size = value & 1, value >> 1 & 3, value >> 3
        if size > 1 << 17:
            raise _damaged(what, "zstd", f"it has a block of {size} bytes")
        checksum = 4 if last and flags & 4 else 0
        # A block of type 1 is one byte, repeated.
        yield decompress(head + _exactly(source, (1 if kind == 1 else size) + checksum, what))


def _exactly(source: Readable, size: int, what: str) -> bytes:
    data = b""
    while len(data) < size:
        more = source.read(size - len(data))
        if not more:
            raise _damaged(what, "zstd", "it is truncated")
        data += more
    return data


def _skip(source: Readable, size: int, what: str) -> None:
    while size:
        size -= len(_exactly(source, min(size, CHUNK), what))


def _damaged(what: str, compression: Compression, why: str) -> ImageError:
    return ImageError(
        f"the {compression} data of the {what} cannot be decompressed: {why}",
        hint="fetch or make it again; nothing of it was kept",
    )
