"""Archives that cost too much: refused while they are unpacked, whatever they are packed with."""

import bz2
import gzip
import io
import lzma
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

import imgbuild
from imgbuild.build import archives
from imgbuild.errors import ContextError, UsageError
from imgbuild.layer import pax
from imgbuild.options import ArchiveLimits
from imgbuild.store.store import Store
from tests.support.archives import archive, member
from tests.unit.build.building import build, names

ADD = "FROM scratch\nADD a.tar /x/\n"
ZEROS = archive(member(b"zeros", content=bytes(4 << 20)), member(b"more", content=bytes(4 << 20)))
PACKERS: list[Callable[[bytes], bytes]] = [
    bytes,
    gzip.compress,
    bz2.compress,
    lzma.compress,
    zstandard.compress,
]


def refused(store: Store, context: Path, data: bytes, limits: ArchiveLimits | None = None) -> Any:
    """Build with an archive that must be refused, and give the error; nothing may be left."""
    (context / "a.tar").write_bytes(data)
    with pytest.raises(ContextError, match=r"cannot unpack /a\.tar: ") as caught:
        build(store, context, ADD, archive_limits=limits)
    assert caught.value.span is not None
    store.blobs.flush()
    assert list((store.paths.blobs / "sha256").iterdir()) == []
    assert list(store.paths.staging.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("pack", PACKERS, ids=lambda f: f.__name__)
def test_no_more_than_the_limit_is_ever_written(
    pack: Callable[[bytes], bytes], store: Store, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    class Counted(io.BytesIO):
        def write(self, data: Any) -> int:
            written.append(len(data))
            return super().write(data)

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Counted())
    limits = ArchiveLimits(size=3 << 20)
    error = refused(store, context, pack(ZEROS), limits)
    assert "unpacked it is larger than 3145728 bytes, which is the limit" in error.message
    assert "--add-limit-size (archive_limits.size)" in error.hint
    assert 0 < sum(written) <= limits.size


@pytest.mark.parametrize("pack", PACKERS, ids=lambda f: f.__name__)
def test_an_archive_just_as_large_as_the_limit_is_taken(
    pack: Callable[[bytes], bytes], store: Store, context: Path
) -> None:
    (context / "a.tar").write_bytes(pack(ZEROS))
    limits = ArchiveLimits(entries=2, size=len(ZEROS))
    assert names(store, build(store, context, ADD, archive_limits=limits)) == [
        "x",
        "x/more",
        "x/zeros",
    ]


def test_more_members_than_the_limit(store: Store, context: Path) -> None:
    data = archive(*(member(b"%d" % number) for number in range(11)))
    error = refused(store, context, data, ArchiveLimits(entries=10))
    assert "it has more than 10 members, which is the limit" in error.message
    assert "--add-limit-entries" in error.hint


def test_what_is_packed_too_well(
    store: Store, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_RATIO_FROM", 1 << 20)
    packed = lzma.compress(ZEROS)
    error = refused(store, context, packed, ArchiveLimits(ratio=100))
    assert "more than 100 times larger" in error.message
    assert "--add-limit-ratio" in error.hint
    (context / "a.tar").write_bytes(packed)
    for limits in (ArchiveLimits(ratio=0), ArchiveLimits(ratio=len(ZEROS))):
        build(store, context, ADD, archive_limits=limits, no_cache=True)
    # What is small does no harm, however well it is packed.
    monkeypatch.undo()
    build(store, context, ADD, archive_limits=ArchiveLimits(ratio=1), no_cache=True)


def test_names_are_held_within_bounds(
    store: Store, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MOST_NAMES", 2000)
    long = b"/".join([b"d" * 100] * 9)
    data = archive(*(member(b"x", records={b"path": long + b"%d" % n}) for n in range(3)))
    assert "names and attributes are larger than" in refused(store, context, data).message
    attribute = {b"SCHILY.xattr.user.x": b"v" * 1500}
    data = archive(member(b"a", records=attribute), member(b"b", records=attribute))
    assert "names and attributes are larger than" in refused(store, context, data).message


def wide_xz() -> bytes:
    """Return an archive that says that it needs a dictionary of 256 MiB to be read."""
    packed = bytearray(lzma.compress(archive(member(b"x")), preset=0))
    header = packed[12 : 12 + (packed[12] + 1) * 4]
    place = bytes(header).index(b"\x21\x01") + 2  # LZMA2, one byte of properties
    header[place] = 32  # 256 MiB by the format's table: (2 | bits & 1) << (bits // 2 + 11)
    header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "little")
    packed[12 : 12 + len(header)] = header
    return bytes(packed)


def wide_zstd() -> bytes:
    """Return a frame with a window of 256 MiB (RFC 8878, 3.1.1.1.2)."""
    block = (len(b"x") << 3 | 1).to_bytes(3, "little") + b"x"
    return b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(28 - 10) << 3]) + block


@pytest.mark.parametrize("data", [wide_xz(), wide_zstd()], ids=["xz", "zstd"])
def test_windows_that_would_fill_the_memory(data: bytes, store: Store, context: Path) -> None:
    assert "emory" in refused(store, context, data).message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            b"".join(
                member(b"PaxHeaders.0/x", b"x", pax._record(b"user.%d" % n, b"v" * 500_000))
                for n in range(5)
            )
            + archive(member(b"f")),
            "extension headers without end",
        ),
        (
            b"".join(
                member(
                    b"PaxHeaders.0/g",
                    b"g",
                    b"".join(pax._record(b"%d" % n, b"v") for n in range(at, at + 500)),
                )
                for at in range(0, 1500, 500)
            )
            + archive(member(b"f")),
            "global PAX headers without end",
        ),
        (archive(member(b"x", b"S")), "sparse"),
        (archive(member(b"x", records={b"GNU.sparse.realsize": b"99999999999"})), "sparse"),
        (archive(member(b"x", records={b"path": b"d/" * 1100 + b"x"})), "too deep"),
        (archive(member(b"x", records={b"size": b"9" * 14})), "bytes"),
    ],
    ids=["own headers", "global headers", "gnu sparse", "pax sparse", "too deep", "huge size"],
)
def test_headers_that_ask_for_too_much(
    data: bytes, words: str, store: Store, context: Path
) -> None:
    assert words in refused(store, context, gzip.compress(data)).message


def test_directories_that_are_replaced_over_and_over(store: Store, context: Path) -> None:
    members = [member(b"keep/%d" % n) for n in range(3000)]
    for number in range(3000):
        members += [member(b"%d/f" % number), member(b"%d" % number)]
    (context / "a.tar").write_bytes(archive(*members))
    built = build(store, context, ADD)
    assert len(names(store, built)) == 1 + 1 + 3000 + 3000


def test_limits_come_from_the_options(tmp_path: Path, context: Path) -> None:
    (context / "a.tar").write_bytes(ZEROS)
    (context / "Dockerfile").write_text(ADD)
    options: dict[str, Any] = {"store": tmp_path / "store"}
    with pytest.raises(ContextError, match="larger than 4096 bytes"):
        imgbuild.build(context, archive_limits=ArchiveLimits(size=4096), **options)
    for limits in (ArchiveLimits(size=0), ArchiveLimits(entries=0), ArchiveLimits(ratio=-1)):
        with pytest.raises(UsageError, match="limits of archives"):
            imgbuild.build(context, archive_limits=limits, **options)
    assert imgbuild.build(context, **options).layers
