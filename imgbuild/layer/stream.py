"""What layer code asks of streams: `read`, and `write` that may take less than it is given."""

from typing import Protocol

# The most that is read or written at once, in bytes.
CHUNK = 1 << 20


class Readable(Protocol):
    """A binary stream; `read` may return less than asked for, and b"" only at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


class Writable(Protocol):
    """A binary stream without a buffer; `write` tells how much of the data it took."""

    def write(self, data: memoryview, /) -> int: ...


def write_all(stream: Writable, data: bytes) -> None:
    """Write all of `data`; raise what `write` raises."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]
