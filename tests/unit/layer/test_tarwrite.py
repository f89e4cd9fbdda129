import hashlib
import io
import tarfile
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.errors import ImageError
from imgbuild.layer.entry import Entry, sort_key
from imgbuild.layer.tarread import Limits, read_tar, scan
from imgbuild.layer.tarwrite import TarWriter
from imgbuild.oci.digest import digest_bytes

V3 = bytes.fromhex("01000003 00200000 00000000 00000000 00000000 01000000")


def written(
    *entries: Entry, content: bytes = b"", clamp: int | None = None
) -> tuple[bytes, list[Entry]]:
    out, index = io.BytesIO(), []
    writer = TarWriter(out.write, index.append, clamp)
    for entry in entries:
        writer.add(entry, io.BytesIO(content) if entry.type == "file" else None)
    writer.finish()
    return out.getvalue(), index


def members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        return archive.getmembers()


def test_plain_entries_need_no_pax() -> None:
    data, index = written(
        Entry(b"d", "dir", 0o1777, 1, 2, 100),
        Entry(b"d/f", "file", 0o4755, 3, 4, 200, 3),
        Entry(b"d/h", "hardlink", 0o644, linkname=b"d/f"),
        Entry(b"d/p", "fifo", 0o600),
        Entry(b"d/s", "symlink", 0o777, linkname=b"../x"),
        Entry(b"null", "char", 0o666, rdev=(1, 3)),
        content=b"abc",
    )
    assert len(data) == 512 * (6 + 1 + 2)
    assert data.endswith(bytes(1024))
    got = [
        (m.name, m.type, m.mode, m.uid, m.gid, m.mtime, m.size, m.linkname) for m in members(data)
    ]
    assert got == [
        ("d", b"5", 0o1777, 1, 2, 100, 0, ""),
        ("d/f", b"0", 0o4755, 3, 4, 200, 3, ""),
        ("d/h", b"1", 0o644, 0, 0, 0, 0, "d/f"),
        ("d/p", b"6", 0o600, 0, 0, 0, 0, ""),
        ("d/s", b"2", 0o777, 0, 0, 0, 0, "../x"),
        ("null", b"3", 0o666, 0, 0, 0, 0, ""),
    ]
    assert index[1].digest == digest_bytes(b"abc")
    assert data[index[1].offset :][:3] == b"abc"
    assert data[0:3] == b"d/\0"


def test_no_names_of_users_and_no_other_times() -> None:
    (member,) = members(written(Entry(b"x" * 255, "file", mtime=-5))[0])
    assert (member.uname, member.gname) == ("", "")
    assert set(member.pax_headers) == {"path", "mtime"}


@pytest.mark.parametrize(
    ("entry", "headers"),
    [
        (Entry("é".encode(), "file"), {"path": "é"}),
        (Entry(b"a" * 101, "file"), {"path": "a" * 101}),
        (Entry(b"a" * 100, "dir"), {"path": "a" * 100 + "/"}),
        (Entry(b"s", "symlink", linkname=b"t" * 101), {"linkpath": "t" * 101}),
        (Entry(b"s", "symlink", linkname=b"t" * 100), {}),
        (Entry(b"f", "file", uid=2097152), {"uid": "2097152"}),
        (Entry(b"f", "file", gid=2097151), {}),
        (Entry(b"f", "file", mtime=2**33), {"mtime": str(2**33)}),
        (Entry(b"f", "file", mtime=-1), {"mtime": "-1"}),
        (Entry(b"f", "file", xattrs={"user.a": b"\0\n="}), {"SCHILY.xattr.user.a": "\0\n="}),
        (Entry(b"f", "file", xattrs={"user.overlay.opaque": b"y"}), {}),
        (Entry(b"f", "file", xattrs={"user.imgbuild.owner": b"1:1"}), {}),
    ],
)
def test_pax_only_for_what_ustar_cannot_hold(entry: Entry, headers: dict[str, str]) -> None:
    (member,) = members(written(entry)[0])
    assert member.pax_headers == headers


def test_capabilities_are_written_for_any_namespace() -> None:
    data, _ = written(Entry(b"f", "file", xattrs={"security.capability": V3}))
    assert b"SCHILY.xattr.security.capability=\x01\0\0\x02" in data
    assert V3 not in data


def test_whiteouts() -> None:
    data, index = written(Entry(b"a/b", "whiteout", 0o777, 5, 5, 99), Entry(b"c", "whiteout"))
    assert [(m.name, m.mode, m.uid, m.mtime, m.size) for m in members(data)] == [
        ("a/.wh.b", 0, 0, 0, 0),
        (".wh.c", 0, 0, 0, 0),
    ]
    assert index == [Entry(b"a/b", "whiteout", 0), Entry(b"c", "whiteout", 0)]


def test_whiteouts_sort_by_what_they_remove() -> None:
    written(Entry(b"-", "file"), Entry(b"a", "whiteout"), Entry(b"b", "file"))
    with pytest.raises(ValueError, match="comes after"):
        written(Entry(b"a", "file"), Entry(b"Z", "whiteout"))


def test_newer_times_are_clamped() -> None:
    data, index = written(Entry(b"a", "file", mtime=50), Entry(b"b", "file", mtime=150), clamp=100)
    assert [m.mtime for m in members(data)] == [50, 100]
    assert [e.mtime for e in index] == [50, 100]


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(b"b", "file"), Entry(b"a", "file")],
        [Entry(b"a", "file"), Entry(b"a", "file")],
        [Entry(b"a", "file"), Entry(b"a", "whiteout")],
        [Entry(b"a-b", "file"), Entry(b"a/b", "file")],
        [Entry(b"a/b", "file"), Entry(b"a", "dir")],
        [Entry(b"a", "opaque")],
        [Entry(b"", "dir")],
        [Entry(b"/a", "dir")],
        [Entry(b"a/", "dir")],
        [Entry(b"a//b", "dir")],
        [Entry(b"./a", "dir")],
        [Entry(b"a/../b", "dir")],
        [Entry(b"a\0b", "dir")],
        [Entry(b"a", "dir", size=1)],
        [Entry(b"a", "file", size=-1)],
        [Entry(b"a", "file", uid=-1)],
    ],
)
def test_misuse(entries: list[Entry]) -> None:
    with pytest.raises(ValueError, match=r"."):
        written(*entries)


@pytest.mark.parametrize("path", [b".wh.a", b"d/.wh.a", b".wh.d/a", b".wh..wh..opq"])
@pytest.mark.parametrize("kind", ["file", "dir", "whiteout"])
def test_names_that_would_be_markers_are_refused(path: bytes, kind: Any) -> None:
    with pytest.raises(ImageError, match=r"\.wh\."):
        written(Entry(path, kind))


def test_what_tar_cannot_hold_is_refused() -> None:
    with pytest.raises(ImageError, match="attribute"):
        written(Entry(b"f", "file", xattrs={"user.a=b": b""}))
    with pytest.raises(ImageError, match="device"):
        written(Entry(b"f", "char", rdev=(0, 2**24)))


@pytest.mark.parametrize("size", [1, 511, 512, 513, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_that_changes_its_size_is_noticed(size: int, change: int) -> None:
    with pytest.raises(ImageError, match="changed while it was read"):
        written(Entry(b"f", "file", size=size), content=bytes(size + change))
    data, _ = written(Entry(b"f", "file", size=size), content=bytes(size))
    assert len(data) == 512 + size + -size % 512 + 1024


@pytest.mark.parametrize("size", [5, 2 << 20])
def test_content_other_than_was_announced_is_noticed(size: int) -> None:
    entry = Entry(b"f", "file", size=size, digest=digest_bytes(b"before"))
    with pytest.raises(ImageError, match="changed while it was read"):
        written(entry, content=bytes(size))


def test_a_file_without_content() -> None:
    TarWriter(io.BytesIO().write).add(Entry(b"f", "file"))
    with pytest.raises(ValueError, match="no content"):
        TarWriter(io.BytesIO().write).add(Entry(b"f", "file", size=1))


class Dripping(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 1, 7))


@pytest.mark.parametrize("size", [0, 1, 100])
def test_short_reads_are_put_together(size: int) -> None:
    out: list[bytes] = []
    tar = TarWriter(out.append)
    tar.add(Entry(b"f", "file", size=size), Dripping(bytes(range(size))))
    tar.finish()
    assert b"".join(out)[512 : 512 + size] == bytes(range(size))


def test_memory_does_not_grow_with_the_file() -> None:
    class Zeros:
        left = 200 << 20

        def read(self, size: int = -1, /) -> bytes:
            size = min(size, self.left)
            self.left -= size
            return bytes(size)

    count = 0

    def take(data: bytes) -> None:
        nonlocal count
        count += len(data)

    tracemalloc.start()
    try:
        TarWriter(take).add(Entry(b"f", "file", size=200 << 20), Zeros())
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert count == 512 + (200 << 20)


def test_a_file_beyond_eight_gigabytes_has_a_pax_size() -> None:
    out: list[bytes] = []
    with pytest.raises(ImageError):
        TarWriter(out.append).add(Entry(b"f", "file", size=1 << 33), io.BytesIO(b"short"))
    assert b"size=8589934592\n" in out[0]


NAMES = st.binary(min_size=1, max_size=120).filter(
    lambda n: not n.startswith(b".wh.") and not {0, 0x2F} & set(n) and n not in {b".", b".."}
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[Entry, bytes]]:
    result = []
    for path in sorted(draw(st.sets(PATHS, max_size=6)), key=sort_key):
        kind: Any = draw(
            st.sampled_from(["file", "dir", "symlink", "hardlink", "whiteout", "fifo"])
        )
        if kind == "whiteout":
            result.append((Entry(path, kind, 0), b""))
            continue
        content = draw(st.binary(max_size=600)) if kind == "file" else b""
        link = b""
        if kind == "symlink":
            link = draw(st.binary(min_size=1, max_size=200).filter(lambda b: 0 not in b))
        elif kind == "hardlink":
            link = draw(PATHS)
        entry = Entry(
            path,
            kind,
            draw(st.integers(0, 0o7777)),
            draw(st.integers(0, 2**32 - 2)),
            draw(st.integers(0, 2**32 - 2)),
            draw(st.integers(-(2**40), 2**40)),
            len(content),
            link,
            None,
            draw(st.dictionaries(st.just("user.x"), st.binary(min_size=1, max_size=9))),
        )
        result.append((entry, content))
    return result


@given(trees())
def test_our_reader_reads_what_our_writer_wrote(tree: list[tuple[Entry, bytes]]) -> None:
    out, index, found = io.BytesIO(), [], []
    writer = TarWriter(out.write, index.append)
    for entry, content in tree:
        writer.add(entry, io.BytesIO(content))
    writer.finish()
    scan(io.BytesIO(out.getvalue()), found.append)
    assert found == index
    for entry, (_, content) in zip(index, tree, strict=True):
        if entry.type == "file":
            assert entry.digest == "sha256:" + hashlib.sha256(content).hexdigest()
            assert out.getvalue()[entry.offset :][: entry.size] == content


@given(trees())
def test_the_standard_library_reads_what_our_writer_wrote(tree: list[tuple[Entry, bytes]]) -> None:
    out = io.BytesIO()
    writer = TarWriter(out.write)
    for entry, content in tree:
        writer.add(entry, io.BytesIO(content))
    writer.finish()
    got = [m.name.encode(errors="surrogateescape") for m in members(out.getvalue())]
    wanted = []
    for entry, _ in tree:
        parent, slash, name = entry.path.rpartition(b"/")
        wanted.append(parent + slash + b".wh." + name if entry.type == "whiteout" else entry.path)
    assert got == wanted


@pytest.mark.parametrize("size", [3, 2 << 20])
def test_vouched_content_is_not_hashed_again(size: int) -> None:
    out: list[bytes] = []
    index: list[Entry] = []
    writer = TarWriter(out.append, index.append)
    other = digest_bytes(b"what the caller says")
    writer.add(Entry(b"f", "file", size=size, digest=other), io.BytesIO(bytes(size)), vouched=True)
    assert index[0].digest == other
    with pytest.raises(ImageError, match="changed while it was read"):
        writer.add(Entry(b"g", "file", size=size, digest=other), io.BytesIO(bytes(size)))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/".join([b"d"] * 1000), "dir"),
        (b"/".join([b"x" * 255] * 15), "file"),
        # Its marker is longer than any name of a file.
        (b"d/" + b"x" * 255, "whiteout"),
    ],
)
def test_what_is_written_at_the_limits_can_be_read(path: bytes, kind: Any) -> None:
    data, _ = written(Entry(path, kind))
    assert [(e.path, e.type) for e, _ in read_tar(io.BytesIO(data))] == [(path, kind)]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Entry(b"/".join([b"d"] * 1025), "dir"), "too long or too deep"),
        (Entry(b"/".join([b"x" * 255] * 16), "file"), "too long or too deep"),
        (Entry(b"x" * 256, "file"), "too long or too deep"),
        (Entry(b"sparse", "file", size=1 << 62), "larger than"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(entry: Entry, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        written(entry)


def test_too_many_entries_are_not_written() -> None:
    writer = TarWriter(lambda _: None, limits=Limits(entries=2))
    writer.add(Entry(b"a", "dir"))
    writer.add(Entry(b"b", "dir"))
    with pytest.raises(ImageError, match="more than 2"):
        writer.add(Entry(b"c", "dir"))
