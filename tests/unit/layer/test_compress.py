import gzip
import hashlib
import io
import random
import subprocess
import sys
import threading
import tracemalloc
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuild.layer.compress import BlobWriter, Compression
from imgbuild.layer.decompress import open_uncompressed
from imgbuild.oci import media_types
from imgbuild.oci.descriptor import Layer

ALL: list[Compression] = ["gzip", "zstd", "uncompressed"]
MIB = 1 << 20


def blob(
    data: bytes, compression: Compression = "gzip", threads: int = 2, step: int = MIB
) -> tuple[bytes, Layer]:
    out = io.BytesIO()
    with BlobWriter(out, compression, threads) as writer:
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
        layer = writer.finish()
    return out.getvalue(), layer


def mixed(size: int) -> bytes:
    """Return bytes of which about half can be compressed."""
    source = random.Random(7)
    return b"".join(
        source.randbytes(500) + b"the same words again " * 25 for _ in range(size // 1025 + 1)
    )[:size]


@pytest.mark.parametrize("compression", ALL)
@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 4 * MIB, 9 * MIB + 5])
def test_content_digests_and_sizes(compression: Compression, size: int) -> None:
    data = mixed(size)
    stored, layer = blob(data, compression)
    assert open_uncompressed(io.BytesIO(stored)).read() == data
    assert layer.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert layer.descriptor.digest == "sha256:" + hashlib.sha256(stored).hexdigest()
    assert layer.descriptor.size == len(stored)
    assert layer.uncompressed_size == size


@pytest.mark.parametrize(
    ("compression", "media_type"),
    [
        ("gzip", media_types.OCI_LAYER_GZIP),
        ("zstd", media_types.OCI_LAYER_ZSTD),
        ("uncompressed", media_types.OCI_LAYER),
    ],
)
def test_media_types(compression: Compression, media_type: str) -> None:
    assert blob(b"", compression)[1].descriptor.media_type == media_type


@pytest.mark.parametrize("compression", ALL)
def test_the_number_of_threads_does_not_matter(compression: Compression) -> None:
    data = mixed(9 * MIB + 77)
    assert len({blob(data, compression, threads)[0] for threads in (0, 1, 2, 5)}) == 1


@given(st.lists(st.integers(0, 3 * MIB), max_size=5), st.sampled_from(ALL))
@settings(max_examples=30, deadline=None)
def test_how_the_bytes_come_in_does_not_matter(cuts: list[int], compression: Compression) -> None:
    data = mixed(3 * MIB)
    out = io.BytesIO()
    with BlobWriter(out, compression) as writer:
        edges = [0, *sorted(cuts), len(data)]
        for start, end in zip(edges, edges[1:], strict=False):
            writer.write(memoryview(data)[start:end])
        writer.finish()
    assert out.getvalue() == blob(data, compression)[0]


def test_written_memory_may_be_reused() -> None:
    out, buffer = io.BytesIO(), bytearray(2 * MIB)
    with BlobWriter(out) as writer:
        for value in range(4):
            buffer[:] = bytes([value]) * len(buffer)
            writer.write(buffer)
        writer.finish()
    assert gzip.decompress(out.getvalue()) == b"".join(bytes([v]) * 2 * MIB for v in range(4))


def test_gzip_is_one_member_that_says_nothing_of_its_maker() -> None:
    stored, _ = blob(mixed(3 * MIB + 1))
    assert stored[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    reader: Any = gzip.GzipFile(fileobj=io.BytesIO(stored))
    assert len(reader.read()) == 3 * MIB + 1
    assert subprocess.run(["gzip", "-t"], input=stored).returncode == 0
    import zlib

    member = zlib.decompressobj(31)
    member.decompress(stored)
    assert member.eof
    assert member.unused_data == b""


def test_zstd_is_read_by_the_library_itself() -> None:
    data = mixed(9 * MIB)
    stored, _ = blob(data, "zstd")
    reader = zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True)
    assert reader.read() == data


def test_a_small_layer_starts_no_thread() -> None:
    code = (
        "import io, threading\n"
        "threading.Thread.start = None\n"
        "from imgbuild.layer.compress import BlobWriter\n"
        "writer = BlobWriter(io.BytesIO())\n"
        "writer.write(bytes((1 << 20) - 1))\n"
        "writer.finish()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def workers() -> int:
    return sum(thread.name == "imgbuild-compress" for thread in threading.enumerate())


def test_threads_end_when_the_blob_does() -> None:
    before = workers()
    blob(bytes(5 * MIB))
    assert workers() == before


def test_threads_end_when_writing_fails() -> None:
    class Full(io.BytesIO):
        def write(self, data: Any, /) -> int:
            if self.tell() > 100:
                raise OSError(28, "No space left on device")
            return super().write(data)

    before = workers()
    with pytest.raises(OSError, match="No space"), BlobWriter(Full()) as writer:
        for _ in range(50):
            writer.write(mixed(MIB))
    assert workers() == before


def test_a_failure_in_a_thread_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import isal.isal_zlib

    def broken(*_: Any) -> Any:
        raise MemoryError("none left")

    monkeypatch.setattr(isal.isal_zlib, "compressobj", broken)
    with pytest.raises(MemoryError), BlobWriter(io.BytesIO()) as writer:
        for _ in range(50):
            writer.write(bytes(MIB))


def test_aborting_twice_is_harmless() -> None:
    writer = BlobWriter(io.BytesIO())
    writer.write(bytes(3 * MIB))
    writer.abort()
    writer.abort()


@pytest.mark.parametrize("compression", ALL)
def test_memory_does_not_grow_with_the_layer(compression: Compression) -> None:
    class Nowhere(io.BytesIO):
        def write(self, data: Any, /) -> int:
            return len(data)

    part = random.Random(1).randbytes(MIB)
    tracemalloc.start()
    try:
        with BlobWriter(Nowhere(), compression) as writer:
            for _ in range(150):
                writer.write(part)
            writer.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * MIB
