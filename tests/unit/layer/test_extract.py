"""Most tests run as anybody: the owners of an image fall on the one id that makes the files."""

import errno
import io
import os
import resource
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuild import recorded
from imgbuild.errors import DiskFullError, ImageError, StoreError
from imgbuild.layer import extract as module
from imgbuild.layer.entry import Entry
from imgbuild.layer.extract import Ownership, extract
from imgbuild.layer.tarread import Limits
from tests.support.archives import (
    REFUSED,
    REFUSED_WHEN_UNPACKED,
    Archive,
    archive,
    escapes,
    layer,
    member,
)

SINGLE = Ownership(single=True)
OPAQUE = "user.overlay.opaque"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def _no_descriptor_stays_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def unpack(root: Path, data: bytes, *parents: Path, ownership: Ownership = SINGLE) -> list[str]:
    return extract(io.BytesIO(data), root, ownership, parents)


def lower(tmp_path: Path, name: str, *members: bytes) -> Path:
    path = tmp_path / name
    path.mkdir()
    unpack(path, archive(*members))
    return path


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return OPAQUE in os.listxattr(path) and os.getxattr(path, OPAQUE) == b"y"


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_all_types_with_their_modes_and_times(root: Path) -> None:
    notes = unpack(
        root,
        layer(
            (Entry(b"d", "dir", 0o1777, mtime=11), b""),
            (Entry(b"d/f", "file", 0o4755, mtime=12, size=3), b"abc"),
            (Entry(b"d/h", "hardlink", linkname=b"d/f"), b""),
            (Entry(b"d/p", "fifo", 0o620, mtime=13), b""),
            (Entry(b"d/s", "symlink", mtime=14, linkname=b"/no/where"), b""),
            (Entry(b"ro", "dir", 0o555, mtime=15), b""),
            (Entry(b"ro/f", "file", 0o0, mtime=-16), b""),
        ),
    )
    assert notes == []
    found = {name: (root / name).lstat() for name in names(root)}
    assert {n: (stat.S_IMODE(s.st_mode), int(s.st_mtime)) for n, s in found.items()} == {
        "d": (0o1777, 11),
        "d/f": (0o4755, 12),
        "d/h": (0o4755, 12),
        "d/p": (0o620, 13),
        "d/s": (0o777, 14),
        "ro": (0o555, 15),
        "ro/f": (0, -16),
    }
    assert (root / "d/f").read_bytes() == b"abc"
    assert (root / "d/f").samefile(root / "d/h")
    assert os.readlink(root / "d/s") == "/no/where"
    assert stat.S_ISFIFO(found["d/p"].st_mode)


def test_the_umask_does_not_matter(root: Path) -> None:
    old = os.umask(0o077)
    try:
        unpack(root, archive(member(b"d/", b"5", mode=0o775), member(b"d/f", mode=0o666)))
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o775
    assert stat.S_IMODE((root / "d/f").stat().st_mode) == 0o666


def test_a_descriptor_of_the_root_will_do(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    try:
        extract(io.BytesIO(archive(member(b"f"))), fd, SINGLE)
        os.fstat(fd)
    finally:
        os.close(fd)
    assert names(root) == ["f"]


def test_the_root_itself_can_be_described(root: Path) -> None:
    unpack(root, archive(member(b"./", b"5", mode=0o711, mtime=5), member(b"./f")))
    assert (stat.S_IMODE(root.stat().st_mode), root.stat().st_mtime) == (0o711, 5)


def test_names_that_are_not_text(root: Path) -> None:
    unpack(root, archive(member(b"\xff\xe9/\n")))
    assert os.listdir(bytes(root) + b"/\xff\xe9") == [b"\n"]


def test_large_files_arrive_whole(root: Path) -> None:
    content = bytes(range(256)) * 12_289
    unpack(root, archive(member(b"f", content=content)))
    assert (root / "f").read_bytes() == content


# --- owners


def test_a_single_id_records_owners(root: Path) -> None:
    unpack(
        root,
        archive(
            member(b"d/", b"5", uid=1, gid=2),
            member(b"d/f", uid=0, gid=42),
            member(b"d/r"),
            member(b"d/s", b"2", link=b"f", uid=9),
        ),
    )
    assert os.getxattr(root / "d", "user.imgbuild.owner") == b"1:2"
    assert os.getxattr(root / "d/f", "user.imgbuild.owner") == b"0:42"
    assert os.listxattr(root / "d/r") == []
    assert (root / "d/f").stat().st_uid == os.geteuid()


def test_an_archive_cannot_record_owners(root: Path) -> None:
    planted = {b"SCHILY.xattr.user.imgbuild.owner": b"0:0"}
    unpack(root, archive(member(b"f", uid=7, records=planted), member(b"g", records=planted)))
    assert os.getxattr(root / "f", "user.imgbuild.owner") == b"7:0"
    assert os.listxattr(root / "g") == []


def test_ids_beyond_the_mapping_are_refused_with_advice(root: Path) -> None:
    with pytest.raises(ImageError, match="70000") as caught:
        unpack(root, archive(member(b"f", uid=70000)), ownership=Ownership(0, 65536))
    assert "/etc/subuid" in (caught.value.hint or "")
    with pytest.raises(ImageError, match="65536"):
        unpack(
            root, archive(member(b"l", b"2", link=b"x", gid=65536)), ownership=Ownership(0, 65536)
        )


@needs_root
def test_owners_are_shifted(root: Path) -> None:
    unpack(
        root,
        archive(
            member(b"d/", b"5", uid=5, gid=6, mode=0o2755),
            member(b"d/f", uid=7, gid=8, mode=0o6755),
            member(b"d/s", b"2", link=b"f", uid=9, gid=10),
            member(b"i/p", b"6", uid=11),
        ),
        ownership=Ownership(shift=100_000, count=65536),
    )
    owners = {n: ((root / n).lstat().st_uid, (root / n).lstat().st_gid) for n in names(root)}
    assert owners == {
        "d": (100_005, 100_006),
        "d/f": (100_007, 100_008),
        "d/s": (100_009, 100_010),
        "i": (100_000, 100_000),
        "i/p": (100_011, 100_000),
    }
    assert stat.S_IMODE((root / "d/f").stat().st_mode) == 0o6755
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o2755
    assert root.stat().st_uid == 100_000


@needs_root
def test_a_group_is_not_inherited_from_the_store(root: Path) -> None:
    os.chown(root, 0, 1234)
    root.chmod(0o2755)
    unpack(root, archive(member(b"f"), member(b"d/", b"5")), ownership=Ownership())
    assert {(root / name).stat().st_gid for name in ("f", "d")} == {0}


@needs_root
@pytest.mark.parametrize("shift", [0, 100_000])
def test_capabilities_survive_the_change_of_owner(root: Path, shift: int) -> None:
    v2 = bytes.fromhex("01000002 00200000 00000000 00000000 00000000")
    records = {b"SCHILY.xattr.security.capability": v2}
    unpack(root, archive(member(b"f", uid=3, records=records)), ownership=Ownership(shift))
    value = os.getxattr(root / "f", "security.capability")
    if shift:
        assert int.from_bytes(value[20:24], "little") == shift
    else:
        assert value == v2


# --- attributes


def test_attributes_are_kept_and_planted_ones_dropped(root: Path) -> None:
    records = {
        b"SCHILY.xattr.user.mine": b"\0=",
        b"SCHILY.xattr.user.overlay.redirect": b"/etc",
        b"SCHILY.xattr.user.overlay.metacopy": b"x",
        b"SCHILY.xattr.user.overlay.opaque": b"y",
        b"SCHILY.xattr.trusted.overlay.opaque": b"y",
        b"SCHILY.xattr.security.selinux": b"x",
    }
    unpack(root, archive(member(b"d/", b"5", records=records), member(b"d/f", records=records)))
    for path in (root / "d", root / "d/f"):
        assert {n: os.getxattr(path, n) for n in os.listxattr(path)} == {"user.mine": b"\0="}


def test_attributes_that_the_disk_refuses_are_noted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    notes = unpack(root, archive(member(b"f", records={b"SCHILY.xattr.user.a": b"b"})))
    assert notes == ["f: the attribute user.a was not kept: Operation not supported"]
    with pytest.raises(StoreError):  # an owner must not be lost
        unpack(root, archive(member(b"g", uid=1)))


# --- what comes twice


def test_later_entries_replace_earlier_ones(root: Path) -> None:
    unpack(
        root,
        archive(
            member(b"file-file", content=b"old", mode=0o600),
            member(b"file-file", content=b"new"),
            member(b"file-dir"),
            member(b"file-dir/", b"5"),
            member(b"dir-file/", b"5"),
            member(b"dir-file/a/b/c", content=b"x"),
            member(b"dir-file", content=b"y"),
            member(b"dir-link/a"),
            member(b"dir-link", b"2", link=b"x"),
            member(b"link-dir", b"2", link=b"x"),
            member(b"link-dir/", b"5", mode=0o700),
            member(b"dir-dir/", b"5", mode=0o700),
            member(b"dir-dir/kept"),
            member(b"dir-dir/", b"5", mode=0o755, mtime=9),
            member(b"fifo-file", b"6"),
            member(b"fifo-file", content=b"z"),
        ),
    )
    assert names(root) == [
        "dir-dir", "dir-dir/kept", "dir-file", "dir-link",
        "fifo-file", "file-dir", "file-file", "link-dir",
    ]  # fmt: skip
    assert (root / "file-file").read_bytes() == b"new"
    assert stat.S_IMODE((root / "file-file").stat().st_mode) == 0o644
    assert (root / "dir-file").read_bytes() == b"y"
    assert os.readlink(root / "dir-link") == "x"
    assert (root / "link-dir").is_dir()
    assert not (root / "link-dir").is_symlink()
    assert (root / "dir-dir").stat().st_mtime == 9


def test_replacing_one_name_of_a_file_leaves_the_other(root: Path) -> None:
    unpack(
        root,
        archive(
            member(b"a", content=b"1"), member(b"b", b"1", link=b"a"), member(b"a", content=b"2")
        ),
    )
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"2", b"1")


def test_device_nodes_are_left_out(root: Path) -> None:
    owner = Ownership(os.geteuid(), 1) if os.geteuid() == os.getegid() else SINGLE
    if owner.single:
        pytest.skip("needs equal ids")
    notes = unpack(
        root,
        archive(
            member(b"dev/null", b"3", rdev=(1, 3)),
            member(b"dev/sda", b"4", rdev=(8, 0)),
            member(b"dev/whiteout", b"3", rdev=(0, 0)),  # must not hide anything
            member(b"f", content=b"x"),
        ),
        ownership=owner,
    )
    assert names(root) == ["dev", "f"]
    assert notes == [
        "device node dev/null was not created",
        "device node dev/sda was not created",
        "device node dev/whiteout was not created",
    ]


def test_device_nodes_are_recorded_where_one_id_is_mapped(root: Path) -> None:
    (root / "null").symlink_to("nowhere")
    notes = unpack(
        root,
        archive(
            member(b"null", b"3", rdev=(1, 3), mode=0o666, uid=3, gid=4),
            member(b"sda", b"4", rdev=(8, 0), mode=0o660),
            member(b"link", b"1", link=b"null"),
            member(b"whiteout", b"3", rdev=(0, 0)),  # must not hide anything
        ),
    )
    assert notes == ["device node whiteout was not created"]
    assert names(root) == ["link", "null", "sda"]
    assert os.getxattr(root / "null", "user.imgbuild.device") == b"c:1:3"
    assert os.getxattr(root / "link", "user.imgbuild.owner") == b"3:4"
    assert os.getxattr(root / "sda", "user.imgbuild.device") == b"b:8:0"
    status = (root / "sda").lstat()
    assert (stat.S_ISREG(status.st_mode), status.st_mode & 0o777, status.st_size) == (
        True,
        0o660,
        0,
    )


@needs_root
def test_owners_of_links_and_fifos_are_recorded_where_one_id_is_mapped(root: Path) -> None:
    unpack(
        root,
        layer(
            (Entry(b"fifo", "fifo", 0o600, uid=5, gid=4294967294), b""),
            (Entry(b"link", "symlink", uid=3, gid=4, linkname=b"x"), b""),
            (Entry(b"plain", "symlink", linkname=b"x"), b""),
        ),
    )
    found = {
        name: os.getxattr(root / name, recorded.SPECIAL, follow_symlinks=False)
        for name in ("link", "fifo")
    }
    assert recorded.parse_special(found["link"]) == (3, 4)
    assert recorded.parse_special(found["fifo"]) == (5, 4294967294)
    assert os.listxattr(root / "plain", follow_symlinks=False) == []


def test_planted_records_are_not_unpacked(root: Path) -> None:
    planted = {"user.imgbuild.owner": b"0:0", "user.imgbuild.device": b"c:1:3", "user.kept": b"x"}
    unpack(root, layer((Entry(b"f", "file", uid=1, gid=2, xattrs=planted), b"")))
    assert os.getxattr(root / "f", "user.imgbuild.owner") == b"1:2"
    assert sorted(os.listxattr(root / "f")) == ["user.imgbuild.owner", "user.kept"]


# --- whiteouts


def test_whiteouts_in_the_form_of_overlayfs(root: Path) -> None:
    unpack(root, archive(member(b".wh.a"), member(b"d/.wh.b"), member(b"e/.wh..wh..opq")))
    assert names(root) == ["a", "d", "d/b", "e"]
    assert is_whiteout(root / "a")
    assert is_whiteout(root / "d/b")
    assert is_opaque(root / "e")
    assert not is_opaque(root / "d")


@pytest.mark.parametrize("turn", [1, -1])
def test_whiteouts_hide_only_lower_layers(root: Path, turn: int) -> None:
    removed = [member(b".wh.d"), member(b".wh.f"), member(b"e/.wh..wh..opq")]
    present = [member(b"d/", b"5"), member(b"d/x"), member(b"f"), member(b"e/x")]
    unpack(root, archive(*(removed + present if turn > 0 else present + removed)))
    assert names(root) == ["d", "d/x", "e", "e/x", "f"]
    assert is_opaque(root / "d")
    assert is_opaque(root / "e")
    assert (root / "f").is_file()


def test_below_a_removed_directory(root: Path) -> None:
    unpack(root, archive(member(b".wh.d"), member(b"d/e/f"), member(b"d/.wh.g")))
    assert is_opaque(root / "d")
    assert (root / "d/e/f").is_file()


def test_removing_everything(tmp_path: Path, root: Path) -> None:
    one = lower(tmp_path, "one", member(b"a"), member(b"d/x"))
    two = lower(tmp_path, "two", member(b"b"), member(b"f"))
    unpack(root, archive(member(b".wh..wh..opq"), member(b"d/y"), member(b"f")), two, one)
    assert is_whiteout(root / "a")
    assert is_whiteout(root / "b")
    assert is_opaque(root / "d")
    assert (root / "f").is_file()


# --- layers below


def test_directories_nobody_mentions_look_as_below(tmp_path: Path, root: Path) -> None:
    bottom = lower(tmp_path, "bottom", member(b"tmp/", b"5", mode=0o1777, mtime=77, uid=5))
    middle = lower(tmp_path, "middle", member(b"other"))
    unpack(root, archive(member(b"tmp/x"), member(b"new/x")), middle, bottom)
    status = (root / "tmp").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o1777, 77)
    assert os.getxattr(root / "tmp", "user.imgbuild.owner") == b"5:0"
    assert (stat.S_IMODE((root / "new").stat().st_mode), (root / "new").stat().st_mtime) == (
        0o755,
        0,
    )


def test_what_is_hidden_below_is_not_looked_at(tmp_path: Path, root: Path) -> None:
    bottom = lower(
        tmp_path, "bottom", *(member(name, b"5", mode=0o700) for name in (b"a/", b"b/", b"c/d/"))
    )
    middle = lower(tmp_path, "middle", member(b".wh.a"), member(b"b"), member(b"c/.wh..wh..opq"))
    unpack(root, archive(member(b"a/x"), member(b"b/x"), member(b"c/d/x")), middle, bottom)
    for name in ("a", "b", "c/d"):
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o755


def test_hard_links_to_files_below_are_copies(tmp_path: Path, root: Path) -> None:
    bottom = lower(
        tmp_path,
        "bottom",
        member(b"d/f", content=b"below", mode=0o640, mtime=5, uid=3),
        member(b"d/s", b"2", link=b"f"),
    )
    links = [member(b"x", b"1", link=b"d/f"), member(b"y", b"1", link=b"d/s")]
    unpack(root, archive(*links, member(b"z", b"1", link=b"x")), bottom)
    assert (root / "x").read_bytes() == b"below"
    assert (stat.S_IMODE((root / "x").stat().st_mode), (root / "x").stat().st_mtime) == (0o640, 5)
    assert os.getxattr(root / "x", "user.imgbuild.owner") == b"3:0"
    assert os.readlink(root / "y") == "f"
    assert (root / "x").samefile(root / "z")
    assert not (root / "x").samefile(bottom / "d/f")


@pytest.mark.parametrize("hider", [b".wh.d", b"d/.wh.f", b"d/.wh..wh..opq", b".wh..wh..opq"])
def test_hard_links_to_removed_files_are_refused(tmp_path: Path, root: Path, hider: bytes) -> None:
    bottom = lower(tmp_path, "bottom", member(b"d/f", content=b"below"))
    middle = tmp_path / "middle"
    middle.mkdir()
    unpack(middle, archive(member(hider)), bottom)
    with pytest.raises(ImageError, match="no file"):
        unpack(root, archive(member(b"x", b"1", link=b"d/f")), middle, bottom)


def test_links_below_are_not_followed(tmp_path: Path, root: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    bottom = lower(tmp_path, "bottom", member(b"l", b"2", link=bytes(tmp_path)))
    with pytest.raises(ImageError, match="no file"):
        unpack(root, archive(member(b"x", b"1", link=b"l/secret")), bottom)


# --- links among the parents


def test_links_among_parents_stay_inside(root: Path) -> None:
    unpack(
        root,
        archive(
            member(b"usr/lib/", b"5"),
            member(b"lib", b"2", link=b"usr/lib"),
            member(b"abs", b"2", link=b"/usr/lib"),
            member(b"lib/a", content=b"1"),
            member(b"abs/d/", b"5", mode=0o711),
            member(b"dangling", b"2", link=b"made/here"),
            member(b"dangling/b", content=b"2"),
        ),
    )
    assert (root / "usr/lib/a").read_bytes() == b"1"
    assert stat.S_IMODE((root / "usr/lib/d").stat().st_mode) == 0o711
    assert (root / "made/here/b").read_bytes() == b"2"
    assert (root / "lib").is_symlink()


def _cases() -> list[str]:
    return [name for name, _ in escapes(b"/x")]


@pytest.mark.parametrize("number", range(len(_cases())), ids=_cases())
def test_nothing_leaves_the_root(tmp_path: Path, root: Path, number: int) -> None:
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    (outside / "kept" / "file").write_bytes(b"kept")
    outside.chmod(0o750)
    before = [
        (path, path.lstat()) for path in sorted(tmp_path.rglob("*")) if root not in path.parents
    ]
    _, data = escapes(bytes(outside))[number]
    unpack(root, data)
    after = [
        (path, path.lstat()) for path in sorted(tmp_path.rglob("*")) if root not in path.parents
    ]
    ignored = {root}
    assert [x for x in after if x[0] not in ignored] == [x for x in before if x[0] not in ignored]


@pytest.mark.parametrize("case", REFUSED + REFUSED_WHEN_UNPACKED, ids=lambda case: case.name)
def test_hostile_archives_are_refused(root: Path, case: Archive) -> None:
    with pytest.raises(ImageError) as caught:
        unpack(root, case.data)
    assert case.words in caught.value.message


# --- failures


def test_a_full_disk_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    with pytest.raises(DiskFullError, match="usr/f") as caught:
        unpack(root, archive(member(b"usr/f", content=b"x")))
    assert caught.value.hint


def test_limits_hold_here_too(root: Path) -> None:
    with pytest.raises(ImageError, match="entries"):
        extract(io.BytesIO(archive(member(b"a"), member(b"b"))), root, SINGLE, limits=Limits(1))


def test_deep_trees_need_few_descriptors(root: Path) -> None:
    path = b"/".join([b"d"] * 255)
    unpack(root, archive(member(path + b"/f", records={b"path": path + b"/f"})))
    unpack_again = archive(member(b"x", records={b"path": path}, content=b"file"))
    unpack(root, unpack_again)
    assert not (root / "d" / "d").is_file()


def test_a_tree_that_links_made_deep_can_be_replaced(root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        inside, parts = b"d", []
        for number in range(30):
            inside += b"/d" * 100
            link = b"l%d" % number
            parts += [member(inside + b"/", b"5"), member(link, b"2", link=inside)]
            inside = link
        unpack(root, archive(*parts, member(b"d", content=b"file")))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (root / "d").read_bytes() == b"file"


def test_no_module_for_foreign_formats_is_loaded() -> None:
    import subprocess

    code = (
        "import sys; before = set(sys.modules); import imgbuild.layer.extract; "
        "heavy = {'tarfile', 'shutil', 'isal', 'zstandard', 'ctypes'}; "
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
