import bz2
import gzip
import io
import lzma
import random
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.errors import ImageError
from imgbuild.layer.decompress import open_uncompressed, sniff

DATA = random.Random(3).randbytes(100_000) + b"words " * 50_000


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def _zstd_stream(data: bytes) -> bytes:
    """Compress without a content size, in many blocks."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": _zstd,
    "zstd-stream": _zstd_stream,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
codecs = pytest.mark.parametrize("codec", CODECS)


def content(stored: bytes) -> bytes:
    return open_uncompressed(io.BytesIO(stored)).read()


@codecs
@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["empty", "one", "much"])
def test_content(codec: str, data: bytes) -> None:
    assert content(CODECS[codec](data)) == data


@pytest.mark.parametrize("data", [b"", b"x", b"abcdefgh", DATA])
def test_what_is_not_compressed_comes_as_it_is(data: bytes) -> None:
    assert content(data) == data


@codecs
def test_several_streams_are_one_content(codec: str) -> None:
    stored = CODECS[codec](DATA) + CODECS[codec](b"") + CODECS[codec](b"more")
    assert content(stored) == DATA + b"more"


@codecs
def test_every_truncation_is_noticed(codec: str) -> None:
    stored = CODECS[codec](DATA[:5000] + b"x" * 5000)
    for length in [*range(6, 60), *range(60, len(stored), 97), len(stored) - 1]:
        with pytest.raises(ImageError, match=r"truncated|decompressed"):
            content(stored[:length])


@pytest.mark.parametrize("codec", ["gzip", "zstd", "bzip2", "xz"])
def test_damage_is_noticed(codec: str) -> None:
    stored = bytearray(CODECS[codec](DATA))
    for at in (len(stored) // 2, len(stored) - 3):
        bad = stored.copy()
        bad[at] ^= 0x55
        with pytest.raises(ImageError, match="cannot be decompressed"):
            content(bytes(bad))


@codecs
def test_something_else_behind_is_refused(codec: str) -> None:
    with pytest.raises(ImageError, match="something else"):
        content(CODECS[codec](DATA) + b"trailing garbage")


def test_zeros_behind_are_ignored() -> None:
    assert content(gzip.compress(DATA) + bytes(300_000)) == DATA
    assert content(gzip.compress(DATA) + bytes(9) + gzip.compress(b"x")) == DATA + b"x"


def test_skippable_zstd_frames() -> None:
    skip = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    assert content(skip + _zstd(DATA) + skip) == DATA
    with pytest.raises(ImageError, match="truncated"):
        content(_zstd(DATA) + skip[:-1])


def test_a_zstd_window_without_measure_is_refused() -> None:
    frame = b"\x28\xb5\x2f\xfd\x00\xf8" + b"\x01\x00\x00"
    with pytest.raises(ImageError, match="decompressed"):
        content(frame)


def test_the_source_is_read_to_its_end() -> None:
    for stored in (DATA, *(codec(DATA) for codec in CODECS.values())):
        source = io.BytesIO(stored)
        reader = open_uncompressed(source)
        while reader.read(10_000):
            pass
        assert source.read() == b""


def test_the_error_names_what_was_read() -> None:
    with pytest.raises(ImageError, match="application/x"):
        open_uncompressed(io.BytesIO(b"\x1f\x8b" + b"x" * 50), "application/x").read()


class Dripping(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 1, 3))


@codecs
def test_short_reads(codec: str) -> None:
    assert open_uncompressed(Dripping(CODECS[codec](b"abc" * 100))).read() == b"abc" * 100


@codecs
def test_a_bomb_does_not_fill_memory(codec: str) -> None:
    stored = CODECS[codec](bytes(100 << 20))
    tracemalloc.start()
    try:
        reader = open_uncompressed(io.BytesIO(stored))
        size = 0
        while data := reader.read(1 << 16):
            size += len(data)
        # xz alone needs 8 MiB for its dictionary.
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert size == 100 << 20


@given(st.sampled_from(sorted(CODECS)), st.binary(max_size=300))
def test_garbage_never_crashes(codec: str, garbage: bytes) -> None:
    start = CODECS[codec](b"x")[:6]
    with suppress(ImageError):
        content(start + garbage)


def test_sniffing() -> None:
    assert sniff(b"") is None
    assert sniff(b"\x1f\x8b\x08") == "gzip"
    assert sniff(b"\x28\xb5\x2f\xfd") == "zstd"
    assert sniff(b"\x5f\x2a\x4d\x18") == "zstd"
    assert sniff(b"BZh9") == "bzip2"
    assert sniff(b"\xfd7zXZ\0") == "xz"
    assert sniff(b"ustar") is None
