"""Large indexes are looked up in their file: what comes out is what reading all of it tells."""

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgbuild.errors import ImageError
from imgbuild.layer import index as indexes
from imgbuild.layer import sortedindex
from imgbuild.layer.entry import Entry, sort_key
from imgbuild.layer.index import IndexWriter, open_index, read_index
from imgbuild.layer.sortedindex import SortedIndex
from imgbuild.oci.digest import digest_bytes
from imgbuild.snapshot.lookup import MemoryIndex

DIFF_ID = digest_bytes(b"layer")
NAMES = st.sampled_from(
    [b"a", b"b", b"a-b", b"a.b", b"\x01", b"a\x01", b"\xff", b"a b", b"x" * 200]
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
TYPES = st.sampled_from(["file", "dir", "symlink", "whiteout", "hardlink"])


@pytest.fixture(autouse=True)
def always_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "_LARGE", 0)


def opened(folder: Path, entries: list[Entry]) -> "list[Entry] | SortedIndex":
    path = folder / "index"
    with path.open("wb") as stream:
        writer = IndexWriter(stream)
        for entry in entries:
            writer.add(entry)
        writer.finish(DIFF_ID, 0)
    return open_index(io.FileIO(path), DIFF_ID)


def plain(paths: dict[bytes, str]) -> list[Entry]:
    """Return entries in order, without those below what is no directory."""
    out: list[Entry] = []
    for path in sorted(paths, key=sort_key):
        parents = [path[:at] for at in range(len(path)) if path[at : at + 1] == b"/"]
        if all(paths.get(parent, "dir") == "dir" for parent in parents):
            kind = paths[path]
            out.append(Entry(path, kind, linkname=b"a" if kind == "hardlink" else b""))  # type: ignore[arg-type]
    return out


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(PATHS, TYPES, max_size=40), st.lists(PATHS, max_size=10), st.data())
def test_it_tells_what_memory_tells(
    tmp_path: Path, paths: dict[bytes, str], others: list[bytes], data: st.DataObject
) -> None:
    entries = plain(paths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sortedindex, "_PIECE", data.draw(st.sampled_from([1, 100, 300, 1 << 16])))
        patch.setattr(sortedindex, "_HEAD", data.draw(st.sampled_from([16, 1024])))
        patch.setattr(sortedindex, "_KEPT", 2)
        found = SortedIndex(
            _file(tmp_path, entries),
            len(indexes._HEADER),
            (tmp_path / "lines").stat().st_size,
            indexes.decode_lines,
            has_whiteouts=True,
        )
        memory = MemoryIndex(entries)
        try:
            for path in [*paths, *others, *(p.rpartition(b"/")[0] for p in [*paths, *others]), b""]:
                assert found.get(path) == memory.get(path), path
                if found.get(path) is not None:
                    assert found.is_implicit(path) == memory.is_implicit(path), path
                for below in (False, True):
                    assert found.hides(path, below=below) == memory.hides(path, below=below)
                assert sorted(found.names(path)) == sorted(memory.names(path)), path
                assert sorted(found.gone(path)) == sorted(memory.gone(path)), path
            assert list(found.hard_links()) == list(memory.hard_links())
        finally:
            found.close()


def _file(folder: Path, entries: list[Entry]) -> io.FileIO:
    lines = b"".join(map(indexes.encode_entry, entries))
    (folder / "lines").write_bytes(indexes._HEADER + lines)
    return io.FileIO(folder / "lines")


def many(count: int) -> list[Entry]:
    return [
        Entry(b"d%03d/f%05d" % (n // 100, n), "file", size=n)
        if n % 100
        else Entry(b"d%03d" % (n // 100), "dir")
        for n in range(count)
    ]


def test_a_look_reads_little_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(tmp_path, many(50_000))
    assert isinstance(found, SortedIndex)
    read = 0
    real = SortedIndex._read

    def counting(self: SortedIndex, at: int, size: int) -> bytes:
        nonlocal read
        read += size
        return real(self, at, size)

    monkeypatch.setattr(SortedIndex, "_read", counting)
    entry = found.get(b"d250/f25050")
    assert entry is not None
    assert entry.size == 25050
    assert read < 200_000 < (tmp_path / "index").stat().st_size / 10
    assert len(found.names(b"d250")) == 99
    assert len(found.names(b"")) == 500
    assert len(found._pieces) <= 16
    found.close()


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(b"b", "file"), Entry(b"a", "file")],
        [Entry(b"a", "file"), Entry(b"a", "file")],
        [Entry(b"a", "file"), Entry(b"a/b", "file")],
        [Entry(b"l", "symlink", linkname=b"d"), Entry(b"l/b", "file")],
        [Entry(b"a", "dir"), Entry(b"a/b", "file"), Entry(b"a", "opaque")],
        [Entry(b"a", "opaque")],
        [Entry(b"a", "whiteout"), Entry(b"a/b", "file")],
    ],
    ids=["order", "twice", "below a file", "below a link", "late", "opaque", "below a whiteout"],
)
def test_what_is_not_plain_is_read_whole(tmp_path: Path, entries: list[Entry]) -> None:
    assert opened(tmp_path, entries) == entries


def test_a_whiteout_and_a_name_that_starts_alike_are_plain(tmp_path: Path) -> None:
    found = opened(tmp_path, [Entry(b"a", "whiteout"), Entry(b"a-b/c", "file")])
    assert isinstance(found, SortedIndex)
    assert found.gone(b"") == [b"a"]
    assert found.names(b"") == [b"a-b"]
    found.close()


def test_small_ones_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "_LARGE", 1 << 20)
    assert opened(tmp_path, many(10)) == many(10)


@pytest.mark.parametrize("length", [1, 50, 3000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    found = opened(tmp_path, many(500))
    assert isinstance(found, SortedIndex)
    found.close()
    data = (tmp_path / "index").read_bytes()
    (tmp_path / "index").write_bytes(data[:length])
    with pytest.raises(ImageError):
        open_index(io.FileIO(tmp_path / "index"), DIFF_ID)


@pytest.mark.parametrize("old", [b'"d002/f00250"', b'"file",420,0,0,0,250'])
def test_damage_inside_is_told(tmp_path: Path, old: bytes) -> None:
    opened(tmp_path, many(500)).close()  # type: ignore[union-attr]
    data = (tmp_path / "index").read_bytes()
    assert data.count(old) == 1
    # One byte, which leaves the line a valid one.
    (tmp_path / "index").write_bytes(data.replace(old, old.replace(b"250", b"251")))
    with pytest.raises(ImageError, match="is damaged"):
        open_index(io.FileIO(tmp_path / "index"), DIFF_ID)


def test_another_layer_is_refused(tmp_path: Path) -> None:
    opened(tmp_path, many(500)).close()  # type: ignore[union-attr]
    with pytest.raises(ImageError):
        open_index(io.FileIO(tmp_path / "index"), digest_bytes(b"other"))


def test_the_end_line_says_whether_it_is_plain(tmp_path: Path) -> None:
    opened(tmp_path, many(500)).close()  # type: ignore[union-attr]
    data = (tmp_path / "index").read_bytes()
    assert b'"plain":true,"whiteouts":0,"sha256":"' in data
    with (tmp_path / "index").open("rb") as stream:
        assert len(read_index(stream, DIFF_ID)) == 500
