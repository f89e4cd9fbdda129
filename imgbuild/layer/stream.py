"""What layer code asks of a stream that it reads: nothing but `read`."""

from typing import Protocol

# The most that is read or written at once, in bytes.
CHUNK = 1 << 20


class Readable(Protocol):
    """A binary stream; `read` may return less than asked for, and b"" only at the end."""

    def read(self, size: int = -1, /) -> bytes: ...
