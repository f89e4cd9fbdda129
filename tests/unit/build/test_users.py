from typing import Any

import pytest

from imgbuild.build import users
from imgbuild.build.users import RunUser, UnknownUserError, owner, reader, run_user
from imgbuild.errors import ContextError, ImageError
from tests.unit.build.trees import view

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false

# a comment
bad:x:x:y:z
short:x:40:41
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
33:x:500:501::/odd:/bin/sh
"""
GROUP = """\
root:x:0:
daemon:x:1:
wheel:x:10:daemon,nobody
disk:x:6:daemon
nobody:x:65534:
"""
IMAGE = {"etc/passwd": PASSWD, "etc/group": GROUP}


def opened(image: dict[str, Any]) -> users.ReadFile:
    def read(path: bytes, size: int) -> bytes | None:
        tree = view(image)
        try:
            return reader(tree)(path, size)
        finally:
            tree.close()

    return read


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("", RunUser(0, 0, (0,), "/root")),
        ("root", RunUser(0, 0, (0,), "/root")),
        ("daemon", RunUser(1, 1, (1, 10, 6), "/usr/sbin")),
        ("77", RunUser(77, 0, (0,), "/")),
        ("77:88", RunUser(77, 88, (88,), "/")),
        ("1", RunUser(1, 1, (1, 10, 6), "/usr/sbin")),
        ("1:1", RunUser(1, 1, (1,), "/usr/sbin")),
        ("nobody:wheel", RunUser(65534, 10, (10,), "/nonexistent")),
        ("daemon:99", RunUser(1, 99, (99,), "/usr/sbin")),
        ("77:wheel", RunUser(77, 10, (10,), "/")),
        ("short", RunUser(40, 41, (41,), "/")),
        ("33", RunUser(500, 501, (501,), "/odd")),
    ],
)
def test_who_user_is(spec: str, wanted: RunUser) -> None:
    found = run_user(opened(IMAGE), spec)
    if spec == "33":
        # A name that is a number names its user; HOME goes by the id.
        assert (found.uid, found.gid) == (500, 501)
    else:
        assert found == wanted


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ghost", "unable to find user ghost: no matching entries in passwd file"),
        ("bad", "unable to find user bad: no matching entries in passwd file"),
        ("daemon:ghost", "unable to find group ghost: no matching entries in group file"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
        ("9" * 5000, "uids and gids must be in range 0-2147483647"),
    ],
)
def test_unknown_users_are_told_in_buildkit_s_words(spec: str, message: str) -> None:
    with pytest.raises(UnknownUserError, match=message):
        run_user(opened(IMAGE), spec)


def test_an_image_without_passwd() -> None:
    read = opened({})
    assert run_user(read, "") == RunUser(0, 0, (0,), "/")
    assert run_user(read, "5:6") == RunUser(5, 6, (6,), "/")
    with pytest.raises(UnknownUserError):
        run_user(read, "root")


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("7", (7, 7)),
        ("5:6", (5, 6)),
        ("daemon", (1, 1)),
        ("daemon:wheel", (1, 10)),
        (":wheel", (0, 10)),
        ("1234:nobody", (1234, 65534)),
        ("nobody", (65534, 65534)),
    ],
)
def test_whose_files_become(spec: str, wanted: tuple[int, int]) -> None:
    assert owner(opened(IMAGE), spec) == wanted


@pytest.mark.parametrize("spec", ["ghost", "daemon:ghost", ":ghost"])
def test_owners_that_are_not_there(spec: str) -> None:
    with pytest.raises(ContextError, match="^invalid user index: -1: unable to find"):
        owner(opened(IMAGE), spec)


def test_files_are_found_through_links_inside_the_image_only() -> None:
    image = {"etc/passwd": {"link": "/../../../real/passwd"}, "real/passwd": PASSWD}
    assert run_user(opened(image), "daemon").uid == 1
    for kind in ({"dir": 1}, {"link": "passwd"}, {"link": "/nowhere"}):
        if kind == {"link": "passwd"}:
            with pytest.raises(ContextError, match="too many levels"):
                run_user(opened({"etc/passwd": kind}), "daemon")
        else:
            assert run_user(opened({"etc/passwd": kind}), "").home == "/"


def test_a_huge_passwd_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_MAX_FILE", 10)
    with pytest.raises(ImageError, match="larger than 10 bytes"):
        run_user(opened(IMAGE), "daemon")


def test_leading_zeros_do_not_make_a_number_large() -> None:
    assert owner(opened({}), f"{'0' * 5000}7:1") == (7, 1)
