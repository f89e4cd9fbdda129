"""What a walk over an upper directory says. No overlay is mounted: its marks are made by hand."""

import io
import os
import socket
import stat
import struct
from pathlib import Path
from typing import BinaryIO

import pytest

from imgbuild import recorded
from imgbuild.errors import ImageError, SandboxError
from imgbuild.layer.entry import Entry, sort_key
from imgbuild.layer.owners import Ownership
from imgbuild.layer.tarwrite import TarWriter
from imgbuild.snapshot.attribution import APT_NAME, APT_TEXT
from imgbuild.snapshot.changes import ChangeWalk

OWN = Ownership(0, 1 << 31, single=False)
ONE = Ownership(0, 1, single=True)
OLD = 1_000_000_000


class Recorder:
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.contents: dict[bytes, bytes] = {}

    def add(self, entry: Entry, content: BinaryIO | None = None) -> None:
        self.entries.append(entry)
        if content is not None:
            self.contents[entry.path] = content.read()

    @property
    def names(self) -> list[tuple[str, bytes]]:
        return [(entry.type, entry.path) for entry in self.entries]

    def entry(self, path: bytes) -> Entry:
        (found,) = [entry for entry in self.entries if entry.path == path]
        return found


class Case:
    """An upper directory over two layers, filled by the test."""

    def __init__(self, top: Path) -> None:
        self.upper, self.lower, self.lowest = (top / name for name in ("upper", "lower", "lowest"))
        for folder in (self.upper, self.lower, self.lowest):
            folder.mkdir()

    def walk(
        self,
        ownership: Ownership = OWN,
        clamp: int | None = None,
        *,
        settle: bool = False,
        maker: tuple[int, int] = (0, 0),
    ) -> Recorder:
        recorder = Recorder()
        fds = [os.open(p, os.O_RDONLY) for p in (self.upper, self.lower, self.lowest)]
        try:
            walk = ChangeWalk(recorder, ownership, clamp=clamp, settle=settle, maker=maker)
            walk.run(fds[0], fds[1:])
        finally:
            for fd in fds:
                os.close(fd)
        keys = [sort_key(entry.path) for entry in recorder.entries]
        assert keys == sorted(keys)
        return recorder


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def write(path: Path, data: bytes = b"", mode: int = 0o644, mtime: float = OLD) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, (mtime, mtime))
    return path


def make(path: Path, mode: int = 0o755) -> Path:
    path.mkdir()
    path.chmod(mode)
    return path


def old(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (OLD, OLD), follow_symlinks=False)


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


def opaque(path: Path) -> None:
    os.setxattr(path, "user.overlay.opaque", b"y")


def test_nothing_changed(case: Case) -> None:
    assert case.walk().entries == []


def test_new_things_come_with_what_they_are(case: Case) -> None:
    make(case.upper / "d", 0o1777)
    write(case.upper / "d/file", b"content", 0o4755)
    (case.upper / "d/link").symlink_to("/some/where")
    os.mkfifo(case.upper / "fifo", 0o600)
    found = case.walk()
    assert found.names == [
        ("dir", b"d"),
        ("file", b"d/file"),
        ("symlink", b"d/link"),
        ("fifo", b"fifo"),
    ]
    assert found.entry(b"d").mode == 0o1777
    file = found.entry(b"d/file")
    assert (file.mode, file.size, file.mtime) == (0o4755, 7, OLD)
    assert (file.uid, file.gid) == (os.getuid(), os.getgid())
    assert found.contents[b"d/file"] == b"content"
    assert found.entry(b"d/link").linkname == b"/some/where"
    assert stat.S_IMODE(found.entry(b"fifo").mode) == stat.S_IMODE(
        (case.upper / "fifo").stat().st_mode
    )


def test_order_is_by_path_components(case: Case) -> None:
    make(case.upper / "a")
    write(case.upper / "a/z")
    write(case.upper / "a-b")
    write(case.upper / "a.b")
    assert [path for _, path in case.walk().names] == [b"a", b"a/z", b"a-b", b"a.b"]


def test_names_need_not_be_text(case: Case) -> None:
    write(case.upper / os.fsdecode(b"caf\xe9"))
    assert case.walk().names == [("file", b"caf\xe9")]


def test_a_removal_names_what_a_layer_had(case: Case) -> None:
    write(case.lowest / "gone")
    whiteout(case.upper / "gone")
    whiteout(case.upper / "only-in-the-skeleton")
    write(case.lowest / "gone-before")
    whiteout(case.lower / "gone-before")
    whiteout(case.upper / "gone-before")
    assert case.walk().names == [("whiteout", b"gone")]


def test_an_unchanged_copy_up_is_left_out(case: Case) -> None:
    for top in (case.lowest, case.upper):
        make(top / "d")
        write(top / "d/same", b"content")
        (top / "d/link").symlink_to("x")
        os.mkfifo(top / "d/fifo")
        old(top / "d/link", top / "d/fifo", top / "d")
    assert case.walk().entries == []


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.chmod(0o600),
        lambda path: os.utime(path, (OLD + 1, OLD + 1)),
        lambda path: os.utime(path, ns=(OLD * 10**9, OLD * 10**9 + 1)),
        lambda path: write(path, b"CONTENT"),
        lambda path: write(path, b"longer content"),
        lambda path: os.setxattr(path, "user.note", b"new"),
    ],
    ids=["mode", "time", "nanosecond", "content", "size", "xattr"],
)
def test_a_changed_file_comes_with_its_unchanged_parents(case: Case, change: object) -> None:
    for top in (case.lowest, case.upper):
        make(top / "d")
        write(top / "d/file", b"content")
        write(top / "d/other", b"other")
    assert callable(change)
    change(case.upper / "d/file")
    old(case.lowest / "d", case.upper / "d")
    assert case.walk().names == [("dir", b"d"), ("file", b"d/file")]


def test_a_directory_alone_comes_when_its_own_metadata_changed(case: Case) -> None:
    for name in ("mode", "time", "xattr", "same"):
        for top in (case.lowest, case.upper):
            make(top / name)
            old(top / name)
    (case.upper / "mode").chmod(0o700)
    os.utime(case.upper / "time", (OLD + 5, OLD + 5))
    os.setxattr(case.upper / "xattr", "user.note", b"x")
    old(case.upper / "mode", case.upper / "xattr")
    assert case.walk().names == [("dir", b"mode"), ("dir", b"time"), ("dir", b"xattr")]


def test_an_opaque_directory_becomes_removals_of_what_is_gone(case: Case) -> None:
    make(case.lowest / "d")
    write(case.lowest / "d/a")
    write(case.lowest / "d/kept", b"old")
    make(case.lowest / "d/sub")
    write(case.lowest / "d/sub/deep")
    make(case.lower / "d")
    write(case.lower / "d/z")
    write(case.lowest / "d/gone-before")
    whiteout(case.lower / "d/gone-before")
    make(case.upper / "d")
    opaque(case.upper / "d")
    write(case.upper / "d/kept", b"new content")
    make(case.upper / "d/sub")
    assert case.walk().names == [
        ("dir", b"d"),
        ("whiteout", b"d/a"),
        ("file", b"d/kept"),
        ("dir", b"d/sub"),
        ("whiteout", b"d/sub/deep"),
        ("whiteout", b"d/z"),
    ]


def test_an_opaque_layer_below_hides_lower_layers(case: Case) -> None:
    make(case.lowest / "d")
    write(case.lowest / "d/hidden")
    make(case.lower / "d")
    opaque(case.lower / "d")
    make(case.upper / "d")
    whiteout(case.upper / "d/hidden")
    old(case.upper / "d", case.lower / "d")
    assert case.walk().entries == []


def test_an_opaque_mark_without_anything_below_says_nothing(case: Case) -> None:
    make(case.upper / "new")
    opaque(case.upper / "new")
    write(case.upper / "new/file")
    found = case.walk()
    assert found.names == [("dir", b"new"), ("file", b"new/file")]
    assert found.entry(b"new").xattrs == {}


def test_changes_of_type(case: Case) -> None:
    make(case.lowest / "dir-to-file")
    write(case.lowest / "dir-to-file/below")
    write(case.lowest / "file-to-dir")
    (case.lowest / "link-to-dir").symlink_to("dir-to-file")
    write(case.upper / "dir-to-file")
    make(case.upper / "file-to-dir")
    write(case.upper / "file-to-dir/x")
    make(case.upper / "link-to-dir")
    write(case.upper / "link-to-dir/below")
    assert case.walk().names == [
        ("file", b"dir-to-file"),
        ("dir", b"file-to-dir"),
        ("file", b"file-to-dir/x"),
        ("dir", b"link-to-dir"),
        ("file", b"link-to-dir/below"),
    ]


def test_hard_links_point_at_the_first_name(case: Case) -> None:
    make(case.upper / "d")
    write(case.upper / "d/one", b"content", 0o640)
    os.link(case.upper / "d/one", case.upper / "d/two")
    os.link(case.upper / "d/one", case.upper / "a")
    found = case.walk()
    assert found.names == [
        ("file", b"a"),
        ("dir", b"d"),
        ("hardlink", b"d/one"),
        ("hardlink", b"d/two"),
    ]
    link = found.entry(b"d/two")
    assert (link.linkname, link.mode, link.size) == (b"a", 0o640, 0)


def test_a_link_to_an_unchanged_file_brings_the_file(case: Case) -> None:
    write(case.lowest / "a", b"content")
    write(case.upper / "a", b"content")
    os.link(case.upper / "a", case.upper / "b")
    assert case.walk().names == [("file", b"a"), ("hardlink", b"b")]


def test_sockets_are_no_part_of_an_image(case: Case) -> None:
    write(case.lowest / "was-a-file")
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        here = os.getcwd()
        os.chdir(case.upper)  # socket paths are short
        try:
            one.bind("new")
            two.bind("was-a-file")
        finally:
            os.chdir(here)
    assert case.walk().names == [("whiteout", b"was-a-file")]
    assert case.walk(settle=True).names == [("whiteout", b"was-a-file")]
    assert not (case.upper / "new").exists()
    left = (case.upper / "was-a-file").stat()
    assert stat.S_ISCHR(left.st_mode)
    assert left.st_rdev == 0


@pytest.mark.parametrize("name", [".wh.x", ".wh..wh..opq"])
def test_names_that_mean_removal_are_refused(case: Case, name: str) -> None:
    write(case.upper / name)
    with pytest.raises(ImageError, match="reserve") as caught:
        case.walk()
    assert caught.value.hint


def test_stubs_for_mounts_do_not_appear(case: Case) -> None:
    for name in ("dev", "etc", "proc", "sys"):
        make(case.upper / name)
    write(case.upper / "etc/hosts")
    write(case.upper / "etc/resolv.conf")
    owner = Ownership(os.getuid(), 10, single=False)
    assert os.getgid() == os.getuid() or pytest.skip("needs equal ids")
    assert case.walk(owner).entries == []
    write(case.upper / "etc/passwd", b"x")
    assert case.walk(owner).names == [("dir", b"etc"), ("file", b"etc/passwd")]


def test_attributes_follow_the_policy(case: Case) -> None:
    path = write(case.upper / "file")
    os.setxattr(path, "user.note", b"kept\0\xff")
    os.setxattr(path, "user.overlay.origin", b"")
    os.setxattr(path, "user.imgbuild.owner", b"5:6")
    assert case.walk().entry(b"file").xattrs == {"user.note": b"kept\0\xff"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set capabilities")
def test_capabilities_lose_the_id_of_the_namespace(case: Case) -> None:
    path = write(case.upper / "file")
    version_3 = struct.pack("<IIIIII", 0x03000001, 0x400, 0, 0, 0, 0x70000000)
    os.setxattr(path, "security.capability", version_3)
    (value,) = case.walk().entry(b"file").xattrs.values()
    assert value == struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_ids_are_shifted_back(case: Case) -> None:
    path = write(case.upper / "file")
    os.chown(path, 1005, 1033)
    entry = case.walk(Ownership(1000, 65536, single=False)).entry(b"file")
    assert (entry.uid, entry.gid) == (5, 33)
    for uid, gid in ((999, 1000), (1000, 1010)):
        os.chown(path, uid, gid)
        with pytest.raises(SandboxError, match="owner"):
            case.walk(Ownership(1000, 10, single=False))


def test_a_single_id_takes_owners_from_their_record(case: Case) -> None:
    os.setxattr(write(case.upper / "a"), "user.imgbuild.owner", b"5:6")
    os.link(case.upper / "a", case.upper / "b")
    write(case.upper / "c")
    os.setxattr(write(case.upper / "d"), "user.imgbuild.owner", b"rubbish")
    os.setxattr(make(case.upper / "e"), "user.imgbuild.owner", b"0:7")
    os.setxattr(write(case.upper / "g"), "user.imgbuild.owner", b"4294967295:0")
    os.setxattr(write(case.upper / "h"), "user.imgbuild.owner", b"0:" + b"9" * 30)
    found = case.walk(Ownership(0, 1, single=True))
    owners = {entry.path: (entry.uid, entry.gid) for entry in found.entries}
    assert owners == {
        b"a": (5, 6),
        b"b": (5, 6),
        b"c": (0, 0),
        b"d": (0, 0),
        b"e": (0, 7),
        b"g": (0, 0),
        b"h": (0, 0),
    }
    assert all(not entry.xattrs for entry in found.entries)


def test_a_changed_record_of_an_owner_is_a_change(case: Case) -> None:
    write(case.lowest / "a")
    os.setxattr(write(case.upper / "a"), "user.imgbuild.owner", b"5:6")
    assert case.walk(Ownership(0, 1, single=True)).names == [("file", b"a")]


def test_settling_gives_the_tree_the_times_of_the_layer(case: Case) -> None:
    make(case.upper / "d")
    write(case.upper / "d/late", b"x", mtime=OLD + 100.5)
    write(case.upper / "d/early", b"x", mtime=OLD - 100.25)
    (case.upper / "d/link").symlink_to("x")
    case.walk(clamp=OLD, settle=True)
    times = {
        p.name: p.lstat().st_mtime_ns for p in [case.upper / "d", *(case.upper / "d").iterdir()]
    }
    second = 10**9
    assert times == {
        "d": OLD * second,
        "late": OLD * second,
        "early": (OLD - 101) * second,
        "link": OLD * second,
    }


def test_a_walk_without_settling_touches_nothing(case: Case) -> None:
    path = write(case.upper / "late", b"x", mtime=OLD + 100.5)
    before = path.stat()
    case.walk(clamp=OLD)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ctime_ns == before.st_ctime_ns


def test_the_tar_writer_takes_what_the_walk_gives(case: Case) -> None:
    make(case.upper / "d")
    write(case.upper / "d/file", b"content")
    os.link(case.upper / "d/file", case.upper / "d/link")
    write(case.lowest / "x")
    whiteout(case.upper / "x")
    out, index = io.BytesIO(), []
    writer = TarWriter(out.write, index.append, OLD)
    upper, lowest = (os.open(p, os.O_RDONLY) for p in (case.upper, case.lowest))
    ChangeWalk(writer, OWN, clamp=OLD).run(upper, [lowest])
    writer.finish()
    os.close(upper)
    os.close(lowest)
    assert [e.path for e in index] == [b"d", b"d/file", b"d/link", b"x"]
    assert out.getvalue()[index[1].offset :].startswith(b"content")


def test_very_deep_trees(case: Case) -> None:
    fd = os.open(case.upper, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d" * 50, dir_fd=fd)
        deeper = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    assert len(case.walk().entries) == 300


def test_what_a_user_made_is_the_users(case: Case) -> None:
    write(case.lowest / "below")
    os.setxattr(write(case.upper / "below", b"changed"), "user.overlay.origin", b"")
    write(case.upper / "replaced")
    write(case.lowest / "replaced", b"x")
    os.setxattr(write(case.upper / "given"), "user.imgbuild.owner", b":44")
    make(case.upper / "d")
    write(case.upper / "d/f")
    os.symlink("x", case.upper / "link")
    owners = {e.path: (e.uid, e.gid) for e in case.walk(ONE, maker=(5, 6)).entries}
    mine = dict.fromkeys((b"replaced", b"d", b"d/f", b"link"), (5, 6))
    assert owners == {b"below": (0, 0), b"given": (5, 44), **mine}


def test_directories_hand_their_group_on(case: Case) -> None:
    top = make(case.upper / "d")
    os.setxattr(top, "user.imgbuild.owner", b"3:50")
    write(top / "f")
    os.setxattr(write(top / "own"), "user.imgbuild.owner", b"0:0")
    os.setxattr(write(top / "half"), "user.imgbuild.owner", b"7:")
    os.symlink("f", top / "link")
    make(top / "inner").chmod(0o2755)
    write(top / "inner/f")
    make(top / "plain")
    write(top / "plain/f")
    top.chmod(0o2755)
    groups = {e.path[2:]: (e.uid, e.gid) for e in case.walk(ONE).entries[1:]}
    assert groups == {
        **dict.fromkeys((b"f", b"link", b"inner", b"inner/f", b"plain"), (0, 50)),
        b"own": (0, 0),
        b"half": (7, 50),
        b"plain/f": (0, 0),
    }


def test_settling_records_what_unpacking_would(case: Case) -> None:
    values = {"made": None, "half": b":44", "root": b"0:0", "guessed": b"0:44:?", "whole": b"1:2"}
    for name, value in values.items():
        write(case.upper / name)
        if value is not None:
            os.setxattr(case.upper / name, "user.imgbuild.owner", value)
    case.walk(ONE, settle=True, maker=(5, 6))
    found = {
        name: os.getxattr(case.upper / name, "user.imgbuild.owner")
        for name in values
        if os.listxattr(case.upper / name)
    }
    assert found == {"made": b"5:6", "half": b"5:44", "guessed": b"0:44", "whole": b"1:2"}


def test_device_nodes_come_from_their_record(case: Case) -> None:
    for name, value in (("null", b"c:1:3"), ("disk", b"b:8:0"), ("no", b"c:0:0"), ("odd", b"x")):
        os.setxattr(write(case.upper / name, b"written to"), "user.imgbuild.device", value)
    os.link(case.upper / "null", case.upper / "zero")
    os.setxattr(write(case.lowest / "same"), "user.imgbuild.device", b"c:1:3")
    os.setxattr(write(case.upper / "same"), "user.imgbuild.device", b"c:1:3")
    os.setxattr(write(case.lowest / "other"), "user.imgbuild.device", b"c:1:3")
    os.setxattr(write(case.upper / "other"), "user.imgbuild.device", b"c:1:5")
    found = case.walk(ONE)
    assert {e.path: (e.type, e.rdev, e.size) for e in found.entries} == {
        b"null": ("char", (1, 3), 0),
        b"disk": ("block", (8, 0), 0),
        b"no": ("file", None, 10),
        b"odd": ("file", None, 10),
        b"other": ("char", (1, 5), 0),
        b"zero": ("hardlink", (1, 3), 0),
    }
    assert set(found.contents) == {b"no", b"odd"}
    assert not any(e.xattrs for e in found.entries)
    assert {e.type for e in case.walk().entries} == {"file", "hardlink"}, "many ids need no record"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set capabilities")
def test_owners_of_links_come_from_their_record(case: Case) -> None:
    for folder, owner in ((case.upper, (3, 4)), (case.lowest, (3, None))):
        os.symlink("x", folder / "link")
        os.utime(folder / "link", (OLD, OLD), follow_symlinks=False)
        value = recorded.special_value(owner)
        os.setxattr(folder / "link", recorded.SPECIAL, value, follow_symlinks=False)
    os.mkfifo(case.upper / "fifo")
    os.setxattr(case.upper / "fifo", recorded.SPECIAL, recorded.special_value((0, 0)))
    owners = {e.path: (e.uid, e.gid, e.xattrs) for e in case.walk(ONE, settle=True).entries}
    assert owners == {b"link": (3, 4, {}), b"fifo": (0, 0, {})}
    assert os.listxattr(case.upper / "fifo") == []
    os.removexattr(case.lowest / "link", recorded.SPECIAL, follow_symlinks=False)
    os.setxattr(
        case.lowest / "link",
        recorded.SPECIAL,
        recorded.special_value((3, 4)),
        follow_symlinks=False,
    )
    assert (b"link", "symlink") not in {(e.path, e.type) for e in case.walk(ONE).entries}


def test_the_file_for_apt_never_appears(case: Case) -> None:
    folder = case.upper / "etc/apt/apt.conf.d"
    folder.mkdir(parents=True)
    copy = write(folder / os.fsdecode(APT_NAME), APT_TEXT)
    write(case.upper / os.fsdecode(APT_NAME), b"// of somebody else")
    names = case.walk(ONE, settle=True).names
    assert [path for kind, path in names if kind == "file"] == [APT_NAME]
    assert not copy.exists()
