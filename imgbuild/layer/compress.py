"""From the bytes of a tar to a blob and both its digests, in one pass and flat memory.

gzip is ISA-L level 2: the fastest level whose output is the same on every CPU (level 3 and
0 choose their code by it). Blocks of fixed size are compressed on their own, so that the
blob depends neither on the number of threads nor on how the bytes came in.
"""

import hashlib
import queue
import threading
from collections.abc import Callable
from typing import BinaryIO, Literal, NamedTuple, Self

from imgbuild.oci import media_types
from imgbuild.oci.descriptor import Descriptor, Layer
from imgbuild.oci.digest import Digest

Compression = Literal["gzip", "zstd", "uncompressed"]

# Magic, deflate, no flags, no time, no extra flags, unknown system (RFC 1952, 2.3).
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_GZIP_LEVEL = 2
_ZSTD_LEVEL = 3


class _Codec(NamedTuple):
    media_type: str
    block: int
    # Takes a block and whether it is the last, which alone may be short or empty.
    compress: Callable[[bytes, bool], bytes]
    header: bytes = b""
    # Whether CRC-32 and size follow the last block.
    trailer: bool = False


class BlobWriter:
    """Compress what is written into `out`, which stays open.

    `threads` is how many blocks are compressed at a time beside the caller; one more hashes and
    writes. 0 does all in the caller. Less than one block never starts a thread. Not finished,
    it must be aborted; leaving it as a context manager by an exception does so.
    """

    def __init__(self, out: BinaryIO, compression: Compression = "gzip", threads: int = 2) -> None:
        self._codec = _codec(compression)
        self._out = out
        self._threads = threads
        self._parts: list[bytes] = []  # of the block that is not full yet
        self._held = 0
        self._pool: _Pool | None = None
        self._raw_hash = hashlib.sha256()
        self._raw_size = 0
        # What is not compressed needs no second hash.
        self._blob_hash = None if compression == "uncompressed" else hashlib.sha256()
        self._blob_size = 0
        self._crc = 0
        self._emit(self._codec.header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def write(self, data: "bytes | bytearray | memoryview") -> int:
        """Take bytes of the tar; they are not referred to afterwards."""
        part = data if isinstance(data, bytes) else bytes(data)
        self._parts.append(part)
        self._held += len(part)
        size = self._codec.block
        while self._held >= size:
            last = self._parts.pop()
            cut = len(last) - (self._held - size)
            self._parts.append(last[:cut])
            self._submit(b"".join(self._parts))
            self._parts = [last[cut:]]
            self._held -= size
        return len(part)

    def finish(self) -> Layer:
        """Write what is left and say what was made of it."""
        last = b"".join(self._parts)
        self._parts.clear()
        if self._pool is not None:
            self._pool.finish()
            self._pool = None
        self._account(last)
        self._emit(self._codec.compress(last, True))
        if self._codec.trailer:
            size = self._raw_size & 0xFFFFFFFF
            self._emit(self._crc.to_bytes(4, "little") + size.to_bytes(4, "little"))
        diff_id = Digest("sha256:" + self._raw_hash.hexdigest())
        digest = diff_id
        if self._blob_hash is not None:
            digest = Digest("sha256:" + self._blob_hash.hexdigest())
        blob = Descriptor(self._codec.media_type, digest, self._blob_size)
        return Layer(blob, diff_id, self._raw_size)

    def abort(self) -> None:
        """End the threads; harmless at any time."""
        if self._pool is not None:
            self._pool.abort()
            self._pool = None

    def _submit(self, block: bytes) -> None:
        if self._threads > 0 and self._blob_hash is not None:
            if self._pool is None:
                self._pool = _Pool(self._codec.compress, self._threads, self._account, self._emit)
            self._pool.put(block)
        else:
            self._account(block)
            self._emit(self._codec.compress(block, False))

    def _account(self, block: bytes) -> None:
        self._raw_size += len(block)
        self._raw_hash.update(block)
        if self._codec.trailer:
            from isal import isal_zlib

            self._crc = isal_zlib.crc32(block, self._crc)

    def _emit(self, data: bytes) -> None:
        if data:
            self._blob_size += len(data)
            if self._blob_hash is not None:
                self._blob_hash.update(data)
            self._out.write(data)


class _Task:
    """A block on its way: `result` holds bytes or the exception once `done` is set."""

    __slots__ = ("block", "done", "result")

    def __init__(self, block: bytes) -> None:
        self.block = block
        self.done = threading.Event()
        self.result: bytes | Exception = b""

    def value(self) -> bytes:
        """Wait for the result; raise what went wrong."""
        self.done.wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class _Pool:
    """Threads that compress blocks, and one that takes blocks and results in their order."""

    def __init__(
        self,
        compress: Callable[[bytes, bool], bytes],
        threads: int,
        account: Callable[[bytes], None],
        emit: Callable[[bytes], None],
    ) -> None:
        self._compress = compress
        self._account = account
        self._emit = emit
        self._waiting: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._order: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        # Enough that no thread waits while the caller makes the next; this bounds the memory.
        self._room = threading.Semaphore(threads + 3)
        self._problem: Exception | None = None
        self._stopped = False
        works = [self._work] * threads
        self._threads = [
            threading.Thread(target=work, name="imgbuild-compress", daemon=True)
            for work in (*works, self._drain)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, block: bytes) -> None:
        """Take a block, when there is room; raise what went wrong with an earlier one."""
        self._room.acquire()
        if self._problem is not None:
            raise self._problem
        task = _Task(block)
        self._order.put(task)
        self._waiting.put(task)

    def finish(self) -> None:
        """Wait until all is done; raise what went wrong."""
        self._end()
        if self._problem is not None:
            raise self._problem

    def abort(self) -> None:
        """Stop without finishing what is on its way."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        self._order.put(None)
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None:
            try:
                task.result = b"" if self._stopped else self._compress(task.block, False)
            except Exception as error:  # it is raised again where the next block is put
                task.result = error
            task.done.set()

    def _drain(self) -> None:
        """Hash each block while it is compressed, then hand on what became of it."""
        while (task := self._order.get()) is not None:
            if self._problem is None and not self._stopped:
                try:
                    self._account(task.block)
                    self._emit(task.value())
                except Exception as error:  # as above
                    self._problem = error
            self._room.release()


def _codec(compression: Compression) -> _Codec:
    match compression:
        case "gzip":
            return _Codec(media_types.OCI_LAYER_GZIP, 1 << 20, _gzip_block, _GZIP_HEADER, True)
        case "zstd":
            # Larger blocks, because each is a frame of its own that knows nothing of the others.
            return _Codec(media_types.OCI_LAYER_ZSTD, 1 << 22, _zstd_block)
        case "uncompressed":
            return _Codec(media_types.OCI_LAYER, 1 << 20, _same)


def _gzip_block(block: bytes, last: bool) -> bytes:
    from isal import isal_zlib

    deflate = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, -15)
    flush = isal_zlib.Z_FINISH if last else isal_zlib.Z_FULL_FLUSH
    return bytes(deflate.compress(block) + deflate.flush(flush))


def _zstd_block(block: bytes, last: bool) -> bytes:
    if last and not block:
        return b""  # frames need no end marker; the content before has its own
    import zstandard

    return zstandard.ZstdCompressor(_ZSTD_LEVEL).compress(block)


def _same(block: bytes, _last: bool) -> bytes:
    return block
