"""Read file contents out of a layer's tar at any offset, without keeping the tar in memory."""

import errno
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from imgbuild.errors import ImageError, StoreError
from imgbuild.layer.stream import write_all
from imgbuild.sandbox.failures import disk_full

_CHUNK = 1 << 20
_DAMAGED = "the store is damaged; pull or build the image again"


class LayerCursor:
    """A place in one layer's uncompressed tar that moves forward.

    The first read behind that place starts over and from then on keeps what passes by in a
    temporary file without a name, so that every byte is decompressed at most twice.
    """

    def __init__(self, open_raw: Callable[[], BinaryIO], scratch: Path | None) -> None:
        self._open_raw = open_raw
        self._scratch = scratch
        self._stream: BinaryIO | None = None
        self._position = 0
        self._spill: IO[bytes] | None = None

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes; raise `ImageError` where the layer ends before `offset`."""
        stream = self._stream = self._stream or self._open_raw()
        if offset < self._position and self._spill is None:
            stream.close()
            stream = self._stream = self._open_raw()
            self._position = 0
            with _spilling():
                self._spill = _nameless(self._scratch)
        if self._spill is not None:
            self._fill(self._spill, stream, offset + size)
            self._spill.seek(offset)
            return self._spill.read(size)
        while self._position < offset:
            self._advance(stream, offset - self._position)
        data = stream.read(size)
        self._position += len(data)
        return data

    def close(self) -> None:
        for stream in (self._stream, self._spill):
            if stream is not None:
                stream.close()
        self._stream = self._spill = None
        self._position = 0

    def _fill(self, spill: IO[bytes], stream: BinaryIO, end: int) -> None:
        spill.seek(0, io.SEEK_END)
        while self._position < end:
            data = self._advance(stream, end - self._position)
            with _spilling():
                write_all(spill, data)

    def _advance(self, stream: BinaryIO, distance: int) -> bytes:
        data = stream.read(min(distance, _CHUNK))
        if not data:
            raise ImageError("a layer ends before a file that its index lists", hint=_DAMAGED)
        self._position += len(data)
        return data


def _nameless(folder: Path | None) -> IO[bytes]:
    import tempfile

    # Without a buffer a full disk is noticed by the write, not again by a close.
    return tempfile.TemporaryFile(dir=folder, buffering=0)


@contextmanager
def _spilling() -> Iterator[None]:
    """Raise `StoreError`, or `DiskFullError`, for an `OSError` of the temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise disk_full("to read a layer out of order") from None
        raise StoreError(
            f"cannot keep what is read of a layer: {error.strerror}",
            hint="make the store writable for this user, or name another one with --store",
        ) from None


class ContentReader(io.RawIOBase):
    """The `size` bytes at `offset` of a layer; many may be open on one cursor."""

    def __init__(self, cursor: LayerCursor, offset: int, size: int) -> None:
        super().__init__()
        self._cursor = cursor
        self._offset = offset
        self._left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        if not self._left or not size:
            return b""
        data = self._cursor.read_at(self._offset, min(size, self._left))
        if not data:
            raise ImageError("a layer ends within a file that its index lists", hint=_DAMAGED)
        self._offset += len(data)
        self._left -= len(data)
        return data

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]  # typeshed's Buffer is 3.12
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
