"""Files put in place and taken away again. As anybody, in a directory of one's own."""

import base64
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from imgbuild.sandbox.child.failure import Failed
from imgbuild.sandbox.child.placed import Places
from imgbuild.sandbox.child.standins import DEVICES, StandIns

OLD = 1_000_000_000


class Case:
    def __init__(self, top: Path) -> None:
        self.root, self.aside = top / "root", top / "aside"
        for folder in (self.root, self.aside, self.root / "etc"):
            folder.mkdir()
        (self.root / "etc/hosts").write_text("own")
        os.utime(self.root / "etc", (OLD, OLD))
        self.top = top
        fds = (os.open(self.root, os.O_RDONLY), os.open(self.aside, os.O_RDONLY))
        self.places = Places(*fds, os.geteuid())

    def file(self, text: str, target: str) -> dict[str, Any]:
        source = self.top / f"source{len(os.listdir(self.top))}"
        source.write_text(text)
        return {"kind": "file", "source": str(source), "target": target}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


# As root of a namespace, which the processes of a build are, any file can be opened.
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="cannot apply: only root opens any file")
needs_ids = pytest.mark.skipif(os.geteuid() != os.getegid(), reason="cannot apply: ids differ")
pytestmark = needs_ids


def test_a_file_hides_another_and_goes(case: Case) -> None:
    inode = (case.root / "etc/hosts").stat().st_ino
    case.places.put(case.file("new", "/etc/hosts"))
    assert (case.root / "etc/hosts").read_text() == "new"
    assert (case.root / "etc").stat().st_mtime == OLD
    case.places.take_away()
    assert (case.root / "etc/hosts").read_text() == "own"
    assert (case.root / "etc/hosts").stat().st_ino == inode
    assert (case.root / "etc").stat().st_mtime == OLD


def test_what_a_step_does_beside_it_stays(case: Case) -> None:
    case.places.put(case.file("new", "/etc/hosts"))
    (case.root / "etc/n").write_text("made")
    changed = (case.root / "etc").stat().st_mtime_ns
    case.places.take_away()
    assert sorted(os.listdir(case.root / "etc")) == ["hosts", "n"]
    assert (case.root / "etc").stat().st_mtime_ns == changed


def test_missing_places_are_made_and_vanish(case: Case) -> None:
    os.utime(case.root, (OLD, OLD))
    case.places.put(case.file("new", "/a/b/c"))
    assert (case.root / "a/b/c").read_text() == "new"
    case.places.take_away()
    assert os.listdir(case.root) == ["etc"]
    assert case.root.stat().st_mtime == OLD


@pytest.mark.parametrize("act", ["remove", "replace", "remove all", "move"])
def test_a_step_that_meddles_loses_nothing_of_the_image(case: Case, act: str) -> None:
    case.places.put(case.file("new", "/etc/hosts"))
    etc = case.root / "etc"
    if act == "replace":
        (etc / "hosts").unlink()
        (etc / "hosts").symlink_to("/etc/passwd")
    elif act == "move":
        etc.rename(case.root / "etc2")
    else:
        (etc / "hosts").unlink()
        if act == "remove all":
            etc.rmdir()
    case.places.take_away()
    found = [path.read_text() for path in case.root.rglob("hosts")]
    assert found == ([] if act == "remove all" else ["own"])


def test_links_are_followed_inside_the_root(case: Case) -> None:
    (case.root / "etc/resolv.conf").symlink_to("/../../run/resolv.conf")
    case.places.put(case.file("new", "/etc/resolv.conf"))
    assert (case.root / "run/resolv.conf").read_text() == "new"
    case.places.take_away()
    assert os.readlink(case.root / "etc/resolv.conf") == "/../../run/resolv.conf"
    assert not (case.root / "run").exists()


@as_root
def test_secrets_leave_nothing_behind(case: Case) -> None:
    value = base64.b64encode(b"hidden").decode()
    mount = {
        "kind": "secret",
        "target": "/run/s",
        "value": value,
        "mode": 0o400,
        "uid": 0,
        "gid": 0,
    }
    case.places.put(mount)
    assert (case.root / "run/s").read_bytes() == b"hidden"
    assert (case.root / "run/s").stat().st_mode & 0o777 == 0o400
    case.places.take_away()
    left = [
        path for path in case.top.rglob("*") if path.is_file() and b"hidden" in path.read_bytes()
    ]
    assert left == []


def test_a_copy_is_shown_read_only_or_not(case: Case) -> None:
    source = case.top / "tree"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_text("1")
    (source / "l").symlink_to("d/f")
    case.places.put({"kind": "bind", "source": str(source), "target": "/m", "readonly": True})
    (case.root / "m/d/f").write_text("changed")
    assert os.readlink(case.root / "m/l") == "d/f"
    case.places.take_away()
    assert (source / "d/f").read_text() == "1"


def test_a_part_of_a_tree(case: Case) -> None:
    source = case.top / "tree"
    (source / "real").mkdir(parents=True)
    (source / "real/f").write_text("1")
    (source / "l").symlink_to("/real")
    mount = {"kind": "bind", "source": str(source), "target": "/m", "readonly": False, "path": "l"}
    case.places.put(mount)
    (case.root / "m/n").write_text("2")
    case.places.take_away()
    assert sorted(os.listdir(source / "real")) == ["f", "n"]


def test_sockets_are_lent(case: Case) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(case.top / "s"))
        listener.listen()
        mount = {"kind": "bind", "source": str(case.top / "s"), "target": "/s", "readonly": True}
        case.places.put(mount)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(case.root / "s"))
        case.places.take_away()
    assert (case.top / "s").is_socket()


def test_what_cannot_be_had_is_named(case: Case) -> None:
    with pytest.raises(Failed, match="size.*/m"):
        case.places.put({"kind": "tmpfs", "target": "/m", "size": 5, "mode": 0o1777})
    with pytest.raises(Failed, match="/etc"):
        case.places.put(case.file("x", "/etc"))


@as_root
def test_stand_ins_take_the_place_of_what_is_there(case: Case) -> None:
    (case.root / "dev").symlink_to("/etc")
    (case.root / "proc").write_text("a file")
    fds = (os.open(case.root, os.O_RDONLY), os.open(case.aside, os.O_RDONLY))
    for _ in range(2):
        StandIns(*fds, os.geteuid()).make()
        assert {name for name in DEVICES if (case.root / "dev" / name.decode()).is_file()} == set(
            DEVICES
        )
    assert (case.root / "dev/shm").stat().st_mode & 0o7777 == 0o1777
    assert os.listdir(case.root / "etc") == ["hosts"]
