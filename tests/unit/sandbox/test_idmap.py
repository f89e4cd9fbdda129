"""Which mapping is chosen from what a host says about a user."""

from pathlib import Path

import pytest

from imgbuild.errors import SandboxError
from imgbuild.sandbox.idmap import IdMap, choose_idmap

_FULL = "         0          0 4294967295\n"
_ROOT_CAPS = "000001ffffffffff"


class Host:
    """The files that a choice is made from."""

    def __init__(self, place: Path) -> None:
        self.proc = place / "proc"
        self.etc = place / "etc"
        self.bin = place / "bin"
        for folder in (self.proc, self.etc, self.bin):
            folder.mkdir()
        self.user(1000)
        self.maps(_FULL)
        (self.etc / "passwd").write_text("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\n")
        (self.etc / "group").write_text("root:x:0:\n")
        self.subids("ann:100000:65536\n")
        for name in ("newuidmap", "newgidmap"):
            (self.bin / name).touch(mode=0o755)

    def user(self, uid: int, caps: str = "0", nnp: int = 0) -> None:
        ids = f"{uid}\t{uid}\t{uid}\t{uid}"
        text = f"Name:\tpython\nUid:\t{ids}\nGid:\t{ids}\nCapEff:\t{caps}\nNoNewPrivs:\t{nnp}\n"
        (self.proc / "status").write_text(text)

    def maps(self, text: str) -> None:
        for name in ("uid_map", "gid_map"):
            (self.proc / name).write_text(text)

    def subids(self, uids: str, gids: str | None = None) -> None:
        (self.etc / "subuid").write_text(uids)
        (self.etc / "subgid").write_text(uids if gids is None else gids)

    def choose(self, search_path: str | None = None) -> IdMap:
        path = f"/absent:{self.bin}" if search_path is None else search_path
        return choose_idmap(path, proc=self.proc, etc=self.etc)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_remedies_name_the_user_and_a_free_range(host: Host) -> None:
    host.subids("bob:100000:65536\neve:300000:10\nbad:x:y\n", "bob:100000:65536\neve:300000:20\n")
    remedy = host.choose().remedy
    assert "sudo usermod --add-subuids 300020-365555 --add-subgids 300020-365555 ann," in remedy
    host.subids("")
    assert "--add-subuids 100000-165535 --add-subgids 100000-165535 ann," in host.choose().remedy
    host.user(4000)
    assert " 4000, and" in host.choose().remedy
    host.user(1000)
    host.subids("ann:100000:65536\n")
    assert host.choose().remedy == ""
    assert "package uidmap" in host.choose("/absent").remedy
    host.user(1000, nnp=1)
    assert "no_new_privs" in host.choose().remedy


def test_ranges_of_a_user(host: Host) -> None:
    found = host.choose()
    assert found.kind == "subids"
    assert found.uid_map == ((0, 1000, 1), (1, 100000, 65536))
    assert (found.shift, found.count) == (1, 65536)
    assert found.helpers == (f"{host.bin}/newuidmap", f"{host.bin}/newgidmap")
    assert found.describe() == "65536 ids from 100000 on"


def test_several_ranges_by_name_and_number(host: Host) -> None:
    host.subids("bob:1:2\nann:100000:10\n1000:200000:20\n\n# no line\nann:x:y\n", "ann:5:40\n")
    found = host.choose()
    assert found.uid_map == ((0, 1000, 1), (1, 100000, 10), (11, 200000, 20))
    assert found.gid_map == ((0, 1000, 1), (1, 5, 40))
    assert found.count == 30, "as many as both kinds have"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda host: host.subids(""), "give ann no ids"),
        (lambda host: host.subids("ann:1:0\n"), "give ann no ids"),
        (lambda host: host.subids("ann:1:2\n", ""), "give ann no ids"),
        (lambda host: (host.etc / "subuid").unlink(), "give ann no ids"),
        (lambda host: (host.bin / "newgidmap").unlink(), "not installed"),
        (lambda host: (host.bin / "newuidmap").chmod(0o644), "not installed"),
        (lambda host: host.user(1000, nnp=1), "no_new_privs"),
    ],
)
def test_one_id_with_the_reason(host: Host, change: object, reason: str) -> None:
    assert callable(change)
    change(host)
    found = host.choose()
    assert found.kind == "single"
    assert found.uid_map == ((0, 1000, 1),)
    assert (found.shift, found.count) == (0, 1)
    assert reason in found.reason


def test_helpers_are_not_looked_for_in_the_current_folder(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(host.bin)
    assert host.choose(":.").kind == "single"


def test_root_gets_ids_that_nothing_else_has(host: Host) -> None:
    host.user(0, _ROOT_CAPS)
    found = host.choose()
    assert (found.kind, found.shift) == ("root", 0x70000000)
    assert found.uid_map == ((0, 0, 4294967295),)
    assert found.helpers is None
    assert found.describe() == f"{found.count} ids from {0x70000000} on"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("subuid", f"x:{0x70000000 - 10}:11\n"),
        ("subgid", f"x:{0x7E000000}:1\n"),
        ("passwd", f"x:x:{0x70000005}:1::/:/bin/sh\n"),
        ("group", f"x:x:{0x70000005}:\n"),
    ],
)
def test_root_avoids_ids_in_use(host: Host, file: str, text: str) -> None:
    host.user(0, _ROOT_CAPS)
    (host.etc / file).write_text(text)
    assert host.choose().shift == 0x60000000


def test_root_without_a_free_range_is_told_so(host: Host) -> None:
    host.user(0, _ROOT_CAPS)
    host.subids("x:0:4294967295\n")
    with pytest.raises(SandboxError) as caught:
        host.choose()
    assert caught.value.hint is not None


def test_root_of_a_container_uses_what_it_has(host: Host) -> None:
    host.user(0, _ROOT_CAPS)
    host.maps("0 1000 1\n1 100000 65535\n70000 1 1\n")
    found = host.choose()
    assert found.uid_map == ((0, 0, 1), (1, 1, 65535), (70000, 70000, 1))
    assert (found.shift, found.count) == (0, 65536)


def test_root_without_capabilities_is_a_plain_user(host: Host) -> None:
    host.user(0, "0000000000000000")
    assert host.choose().kind == "single"
    host.user(0, "00000000a80425fb")  # docker's set has SETFCAP, so this may map
    assert host.choose().kind == "root"
    host.user(0, "00000000280425fb")
    assert host.choose().kind == "single"


def test_key_names_the_owners_on_disk(host: Host) -> None:
    first = host.choose()
    assert first.key == host.choose().key
    assert first.key.startswith("subids-")
    host.subids("ann:200000:65536\n")
    second = host.choose()
    host.subids("")
    third = host.choose()
    assert len({first.key, second.key, third.key}) == 3


def test_malformed_ranges_of_others_are_passed_over(host: Host) -> None:
    host.user(0, _ROOT_CAPS)
    host.subids("bob:x:65536\nbob:1\nbob:1:y\n")
    assert host.choose().kind == "root"
