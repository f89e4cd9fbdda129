"""A blob's bytes as they come in; a connection that breaks is taken up where it broke."""

import io
import re
from collections.abc import Mapping

from imgbuild.errors import DigestMismatchError, RegistryError
from imgbuild.registry.exchange import Exchange
from imgbuild.registry.problem import TransportFailure
from imgbuild.registry.transport import Reply

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_SKIP = 1 << 20
# What must have come through before the attempts are counted anew.
_PROGRESS = 1 << 20


class Download(io.RawIOBase):
    """Read `size` bytes of a blob; what comes in is not verified here.

    Every failure raises a `RegistryError`, while reading too; another size than `size` raises
    `DigestMismatchError`.
    """

    def __init__(self, exchange: Exchange, path: str, what: str, size: int) -> None:
        super().__init__()
        self._exchange = exchange
        self._path = path
        self._what = what
        self._size = size
        self._at = 0
        self._attempts = 0
        self._attempts_from = 0
        # Opened at once, so that a missing blob is known before anything waits for it.
        self._reply: Reply | None = self._ask({})

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        while True:
            try:
                data = self._take(size)
            except TransportFailure as failure:
                self._lost(failure)
                continue
            self._at += len(data)
            return data

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]  # typeshed's Buffer is 3.12
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _take(self, size: int) -> bytes:
        if self._reply is None:
            self._reply = self._resume()
        data = self._reply.read(size)
        if not data and size and self._at < self._size:
            detail = f"{self._size - self._at} bytes are missing"
            raise TransportFailure("cut", detail, self._reply.url, "")
        return data

    def _lost(self, failure: TransportFailure) -> None:
        """Wait before the next attempt; raise the error when there were too many."""
        if self._reply is not None:
            self._reply.close()
            self._reply = None
        if self._at - self._attempts_from >= _PROGRESS:
            self._attempts, self._attempts_from = 0, self._at
        self._attempts += 1
        self._exchange.retry.wait(self._attempts, self._exchange.again(failure))

    def _resume(self) -> Reply:
        # The end is named as well: crane's registry knows no open ranges. The registry is asked
        # again, not the place it redirected to, whose signed URL may have run out.
        headers = {"Range": f"bytes={self._at}-{self._size - 1}"} if self._at else {}
        reply = self._ask(headers)
        if reply.status == 206 and self._continues(reply.headers):
            return reply
        if reply.status != 200:
            reply.finish()
            reply = self._ask({})
        self._skip(reply)
        return reply

    def _ask(self, headers: Mapping[str, str]) -> Reply:
        fine = (200, 206, 416) if headers else (200,)
        reply = self._exchange.send(
            "GET", self._path, self._what, self._exchange.pull, headers=headers, fine=fine
        )
        length = reply.headers.get("Content-Length", "")
        if reply.status == 200 and length.isdecimal() and int(length) != self._size:
            reply.close()
            raise DigestMismatchError(
                f"{self._what} has {length} bytes, expected {self._size}",
                hint="the image or the registry is damaged",
            )
        return reply

    def _continues(self, headers: Mapping[str, str]) -> bool:
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        return (
            found is not None and int(found[1]) == self._at and found[2] in {"*", str(self._size)}
        )

    def _skip(self, reply: Reply) -> None:
        """Pass over what was read before: the server began anew."""
        left = self._at
        while left:
            data = reply.read(min(left, _SKIP))
            if not data:
                raise TransportFailure("cut", f"{left} bytes are missing", reply.url, "")
            left -= len(data)

    def close(self) -> None:
        if not self.closed and self._reply is not None:
            self._reply.close()
        super().close()


def read_document(exchange: Exchange, reply: Reply, what: str, limit: int) -> bytes:
    """Read the whole body of `reply`; raise `RegistryError` when it has more than `limit` bytes.

    A connection that breaks raises `Again`.
    """
    try:
        data = reply.read_all(limit)
    except TransportFailure as failure:
        raise exchange.again(failure) from failure
    if data is None:
        raise RegistryError(
            f"{what}: registry {exchange.domain} sends more than {limit} bytes",
            hint="no manifest is that large; the registry or the image is broken",
        )
    return data
