import io
import tarfile
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.errors import ImageError
from imgbuild.layer.entry import Entry
from imgbuild.layer.tarread import Limits, read_tar, scan
from imgbuild.oci.digest import digest_bytes
from tests.support.archives import REFUSED, Archive, archive, layer, long_name, member


def scanned(data: bytes, limits: Limits | None = None) -> list[Entry]:
    found: list[Entry] = []
    scan(io.BytesIO(data), found.append, limits)
    return found


def paths(*members: bytes) -> list[tuple[bytes, str]]:
    return [(entry.path, entry.type) for entry in scanned(archive(*members))]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_hostile_archives_are_refused(case: Archive) -> None:
    with pytest.raises(ImageError, match=r".") as caught:
        scanned(case.data)
    assert case.words in caught.value.message


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"a", b"a"),
        (b"./a", b"a"),
        (b"/a", b"a"),
        (b"//a//b/./c", b"a/b/c"),
        (b".//./a/.", b"a"),
        (b"...", b"..."),
        (b"..a", b"..a"),
        (b"a\nb", b"a\nb"),
        (b"\xff\xe9", b"\xff\xe9"),
    ],
)
def test_names_become_plain(name: bytes, path: bytes) -> None:
    assert paths(member(name)) == [(path, "file")]
    assert paths(member(name + b"/", b"5")) == [(path, "dir")]


def test_the_root_itself() -> None:
    (entry,) = scanned(archive(member(b"./", b"5", mode=0o711)))
    assert (entry.path, entry.type, entry.mode) == (b"", "dir", 0o711)


def test_directories_as_v7_wrote_them() -> None:
    assert paths(member(b"a/", b"\0"), member(b"a/b", b"\0")) == [(b"a", "dir"), (b"a/b", "file")]


def test_markers() -> None:
    got = paths(
        member(b"d/.wh.a", content=b"ignored"),
        member(b"d/.wh..wh..opq"),
        member(b".wh..wh.plnk/x", content=b"ignored"),
        member(b".wh..wh..opq"),
        member(b"z"),
    )
    assert got == [(b"d/a", "whiteout"), (b"d", "opaque"), (b"", "opaque"), (b"z", "file")]


def test_content_digest_and_offset() -> None:
    data = archive(member(b"a", content=b"x" * 700), member(b"b"))
    with_content = []
    for entry, content in read_tar(io.BytesIO(data)):
        assert content.digest is None or entry.size == 0
        with_content.append((entry.path, content.read(), content.digest, entry.offset))
        assert content.read() == b""
    assert with_content == [
        (b"a", b"x" * 700, digest_bytes(b"x" * 700), 512),
        (b"b", b"", digest_bytes(b""), 512 + 1024 + 512),
    ]


def test_content_that_nobody_reads_is_skipped() -> None:
    data = archive(member(b"a", content=b"x" * 700), member(b"b", content=b"y"), member(b"c"))
    got = []
    for entry, content in read_tar(io.BytesIO(data), hashed=False):
        got.append((entry.path, content.read(1)))
        assert entry.path == b"a" or content.digest is None or entry.path == b"c"
    assert got == [(b"a", b"x"), (b"b", b"y"), (b"c", b"")]


def test_pax_overrides_and_empty_values() -> None:
    records = {
        b"path": b"long/name",
        b"uid": b"3000000",
        b"gid": b"4",
        b"mtime": b"-1.5",
        b"SCHILY.xattr.user.a": b"v=\0",
        b"SCHILY.xattr.security.selinux": b"dropped",
        b"SCHILY.xattr.user.overlay.redirect": b"/etc",
        b"comment": b"whatever",
    }
    (entry,) = scanned(archive(member(b"short", content=b"abc", records=records)))
    assert entry == Entry(
        b"long/name", "file", 0o644, 3000000, 4, -2, 3,
        xattrs={"user.a": b"v=\0"}, digest=digest_bytes(b"abc"), offset=1536,
    )  # fmt: skip
    (entry,) = scanned(archive(member(b"short", uid=7, records={b"path": b"", b"uid": b""})))
    assert (entry.path, entry.uid) == (b"short", 7)


def test_global_pax_headers_hold_until_overridden() -> None:
    glob = member(b"g", b"g", b"10 gid=42\n")
    got = scanned(archive(glob, member(b"a"), member(b"b", records={b"gid": b"1"}), member(b"c")))
    assert [entry.gid for entry in got] == [42, 1, 42]


def test_gnu_long_names_are_for_one_entry() -> None:
    name, link = b"d/" * 80 + b"f", b"t" * 150
    got = scanned(
        archive(
            long_name(link, b"K"), long_name(name), member(b"cut", b"2", link=b"c"), member(b"n")
        )
    )
    assert [(e.path, e.linkname) for e in got] == [(name, link), (b"n", b"")]


def test_sizes_of_what_has_no_content_are_ignored() -> None:
    # As Go does; old writers put the file's size into the headers of hard links.
    sized = member(b"h", b"1", link=b"a", size=b"00000001000\0")
    assert paths(member(b"a", content=b"x"), sized, member(b"z")) == [
        (b"a", "file"),
        (b"h", "hardlink"),
        (b"z", "file"),
    ]


def test_what_follows_the_end_is_read_and_ignored() -> None:
    stream = io.BytesIO(archive(member(b"a")) + b"garbage" * 5000)
    assert [entry.path for entry, _ in read_tar(stream)] == [b"a"]
    assert stream.read() == b""


def test_one_zero_block_at_the_end_is_enough() -> None:
    assert [e.path for e in scanned(member(b"a") + bytes(512))] == [b"a"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(entries=1), "more than 1 entries"),
        (Limits(total=2000), "larger than|bytes"),
        (Limits(header=10), "extension header"),
        (Limits(path=3), "illegal name"),
        (Limits(depth=1), "too deep"),
    ],
)
def test_limits(limits: Limits, words: str) -> None:
    data = archive(
        member(b"d/e/f", records={b"gid": b"123456789"}), member(b"b", content=bytes(900))
    )
    assert len(scanned(data)) == 2
    with pytest.raises(ImageError, match=words):
        scanned(data, limits)


def test_a_bomb_behind_the_end_is_not_read_for_ever() -> None:
    class Endless(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size) or bytes(size or 0)

    with pytest.raises(ImageError, match="larger"):
        list(read_tar(Endless(archive(member(b"a"))), Limits(total=5 << 20)))


class Dripping(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 1, 100))


def test_short_reads_are_put_together() -> None:
    data = archive(member(b"a", content=b"x" * 700), member(b"b", records={b"path": b"c" * 120}))
    found: list[Entry] = []
    scan(Dripping(data), found.append)
    assert found == scanned(data)


def test_every_truncation_is_refused() -> None:
    data = archive(member(b"a", content=b"x" * 600), member(b"b", b"5"))
    between_entries = {0, 512 + 1024, 512 + 1024 + 512}
    for length in range(0, len(data) - 1024, 64):
        if length in between_entries:
            continue
        with pytest.raises(ImageError, match="truncated"):
            scanned(data[:length])


def test_an_end_without_zero_blocks_is_taken() -> None:
    one = member(b"a", content=b"x" * 600)
    assert scanned(one) == scanned(archive(one))
    assert scanned(b"") == []


@given(st.data())
def test_damage_never_crashes(data: st.DataObject) -> None:
    good = layer(
        (Entry(b"a", "dir"), b""),
        (Entry(b"a/" + b"n" * 120, "file", size=3, xattrs={"user.x": b"y"}), b"abc"),
        (Entry(b"b", "symlink", linkname="é".encode()), b""),
    )
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(bad)))
    with suppress(ImageError):
        scanned(bytes(bad[: cut or len(bad)]))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_the_standard_library_writes(form: int) -> None:
    out = io.BytesIO()
    long = "d" * 60 + "/" + "e" * 60 + "/f"
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, kind, extra in (
            (long, tarfile.REGTYPE, {"size": 5, "mtime": 99}),
            ("s", tarfile.SYMTYPE, {"linkname": "x" * 90}),
            ("h", tarfile.LNKTYPE, {"linkname": "./" + "y" * 9}),
            ("b", tarfile.BLKTYPE, {"devmajor": 8, "devminor": 1}),
        ):
            info: Any = tarfile.TarInfo(name)
            info.type = kind
            for key, value in extra.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(b"hello"))
    got = scanned(out.getvalue())
    assert [(e.path, e.type, e.linkname, e.rdev) for e in got] == [
        (long.encode(), "file", b"", None),
        (b"s", "symlink", b"x" * 90, None),
        (b"h", "hardlink", b"y" * 9, None),
        (b"b", "block", b"", (8, 1)),
    ]
    assert got[0].digest == digest_bytes(b"hello")
