"""A RUN step cannot reach this machine: every attack of `attacks.py`, as every kind of user."""

import functools
import json
import os
import tempfile
from pathlib import Path
from typing import cast

import pytest

from tests.rootless import attacks
from tests.support import machine_code
from tests.support.users import Who, folder_of, python_as

pytestmark = pytest.mark.rootless

_CODE = "import sys; from pathlib import Path; from tests.rootless import attacks; attacks.main(Path(sys.argv[1]))"
Results = dict[str, tuple[int, str]]


@pytest.fixture(params=["self", "subids", "single"])
def who(request: pytest.FixtureRequest) -> Who:
    return cast(Who, request.param)


@functools.cache
def _tried(who: Who) -> Results:
    with (
        tempfile.TemporaryDirectory(prefix="imgbuild-attacks-") as spare,
        folder_of(who, Path(spare)) as place,
    ):
        return cast(Results, json.loads(python_as(who, _CODE, place).stdout))


@pytest.fixture
def results(who: Who) -> Results:
    return _tried(who)


@pytest.mark.skipif(not machine_code.SUPPORTED, reason="cannot apply: programs are for x86_64")
@pytest.mark.parametrize("name", attacks.programs())
def test_system_calls(results: Results, name: str) -> None:
    assert tuple(results[name]) == (attacks.programs()[name][1], "")


@pytest.mark.skipif(not machine_code.SUPPORTED, reason="cannot apply: programs are for x86_64")
def test_abstract_sockets_of_the_host_are_out_of_reach(results: Results) -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 12):
        pytest.skip("cannot apply: Landlock has scopes from Linux 6.12 on")
    assert tuple(results["abstract"]) == (1, "")


@pytest.mark.parametrize("name", attacks.SHELL)
def test_shell(results: Results, name: str) -> None:
    assert tuple(results[name]) == (0, "held\n")


def _field(status: str, name: str) -> str:
    return next(line.split(":")[1].strip() for line in status.splitlines() if line.startswith(name))


def test_root_has_dockers_capabilities(results: Results) -> None:
    status = results["status"][1]
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(_field(status, name), 16) == 0xA80425FB
    for name in ("CapInh", "CapAmb"):
        assert int(_field(status, name), 16) == 0


def test_users_have_no_capabilities(results: Results, who: Who) -> None:
    status = results["status of a user"][1]
    for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert int(_field(status, name), 16) == 0
    assert int(_field(status, "CapBnd"), 16) == 0xA80425FB
    # Where one id is mapped, nobody may change groups (user_namespaces(7)): the builder's stay.
    assert _field(status, "Groups") == "" or who == "single" or os.getuid() != 0


def test_signals_are_as_a_shell_expects(results: Results) -> None:
    status = results["status"][1]
    assert [int(_field(status, name), 16) for name in ("SigBlk", "SigIgn")] == [0, 0]
    assert _field(status, "Umask") == "0022"


def test_nothing_of_the_host_is_mounted(results: Results) -> None:
    places = {line.split()[1] for line in results["mounts"][1].splitlines()}
    assert {place.split("/")[1] for place in places} == {"", "proc", "sys", "dev"}
    for line in results["mounts"][1].splitlines():
        kind, place, _, options = line.split()[:4]
        if kind != "devpts" and not kind.startswith("devtmpfs") and not place.startswith("/dev/"):
            assert "nodev" in options.split(","), line
