"""Ports for content, and the reader that checks what passes through them."""

import hashlib
import io
from collections.abc import Callable
from typing import BinaryIO, Protocol

from imgbuild.errors import DigestMismatchError
from imgbuild.oci.descriptor import Descriptor

Opener = Callable[[], BinaryIO]


class BlobSource(Protocol):
    """Something content can be read from."""

    def open(self, descriptor: Descriptor) -> BinaryIO:
        """Return a stream; reading it to the end verifies size and digest.

        Raises an `ImgbuildError`, here or while reading.
        """
        ...


class BlobSink(Protocol):
    """Something content can be put into; putting twice is harmless."""

    def exists(self, descriptor: Descriptor) -> bool: ...

    def put(self, descriptor: Descriptor, opener: Opener, origin: str | None = None) -> None:
        """Make the content be there.

        `opener` can be called again for a retry; `origin` names a repository on the same
        registry it may be mounted from.
        """
        ...


class Sink(Protocol):
    """Where a download goes; `begin` makes it empty again."""

    def begin(self) -> None: ...
    def write(self, data: bytes, /) -> None: ...


class ImageNames(Protocol):
    """Names of images, such as the tags of a repository."""

    def resolve(self, name: str) -> Descriptor: ...

    def tag(self, name: str, descriptor: Descriptor) -> None: ...


class VerifiedReader(io.RawIOBase):
    """Count and hash a stream against a descriptor.

    A byte too many, an early end or another digest raises `DigestMismatchError` from `read`;
    the end of the stream is reported only once everything was checked.
    """

    def __init__(self, stream: BinaryIO, descriptor: Descriptor) -> None:
        super().__init__()
        self._stream = stream
        self._descriptor = descriptor
        self._hash = hashlib.new(descriptor.digest.algorithm)
        self._left = descriptor.size
        self._verified = False
        self._failure: DigestMismatchError | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if self._verified or size == 0:
            return b""
        if self._failure is not None:
            raise self._failure
        try:
            return self._read(size)
        except DigestMismatchError as error:
            self._failure = error
            raise

    def _read(self, size: int) -> bytes:
        # One byte past the end shows content that is longer than it may be.
        data = self._stream.read(min(size, self._left) if self._left else 1)
        if not data:
            self._finish()
            return b""
        if not self._left:
            raise DigestMismatchError(
                f"{self._descriptor.digest} has more than the {self._descriptor.size} bytes it should have"
            )
        self._left -= len(data)
        self._hash.update(data)
        if not self._left:
            # Check at the last byte, so that a reader who stops there is served as well.
            if extra := self._stream.read(1):
                raise DigestMismatchError(
                    f"{self._descriptor.digest} goes on after {self._descriptor.size} bytes ({extra!r})"
                )
            self._finish()
        return data

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]  # typeshed's Buffer is 3.12
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _finish(self) -> None:
        if self._left:
            raise DigestMismatchError(
                f"{self._descriptor.digest} ended {self._left} bytes early",
                hint="the source is damaged or the transfer was cut; try again",
            )
        actual = f"{self._descriptor.digest.algorithm}:{self._hash.hexdigest()}"
        if actual != self._descriptor.digest:
            raise DigestMismatchError(
                f"content has digest {actual}, expected {self._descriptor.digest}",
                hint="the source is damaged; nothing of it was kept",
            )
        self._verified = True

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
