"""Which ways to run commands are tried, in which order, and what is said when none works."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from imgbuild.errors import SandboxError, UsageError
from imgbuild.sandbox import candidates as listing
from imgbuild.sandbox import choice
from imgbuild.sandbox.failures import explain
from imgbuild.sandbox.idmap import IdMap
from imgbuild.sandbox.tiers import Candidate, Tier

_RANGES = ((0, 1000, 1), (1, 100000, 65536))
MANY = IdMap("subids", _RANGES, _RANGES, shift=1, count=65536, helpers=("/u", "/g"))
ROOT = IdMap("root", ((0, 0, 100),), ((0, 0, 100),), shift=0, count=100)
ONE = IdMap("single", ((0, 5, 1),), ((0, 5, 1),), shift=0, count=1, reason="no ids", remedy="add")


def _names(listed: Sequence[Candidate]) -> list[tuple[str, bool, bool, int]]:
    return [(one.name, one.userns, one.nested, one.idmap.shift) for one in listed]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a host says about this process; to be changed."""
    said: dict[str, Any] = {"best": MANY, "here": None, "chroot": False}
    monkeypatch.setattr(listing, "choose_idmap", lambda _path: said["best"])
    monkeypatch.setattr(listing, "own_ids", lambda: said["here"])
    monkeypatch.setattr(listing, "can_chroot", lambda: said["chroot"])
    return said


def test_a_user_with_ids(host: dict[str, Any]) -> None:
    listed = listing.candidates("/bin")
    assert _names(listed)[:3] == [
        ("A", True, True, 1),
        ("A", True, False, 0),
        ("C", True, True, 0),
    ]
    assert [one.name for one in listed[3:]] == ["D-userns", "D-userns", "D"]
    assert listing.expected(listed) is listed[0]
    assert listed[1].idmap.count == 65537
    host["best"] = IdMap("subids", _RANGES, _RANGES, shift=1, count=65536, doubt="set-uid")
    listed = listing.candidates("/bin")
    assert listed[0].name == "A", "it may work all the same"
    assert listing.expected(listed).name == "C"


def test_a_user_with_one_id(host: dict[str, Any]) -> None:
    host["best"] = ONE
    listed = listing.candidates("/bin")
    assert [one.name for one in listed] == ["A", "C", "D-userns", "D"]
    assert (listed[0].obstacle, listed[0].remedy) == ("no ids", "add")
    assert listing.expected(listed).idmap.kind == "single"
    assert [one.name for one in listing.candidates("/bin", "A")] == ["A"]
    assert listing.expected(listing.candidates("/bin", "A")).obstacle


def test_root_of_a_container(host: dict[str, Any]) -> None:
    host |= {"best": ROOT, "here": ROOT, "chroot": True}
    listed = listing.candidates("/bin")
    assert _names(listed)[:2] == [("A", True, True, 0), ("A", False, False, 0)]
    assert not listed[-1].obstacle
    host["chroot"] = False
    assert "CAP_SYS_CHROOT" in listing.candidates("/bin")[-1].obstacle


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("auto", "auto"), ("a", "A"), ("D-USERNS", "D-userns"), ("chroot", "D-userns"),
        ("rootless", "auto"), ("default", "auto"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("host")
def test_names_of_isolation(text: str, name: str) -> None:
    assert listing.parse_isolation(text) == name


def test_chroot_is_what_root_and_users_can_have(host: dict[str, Any]) -> None:
    assert {one.name for one in listing.candidates("/bin", "chroot")} == {"D-userns"}
    host["chroot"] = True
    assert [one.name for one in listing.candidates("/bin", "chroot")] == ["D"]
    assert not listing.candidates("/bin", "chroot")[0].obstacle


def test_an_isolation_that_does_not_exist(host: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="unknown isolation: vm") as caught:
        listing.candidates("/bin", "vm")
    assert caught.value.hint == (
        "one of auto, A, C, D-userns, D, oci; chroot and rootless are understood, too"
    )


class _Host:
    """Starts sessions: those that are named in `refused` fail with an operation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refused: dict[str, str]) -> None:
        self.tried: list[str] = []
        self._refused = refused
        monkeypatch.setattr(choice, "launch", self._launch)

    def _launch(self, candidate: Candidate, *_: object, **fields: Any) -> tuple[str, Any]:
        self.tried.append(candidate.name)
        if candidate.name in self._refused:
            raise explain({"op": self._refused[candidate.name], "errno": 1, "message": "no"})
        return candidate.name, fields["reasons"]


_A, _C, _D = Candidate("A", MANY), Candidate("C", ONE), Candidate("D", ROOT, userns=False)


def test_the_first_that_works_is_taken_with_the_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    host = _Host(monkeypatch, {"A": "newuidmap"})
    name, reasons = choice.start([_A, _C, _D], "entry", [Path("/s")])  # type: ignore[misc]
    assert (name, host.tried) == ("C", ["A", "C"])
    assert reasons == ("tier A (65536 ids from 100000 on): newuidmap could not map ids: no",)


def test_what_fails_for_one_user_namespace_is_not_tried_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = _Host(monkeypatch, {"A": "unshare", "C": "unshare"})
    name, reasons = choice.start([_A, _C, _D], "entry", [Path("/s")])  # type: ignore[misc]
    assert (name, host.tried) == ("D", ["A", "D"])
    assert len(reasons) == 2


def test_when_nothing_works_the_remedy_is_that_of_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _Host(monkeypatch, {"A": "newuidmap", "C": "mount", "D": "pivot"})
    with pytest.raises(SandboxError) as caught:
        choice.start([_A, _C, _D], "entry", [Path("/s")])
    assert caught.value.message.startswith("newuidmap could not map ids")
    hint = str(caught.value.hint)
    assert "setcap cap_setuid=ep newuidmap" in hint
    assert "tier C (one user id): this host does not allow mounts" in hint


def test_an_obstacle_that_is_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    host = _Host(monkeypatch, {})
    with pytest.raises(SandboxError, match="no ids") as caught:
        choice.start([Candidate("A", ONE, obstacle="no ids", remedy="add some")], "entry", [])
    assert (caught.value.hint, host.tried) == ("add some", [])


def test_a_fault_of_our_own_is_no_reason_to_take_something_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = _Host(monkeypatch, {"A": "start"})
    with pytest.raises(SandboxError, match="could not start"):
        choice.start([_A, _C], "entry", [])
    assert host.tried == ["A"]


def test_tiers_say_what_they_lack() -> None:
    best = Tier("A", MANY)
    assert (best.is_best, best.lacks()) == (True, "")
    assert best.describe() == "tier A: in namespaces of their own (65536 ids from 100000 on)"
    least = Tier("A", MANY, proc="shared", root="memory", enter="move", nested=False)
    assert not least.is_best
    assert least.lacks().count(";") == 3
    assert not Tier("C", ONE).is_best
    assert "copied" in Tier("A", MANY, root="copy").lacks()
    assert "boundary" in Tier("D", ROOT, root="copy", nested=False).lacks()
