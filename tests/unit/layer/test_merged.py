"""Unpacking layers over each other. As anybody: owners fall on the one id that makes the files."""

import io
import os
import random
import stat
from pathlib import Path

import pytest

from imgbuild import recorded
from imgbuild.layer.extract import Ownership, extract
from tests.support import archives
from tests.support.archives import archive

SINGLE = Ownership(single=True)
OLD = 1_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


_FLAGS = {"file": b"0", "hardlink": b"1", "symlink": b"2", "dir": b"5"}


def member(
    name: str,
    content: bytes = b"",
    *,
    type: str = "file",
    linkname: str = "",
    xattrs: dict[str, bytes] | None = None,
    mode: int | None = None,
    **numbers: int,
) -> bytes:
    records = {b"SCHILY.xattr." + key.encode(): value for key, value in (xattrs or {}).items()}
    if len(name) > 100:
        records[b"path"] = name.encode()
    return archives.member(
        name.encode(),
        _FLAGS[type],
        content,
        link=linkname.encode(),
        mode=mode,
        records=records,
        **numbers,
    )


def unpack(root: Path, *members: bytes, ownership: Ownership = SINGLE) -> list[str]:
    before = len(os.listdir("/proc/self/fd"))
    notes = extract(io.BytesIO(archive(*members)), root, ownership, merge=True)
    assert len(os.listdir("/proc/self/fd")) == before
    return notes


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_removals_take_effect(root: Path) -> None:
    unpack(root, member("a", b"1"), member("d/x", b"1"), member("d/e/y", b"1"), member("k", b"1"))
    unpack(root, member(".wh.a"), member("d/.wh.e"), member("n", b"2"))
    assert names(root) == ["d", "d/x", "k", "n"]


@pytest.mark.parametrize("turn", [1, -1])
def test_removals_hide_only_lower_layers(root: Path, turn: int) -> None:
    unpack(root, member("a", b"1"), member("d/x", b"1"), member("d/e/y", b"1"))
    upper = [member(".wh.a"), member("a", b"2"), member(".wh.d"), member("d/n", b"2")]
    unpack(root, *upper[::turn])
    assert names(root) == ["a", "d", "d/n"]
    assert (root / "a").read_bytes() == b"2"


@pytest.mark.parametrize("turn", [1, -1])
def test_opaque_directories_keep_what_the_layer_has(root: Path, turn: int) -> None:
    unpack(root, member("d/x", b"1"), member("d/e/y", b"1"), member("d/e/z", b"1"))
    unpack(root, *[member("d/.wh..wh..opq"), member("d/e/n", b"2")][::turn])
    assert names(root) == ["d", "d/e", "d/e/n"]


def test_an_opaque_root(root: Path) -> None:
    unpack(root, member("a", b"1"), member("d/x", b"1"))
    unpack(root, member("n", b"2"), member(".wh..wh..opq"))
    assert names(root) == ["n"]


def test_kinds_replace_each_other(root: Path) -> None:
    unpack(root, member("f", b"1"), member("d/x", b"1"), member("l", type="symlink", linkname="d"))
    unpack(root, member("f/n", b"2"), member("d", b"2"), member("l/n", b"2"))
    # A directory takes the place of a lower link, as in overlays; the link is not followed.
    assert names(root) == ["d", "f", "f/n", "l", "l/n"]
    assert not (root / "l").is_symlink()


def test_links_of_the_same_layer_are_followed(root: Path) -> None:
    unpack(root, member("lower", b"1"))
    unpack(root, member("real", type="dir"), member("l", type="symlink", linkname="real"), member("l/n", b"2"))  # fmt: skip
    assert (root / "real/n").read_bytes() == b"2"
    assert (root / "l").is_symlink()


def test_directories_keep_what_nobody_describes(root: Path) -> None:
    unpack(root, member("d", type="dir", mode=0o2750, mtime=OLD), member("d/x", b"1"))
    unpack(root, member("d/n", b"2"), member("d/.wh.x"))
    status = (root / "d").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o2750, OLD)


def test_a_description_replaces_all_of_a_lower_one(root: Path) -> None:
    attributes = {"user.a": b"1"}
    unpack(root, member("d", type="dir", uid=5, gid=6, xattrs=attributes, mtime=OLD))
    assert os.getxattr(root / "d", recorded.OWNER) == b"5:6"
    unpack(root, member("d", type="dir", mode=0o700, mtime=OLD + 5))
    assert os.listxattr(root / "d") == []
    assert (root / "d").stat().st_mtime == OLD + 5


def test_hard_links_to_lower_files_are_copies(root: Path) -> None:
    unpack(
        root, member("a", b"1", mode=0o640, mtime=OLD), member("a2", type="hardlink", linkname="a")
    )
    assert (root / "a").stat().st_nlink == 2
    unpack(root, member("b", type="hardlink", linkname="a"))
    assert (root / "b").stat().st_ino != (root / "a").stat().st_ino
    assert (root / "b").read_bytes() == b"1"
    assert stat.S_IMODE((root / "b").stat().st_mode) == 0o640


def test_a_replaced_name_leaves_the_other(root: Path) -> None:
    unpack(root, member("a", b"1"), member("b", type="hardlink", linkname="a"))
    unpack(root, member("a", b"2"))
    assert [(root / name).read_bytes() for name in "ab"] == [b"2", b"1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_groups_are_not_handed_down(root: Path) -> None:
    owners = Ownership(shift=0, count=1 << 31)
    unpack(root, member("d", type="dir", mode=0o2775, gid=50), ownership=owners)
    upper = [member("d/f", b"2"), member("d/g", type="hardlink", linkname="d/f")]
    upper += [member("d/e", type="dir"), member("d/l", type="symlink", linkname="f")]
    upper += [member("d/own", b"2", gid=50)]
    unpack(root, *upper, ownership=owners)
    assert {name: (root / "d" / name).lstat().st_gid for name in os.listdir(root / "d")} == {
        "f": 0,
        "g": 0,
        "e": 0,
        "l": 0,
        "own": 50,
    }


def test_deep_trees_go_without_deep_calls(root: Path) -> None:
    path = "/".join(["d"] * 900)
    unpack(root, member(f"{path}/f", b"1"))
    unpack(root, member(".wh.d"))
    assert names(root) == []


def test_random_order_of_a_layer_does_not_matter(root: Path, tmp_path: Path) -> None:
    lower = [member(f"{d}/{n}", b"1") for d in "abc" for n in "xyz"]
    upper = [member("a/.wh.x"), member(".wh.b"), member("b/n", b"2"), member("c/y", b"2")]
    expected = ["a", "a/y", "a/z", "b", "b/n", "c", "c/x", "c/y", "c/z"]
    for seed in range(8):
        place = tmp_path / str(seed)
        place.mkdir()
        unpack(place, *lower)
        unpack(place, *random.Random(seed).sample(upper, len(upper)))
        assert names(place) == expected


def _escapes() -> list[str]:
    return [name for name, _ in archives.escapes(b"/x")]


@pytest.mark.parametrize("number", range(len(_escapes())), ids=_escapes())
@pytest.mark.parametrize("twice", [False, True])
def test_nothing_leaves_the_root(tmp_path: Path, root: Path, number: int, twice: bool) -> None:
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    (outside / "kept" / "file").write_bytes(b"kept")
    before = [(path, path.lstat()) for path in sorted(outside.rglob("*"))]
    _, data = archives.escapes(bytes(outside))[number]
    for _ in range(1 + twice):  # links of a lower layer, then
        extract(io.BytesIO(data), root, SINGLE, merge=True)
    assert [(path, path.lstat()) for path in sorted(outside.rglob("*"))] == before
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]


def test_removals_do_not_follow_lower_links(tmp_path: Path, root: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"kept")
    unpack(root, member("l", type="symlink", linkname=str(outside)))
    unpack(root, member("l/.wh.precious"), member("l/.wh..wh..opq"), member(".wh.l"))
    assert (outside / "precious").read_bytes() == b"kept"


def test_directories_that_a_link_replaced_are_forgotten(root: Path) -> None:
    unpack(
        root,
        member("b/b/l", type="symlink", linkname="a"),
        member("b/b/l/l", type="dir"),
        member("a/b/a/l", type="dir"),
        member("b", type="symlink", linkname="../../a"),
    )
    assert names(root) == ["a", "a/b", "a/b/a", "a/b/a/l", "b"]
