"""ADD of archives: told by content, unpacked as docker does, inside the image."""

import bz2
import gzip
import io
import lzma
import random
import socket
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgbuild.errors import ContextError, DiskFullError
from imgbuild.layer import spool
from imgbuild.store.store import Store
from tests.unit.build.building import build, content, members, names

Member = tuple[str, dict[str, object], bytes]


def tar(*items: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, fields, data in items:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


PLAIN = tar(
    ("z", {"mode": 0o600, "uid": 3, "gid": 4, "mtime": 99}, b"last"),
    ("./d/", {"type": tarfile.DIRTYPE, "mode": 0o711}, b""),
    ("d/x", {"mode": 0o4755}, b"first"),
    ("d/l", {"type": tarfile.SYMTYPE, "linkname": "../../up"}, b""),
    ("hard", {"type": tarfile.LNKTYPE, "linkname": "z", "uid": 5, "mtime": 98}, b""),
)


def zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.compress(data)


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd], ids=lambda f: f.__name__
)
def test_every_compression_is_unpacked(
    compress: Callable[[bytes], bytes], store: Store, context: Path
) -> None:
    (context / "a.bin").write_bytes(compress(PLAIN))
    built = build(store, context, "FROM scratch\nADD a.bin /x/\n")
    assert names(store, built) == ["x", "x/d", "x/d/l", "x/d/x", "x/hard", "x/z"]
    found = {m.name: m for m in members(store, built)}
    assert (found["x/d"].mode, found["x/d/x"].mode) == (0o711, 0o4755)
    assert (found["x/hard"].uid, found["x/hard"].mtime) == (5, 98)  # the last header's
    assert found["x/z"].linkname == "x/hard"
    assert found["x/d/l"].linkname == "../../up"
    assert content(store, built, "x/hard") == b"last"


def test_copy_does_not_unpack_and_chown_reaches_members(store: Store, context: Path) -> None:
    (context / "a.tar").write_bytes(PLAIN)
    assert names(store, build(store, context, "FROM scratch\nCOPY a.tar /x/\n")) == ["x", "x/a.tar"]
    built = build(store, context, "FROM scratch\nADD --chown=7:8 --chmod=600 a.tar /x/\n")
    found = {m.name: m for m in members(store, built)}
    assert {(m.uid, m.gid) for m in found.values()} == {(7, 8)}
    # --chmod is not for what comes out of an archive.
    assert found["x/d/x"].mode == 0o4755


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain",
        gzip.compress(b"not a tar"),
        gzip.compress(PLAIN)[:40],
        b"BZh9 no",
        b"\xfd7zXZ\0 no",
        b"\0" * 10240,
        b"x" * 600,
    ],
    ids=[
        "empty",
        "text",
        "gzip of text",
        "cut in the first header",
        "looks like bzip2",
        "looks like xz",
        "zeros",
        "long text",
    ],
)
def test_what_is_no_archive_is_copied(data: bytes, store: Store, context: Path) -> None:
    (context / "f").write_bytes(data)
    built = build(store, context, "FROM scratch\nADD f /x\n")
    assert content(store, built, "x") == data


def test_members_follow_links_of_the_image_inside_it(store: Store, context: Path) -> None:
    (context / "usr").mkdir()
    (context / "usr/keep").write_text("")
    (context / "lib").symlink_to("/usr/../usr")
    (context / "out").symlink_to("../../..")
    (context / "a.tar").write_bytes(tar(("lib/x", {}, b"1"), ("out/y", {}, b"2")))
    built = build(store, context, "FROM scratch\nCOPY . /\nADD a.tar /\n")
    assert names(store, built) == ["usr", "usr/x", "y"]


def test_links_start_where_the_archive_is_unpacked(store: Store, context: Path) -> None:
    """As in BuildKit, which opens the destination as a root of its own."""
    (context / "at/real").mkdir(parents=True)
    (context / "at/real/keep").write_text("")
    (context / "at/abs").symlink_to("/real")
    (context / "at/dir").symlink_to("real")
    (context / "a.tar").write_bytes(
        tar(
            ("abs/x", {}, b"1"),
            # A directory that is a link to one in the image stays that link.
            ("dir", {"type": tarfile.DIRTYPE, "mode": 0o700, "uid": 6}, b""),
            ("dir/y", {}, b"2"),
        )
    )
    built = build(store, context, "FROM scratch\nCOPY at /at/\nADD a.tar /at\n")
    assert names(store, built) == ["at", "at/real", "at/real/x", "at/real/y"]
    found = {m.name: m for m in members(store, built)}
    assert (found["at/real"].mode, found["at/real"].uid) == (0o700, 6)


def test_directories_that_an_archive_lacks_are_roots(store: Store, context: Path) -> None:
    (context / "a.tar").write_bytes(tar(("in/between/f", {}, b"")))
    built = build(store, context, "FROM scratch\nADD --chown=7:8 --chmod=600 a.tar /to/\n")
    found = {m.name: (m.mode, m.uid, m.gid) for m in members(store, built)}
    assert found == {
        "to": (0o755, 7, 8),
        "to/in": (0o755, 0, 0),
        "to/in/between": (0o755, 0, 0),
        "to/in/between/f": (0o644, 7, 8),
    }


def test_a_socket_is_added_as_an_empty_file(
    store: Store, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(context)  # the path of a socket is bounded
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s")
    built = build(store, context, "FROM scratch\nADD s /x\n")
    assert content(store, built, "x") == b""


def test_linked_empty_files_of_an_archive_stay_linked_in_copies(
    store: Store, context: Path
) -> None:
    link = {"type": tarfile.LNKTYPE, "linkname": "a", "mode": 0o640}
    (context / "a.tar").write_bytes(tar(("a", {}, b""), ("b", link, b"")))
    text = "FROM scratch AS one\nADD a.tar /\nFROM scratch\nCOPY --from=one / /x/\n"
    found = {m.name: m for m in members(store, build(store, context, text))}
    assert found["x/b"].linkname == "x/a"
    assert found["x/a"].mode == 0o640


def test_a_member_replaces_what_is_no_directory_and_directories(
    store: Store, context: Path
) -> None:
    (context / "r/d/deep").mkdir(parents=True)
    (context / "r/d/deep/old").write_text("")
    (context / "r/f").write_text("")
    (context / "a.tar").write_bytes(
        tar(("d", {}, b"file now"), ("f", {"type": tarfile.SYMTYPE, "linkname": "d"}, b""))
    )
    built = build(store, context, "FROM scratch\nCOPY r /\nADD a.tar /\n")
    assert names(store, built) == ["d", "f"]
    assert built.layers[-1].diff_id != built.layers[0].diff_id


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tar(("../escape", {}, b"x")), "cannot unpack /a.tar"),
        (tar(("a/../../escape", {}, b"x")), "cannot unpack /a.tar"),
        (tar(("l", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, b"")), "hard link"),
        (tar(("x", {}, b"y" * 2000))[:1500], "cannot unpack /a.tar"),
        (
            gzip.compress(tar(("x", {}, random.Random(1).randbytes(9000))))[:-30],
            "cannot unpack /a.tar",
        ),
        (tar((".wh.x", {}, b"")), "whiteout"),
    ],
    ids=["dot dot", "dot dot inside", "foreign hard link", "cut", "cut gzip", "whiteout"],
)
def test_hostile_archives(data: bytes, message: str, store: Store, context: Path) -> None:
    (context / "a.tar").write_bytes(data)
    with pytest.raises(ContextError, match=message) as caught:
        build(store, context, "FROM scratch\nADD a.tar /x/\n")
    assert caught.value.span is not None
    store.blobs.flush()
    assert list((store.paths.blobs / "sha256").iterdir()) == []
    assert list(store.paths.staging.iterdir()) == []


@pytest.mark.parametrize("size", [1, 4 << 20])
def test_no_room_to_unpack(
    size: int, store: Store, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full.open("w+b"))
    (context / "a.tar.gz").write_bytes(gzip.compress(tar(("f", {}, bytes(size)))))
    with pytest.raises(DiskFullError, match=r"no space left to unpack /a\.tar\.gz") as caught:
        build(store, context, "FROM scratch\nADD a.tar.gz /\n")
    assert caught.value.span is not None


def packed(rows: list[tuple[str, bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number, (name, kind, mode) in enumerate(rows):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.mtime = kind, mode, number, number
            info.linkname = "/elsewhere" if kind == tarfile.SYMTYPE else ""
            info.size = number if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return out.getvalue()


PATHS = st.lists(st.sampled_from(["a", "b", "a-b", "é"]), min_size=1, max_size=3).map("/".join)
ROWS = st.lists(
    st.tuples(
        st.one_of(PATHS, st.just("./")),
        st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE]),
        st.sampled_from([0o644, 0o4755, 0o700]),
    ),
    max_size=10,
).map(lambda rows: [(n, tarfile.DIRTYPE if n == "./" else k, mode) for n, k, mode in rows])


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(ROWS, st.sampled_from(["/", "/x/", "/x/y/", "/there/", "/full/"]), st.booleans())
def test_large_and_small_archives_come_out_alike(
    tmp_path: Path, rows: list[tuple[str, bytes, int]], dest: str, chown: bool
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        context = Path(folder) / "context"
        context.mkdir()
        (context / "a.tar").write_bytes(packed(rows))
        text = f"FROM scratch\nWORKDIR /there\nWORKDIR /full/a\nADD {'--chown=3:4 ' * chown}a.tar {dest}\n"
        outcomes: list[object] = []
        for held in (8192, 2):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(spool, "_HELD", held)
                with Store.open(Path(folder) / f"store{held}") as store, store.build_lock():
                    try:
                        outcomes.append(build(store, context, text).layers)
                    except ContextError as error:
                        outcomes.append(error.message)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(("dest", "root"), [("/", []), ("/x/", [("x", 0o711, 5)])])
def test_the_root_of_an_archive_is_the_destination(
    store: Store, context: Path, dest: str, root: list[tuple[str, int, int]]
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, mode in (("./", 0o711), ("./d", 0o700)):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid = tarfile.DIRTYPE, mode, 5
            archive.addfile(info)
    (context / "a.tar").write_bytes(out.getvalue())
    built = build(store, context, f"FROM scratch\nADD a.tar {dest}\n")
    found = [(m.name, m.mode, m.uid) for m in members(store, built)]
    assert found == [*root, (f"{dest}d".strip("/"), 0o700, 5)]
