"""Contexts that are archives: looked at through their index, hostile ones refused or harmless."""

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard

from imgbuild.build import archives
from imgbuild.build.tarcontext import IndexedTree, Peeked, newest_inside, open_archive
from imgbuild.errors import ContextError, DiskFullError, UsageError
from imgbuild.options import ArchiveLimits
from imgbuild.store.store import Store
from tests.support.archives import archive, member
from tests.unit.build.building import build, content, members, names

DOCKERFILE = b"FROM scratch\nCOPY . /\n"
FROM_HERE = member(b"Dockerfile", content=DOCKERFILE)


def tree(data: bytes, scratch: Path, limits: ArchiveLimits | None = None) -> IndexedTree:
    stream = Peeked(io.BytesIO(data), "it")
    return open_archive(stream, "it", scratch, limits or ArchiveLimits())


def copied(store: Store, *found: bytes, text: str = DOCKERFILE.decode()) -> list[str]:
    return names(store, build(store, io.BytesIO(archive(*found)), text))


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["tar", "gzip", "bzip2", "xz", "zstd"],
)
def test_any_compression(compress: Callable[[bytes], bytes], store: Store) -> None:
    data = archive(
        member(b"./d/", b"5", mode=0o711, uid=3),
        member(b"./d/x", content=b"one", mode=0o4755, uid=1, gid=2, mtime=99),
        member(b"d/l", b"2", link=b"/d/x"),
        member(b"d/h", b"1", link=b"d/x"),
        member(b"d/f", b"6"),
        member(b"d/c", b"3", rdev=(1, 3)),
    )
    built = build(store, io.BytesIO(compress(data)), "FROM scratch\nCOPY . /to/\n")
    found = {one.name: one for one in members(store, built)}
    assert sorted(found) == ["to", "to/d", "to/d/c", "to/d/f", "to/d/h", "to/d/l", "to/d/x"]
    # Unlike files of a folder, those of an archive keep their owners.
    first = found["to/d/h"]
    assert (first.mode, first.uid, first.gid, first.mtime) == (0o4755, 1, 2, 99)
    assert found["to/d/x"].linkname == "to/d/h"
    assert found["to/d/l"].linkname == "/d/x"
    assert (found["to/d"].mode, found["to/d"].uid) == (0o711, 3)
    assert (found["to/d/c"].devmajor, found["to/d/c"].devminor) == (1, 3)
    assert content(store, built, "to/d/h") == b"one"


def test_a_link_is_followed_inside_the_archive_alone(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    text = "FROM scratch\nCOPY link /a\nCOPY up/x /b\n"
    data = archive(
        member(b"link", b"2", link=os.fsencode(secret)),
        member(b"up", b"2", link=b"../../../d"),
        member(b"d/x", content=b"inside"),
        member(os.fsencode(secret)[1:], content=b"its own"),
    )
    built = build(store, io.BytesIO(data), text)
    assert content(store, built, "a", 0) == b"its own"
    assert content(store, built, "b", 1) == b"inside"
    assert secret.read_text() == "of the host"


def test_writing_through_a_link_stays_inside(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    data = archive(
        member(b"link", b"2", link=os.fsencode(out)),
        member(b"link/evil", content=b"evil"),
        member(b"Dockerfile", content=DOCKERFILE),
    )
    where = f"{os.fspath(out)[1:]}/evil"
    assert where in names(store, build(store, io.BytesIO(data), DOCKERFILE.decode()))
    assert list(out.iterdir()) == []


def test_absolute_names_are_inside(store: Store, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path / "x")
    assert copied(store, member(name, content=b"x"), text=f"FROM scratch\nCOPY {tmp_path} /\n") == [
        "x"
    ]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (member(b"../x", content=b"x"), "leads out of it"),
        (member(b"a/../../x", content=b"x"), "leads out of it"),
        (member(b"x", b"1", link=b"../../etc/passwd"), "leads out of it"),
        (member(b"x", b"1", link=b"etc/passwd"), "the hard link /x points to /etc/passwd, which is not a file in it"),
        (member(b"x", b"1", link=b"x"), "the hard link /x points to /x, which is not a file in it"),
        (member(b"x", b"S"), "sparse"),
        (member(b"n" * 99, records={b"path": b"n" * 256}), "too deep or too long"),
        (member(b"n", records={b"path": b"d/" * 1100 + b"n"}), "too deep or too long"),
        (member(b"n", records={b"path": b"d/" * 4000 + b"n"}), "illegal name"),
        (member(b"x", size=b"77777777777"), "truncated"),
        (member(b"x", mtime=0)[:100], "truncated"),
    ],
    ids=["parent", "parent within", "hard link out", "hard link to the host", "hard link to itself",
         "sparse", "long name", "deep", "long path", "more than there is", "half a header"],
)  # fmt: skip
def test_hostile_archives_are_refused(found: bytes, words: str, store: Store) -> None:
    data = FROM_HERE + found + (b"" if "truncated" in words else bytes(1024))
    with pytest.raises(ContextError, match=words) as caught:
        tree(data, store.paths.staging)
    assert caught.value.message.startswith("cannot use it as a build context: ")
    assert list(store.paths.staging.iterdir()) == []


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_archive_that_is_cut(compress: Callable[[bytes], bytes], store: Store) -> None:
    noise = os.urandom(200_000)
    data = compress(archive(FROM_HERE, member(b"noise", content=noise)))
    with pytest.raises(ContextError, match="is truncated|ended before"):
        tree(data[:-1000], store.paths.staging)
    assert list(store.paths.staging.iterdir()) == []


def test_what_is_compressed_has_to_be_a_tar(store: Store) -> None:
    with pytest.raises(ContextError, match="what is compressed there is no tar"):
        tree(gzip.compress(DOCKERFILE), store.paths.staging)


def test_limits(store: Store) -> None:
    scratch = store.paths.staging
    many = archive(*(member(b"%d" % n) for n in range(11)))
    with tree(many, scratch, ArchiveLimits(entries=11)) as found:
        assert len(found.listdir(b"")) == 11
    with pytest.raises(ContextError, match="more than 10 members") as caught:
        tree(many, scratch, ArchiveLimits(entries=10))
    assert "archive_limits.entries" in str(caught.value.hint)
    bomb = gzip.compress(archive(member(b"zeros", content=bytes(10 << 20))))
    assert len(bomb) < 100_000
    with pytest.raises(ContextError, match="10485760 bytes|larger than 1048576 bytes"):
        tree(bomb, scratch, ArchiveLimits(size=1 << 20))
    endless = gzip.compress(archive(FROM_HERE) + bytes(10 << 20))
    with pytest.raises(ContextError, match="larger than 1048576 bytes"):
        tree(endless, scratch, ArchiveLimits(size=1 << 20))
    assert list(scratch.iterdir()) == []


def test_a_bomb_is_told_by_its_ratio(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_RATIO_FROM", 1 << 20)
    bomb = gzip.compress(archive(member(b"zeros", content=bytes(10 << 20))))
    with pytest.raises(ContextError, match="more than 10 times larger"):
        tree(bomb, store.paths.staging, ArchiveLimits(ratio=10))
    tree(bomb, store.paths.staging, ArchiveLimits(ratio=0)).close()


class _Full(io.BytesIO):
    def fileno(self) -> int:
        return 0

    def write(self, _data: object, /) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: _Full())
    with pytest.raises(DiskFullError, match="keep the build context"):
        tree(archive(FROM_HERE), store.paths.staging)


def test_the_last_of_several_entries_counts(store: Store) -> None:
    data = archive(
        member(b"x", content=b"old"),
        member(b"d/inner", content=b"hidden"),
        member(b"x", content=b"new"),
        member(b"d", content=b"now a file"),
    )
    built = build(store, io.BytesIO(data), DOCKERFILE.decode())
    assert names(store, built) == ["d", "x"]
    assert content(store, built, "x") == b"new"


def test_names_of_any_bytes(store: Store) -> None:
    odd = b"\xff \n\xc3\xa9"
    long = b"n" * 255
    data = archive(member(odd, content=b"x"), member(b"x", records={b"path": long}))
    built = build(store, io.BytesIO(data), DOCKERFILE.decode())
    assert sorted(os.fsencode(name) for name in names(store, built)) == sorted([long, odd])


def test_names_of_whiteouts_are_plain_files_that_no_layer_can_hold(store: Store) -> None:
    data = (member(b".wh.x", content=b"w"), member(b"x", content=b"x"), member(b".wh..wh..opq"))
    assert copied(store, *data, text="FROM scratch\nCOPY x /\n") == ["x"]
    for text in ("FROM scratch\nCOPY . /\n", "FROM scratch\nCOPY .wh.x /\n"):
        with pytest.raises(Exception, match="names that start with .wh. mark removed files"):
            copied(store, *data, text=text)
    assert copied(store, *data, text="FROM scratch\nCOPY .wh.x /y\n") == ["y"]


def test_ignore_files_are_for_folders(store: Store) -> None:
    # As in BuildKit: whoever made the archive chose what is in it.
    data = (member(b".dockerignore", content=b"*"), member(b"x", content=b"x"))
    assert copied(store, *data) == [".dockerignore", "x"]


def test_archives_in_an_archive_are_added(store: Store) -> None:
    inner = gzip.compress(archive(member(b"in", content=b"deep", uid=7)))
    data = archive(member(b"inner.tgz", content=inner))
    built = build(store, io.BytesIO(data), "FROM scratch\nADD inner.tgz /x/\n")
    assert content(store, built, "x/in") == b"deep"


def test_the_same_content_is_cached_however_it_is_packed(store: Store) -> None:
    parts = member(b"a", content=b"A"), member(b"b", content=b"B")
    first = build(store, io.BytesIO(archive(*parts)), DOCKERFILE.decode())
    other = io.BytesIO(gzip.compress(archive(*reversed(parts))))
    assert [step.verdict for step in build(store, other, DOCKERFILE.decode()).steps] == ["cached"]
    changed = io.BytesIO(archive(parts[0], member(b"b", content=b"C")))
    third = build(store, changed, DOCKERFILE.decode())
    assert [step.verdict for step in third.steps] == ["done"]
    assert first.layers != third.layers


def test_a_path_that_is_not_there_is_explained(store: Store) -> None:
    with pytest.raises(ContextError, match="not found") as caught:
        copied(store, member(b"app.py"), text="FROM scratch\nCOPY ap.py /\n")
    assert caught.value.hint == (
        "paths are relative to the file that was given; did you mean /app.py?"
    )


def test_reading_anywhere_in_any_order(store: Store) -> None:
    data = archive(member(b"a", content=b"0123456789"), member(b"b", content=b"xyz"))
    with tree(data, store.paths.staging) as found, found.open(b"a") as a, found.open(b"b") as b:
        assert (a.read(4), b.read(1), a.read(), b.read(), a.read(1)) == (
            b"0123", b"x", b"456789", b"yz", b""
        )  # fmt: skip
        a.seek(2)
        assert a.read(2) == b"23"
        with pytest.raises(ContextError, match="/c is not a regular file in it"):
            found.open(b"c")


def test_the_newest_file_tells_the_time(store: Store) -> None:
    def newest(data: bytes) -> int | None:
        return newest_inside(io.BytesIO(data), ArchiveLimits())

    data = archive(
        member(b"d", b"5", mtime=900), member(b"x", mtime=100), member(b"y", mtime=300),
        member(b"z", mtime=200), member(b"l", b"2", link=b"x", mtime=800),
    )  # fmt: skip
    with tree(data, store.paths.staging) as found:
        assert found.newest == 300
    assert newest(gzip.compress(data)) == 300
    assert newest(b"plain") is None
    assert newest(gzip.compress(b"plain")) is None
    assert newest(data[:-1500]) is None
    assert newest_inside(io.BytesIO(data), ArchiveLimits(size=1024)) is None


class _Text(io.BytesIO):
    def read(self, _size: int | None = -1, /) -> str:  # type: ignore[override]
        return "FROM scratch"


class _Broken(io.BytesIO):
    def read(self, _size: int | None = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (_Text(), "gives text, not bytes"),
        (_Broken(), "cannot read the file that was given: Input/output error"),
        (io.BytesIO(), "is empty"),
        (io.BytesIO(bytes(1 << 20)), "nothing but zeros"),
    ],
    ids=["text", "broken", "empty", "zeros"],
)
def test_streams_that_are_no_context(stream: BinaryIO, words: str, store: Store) -> None:
    with pytest.raises((ContextError, UsageError), match=words):
        build(store, stream, DOCKERFILE.decode())


def test_a_slow_stream_is_read_to_its_end(store: Store) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(7, size or 7))

    data = gzip.compress(archive(member(b"x", content=b"y" * 5000)))
    assert names(store, build(store, Slow(data), DOCKERFILE.decode())) == ["x"]
