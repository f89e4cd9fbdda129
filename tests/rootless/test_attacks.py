"""A RUN step cannot reach this machine: every attack of `attacks.py`, as every kind of user."""

import errno
import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import cast

import pytest

from tests.rootless import attacks
from tests.support import machine_code
from tests.support.users import Who, folder_of, python_as

pytestmark = pytest.mark.rootless

_CODE = "import sys; from pathlib import Path; from tests.rootless import attacks; attacks.main(Path(sys.argv[1]), sys.argv[2])"
Results = dict[str, tuple[int, str]]

# who, on which host, with which isolation, and what that must come to
_WAYS: dict[str, tuple[Who, str, str, dict[str, object]]] = {
    "root": ("self", "", "auto", {}),
    "user with ids": ("subids", "", "auto", {"name": "A", "proc": "own", "nested": True}),
    "user with one id": ("single", "", "auto", {"name": "C", "proc": "own", "nested": True}),
    "user with ids, one id": ("subids", "", "C", {"name": "C"}),
    "masked proc": ("self", "masked proc", "A", {"proc": "shared"}),
    "masked proc, user": ("subids", "masked proc", "A", {"proc": "shared", "nested": True}),
    "masked proc, one id": ("single", "masked proc", "C", {"proc": "shared", "nested": True}),
    "no pivot_root": ("self", "no pivot_root", "A", {"enter": "move", "proc": "own"}),
    "no pivot_root, user": ("subids", "no pivot_root", "A", {"enter": "move"}),
    "no pivot_root, masked proc": (
        "self",
        "masked proc+no pivot_root",
        "A",
        {"enter": "move", "proc": "shared"},
    ),
    "memory": ("self", "store on overlay", "A", {"root": "memory"}),
    "one level": ("self", "one more user namespace", "A", {"nested": False}),
    "no level": ("self", "no more user namespaces", "A", {"nested": False}),
    "least": (
        "self",
        "masked proc+no pivot_root+store on overlay+no more user namespaces",
        "A",
        {"nested": False, "proc": "shared", "enter": "move", "root": "memory"},
    ),
}


@pytest.fixture(params=list(_WAYS))
def way(request: pytest.FixtureRequest) -> str:
    return cast(str, request.param)


@functools.cache
def _tried(way: str) -> Results:
    who, host, isolation, _ = _WAYS[way]
    with (
        tempfile.TemporaryDirectory(prefix="imgbuild-attacks-") as spare,
        folder_of(who, Path(spare)) as top,
    ):
        place = top / "place"
        place.mkdir()
        shutil.copystat(top, place)
        shutil.chown(place, top.stat().st_uid, top.stat().st_gid)
        done = python_as(who, _CODE, place, isolation, host=host)
        return cast(Results, json.loads(done.stdout))


@pytest.fixture
def results(way: str) -> Results:
    return _tried(way)


def test_this_is_the_way_that_is_meant(results: Results, way: str) -> None:
    tier = json.loads(results["tier"][1])
    expected = _WAYS[way][3]
    assert {name: tier[name] for name in expected} == expected


@pytest.mark.skipif(not machine_code.SUPPORTED, reason="cannot apply: programs are for x86_64")
@pytest.mark.parametrize("name", attacks.programs())
def test_system_calls(results: Results, name: str) -> None:
    assert tuple(results[name]) == (attacks.programs()[name][1], "")


@pytest.mark.skipif(not machine_code.SUPPORTED, reason="cannot apply: programs are for x86_64")
def test_abstract_sockets_of_the_host_are_out_of_reach(results: Results) -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 12):
        pytest.skip("cannot apply: Landlock has scopes from Linux 6.12 on")
    assert tuple(results["abstract"]) == (1, "")


@pytest.mark.skipif(not machine_code.SUPPORTED, reason="cannot apply: programs are for x86_64")
def test_no_way_leads_out_of_the_root(results: Results) -> None:
    assert tuple(results["escape"]) == (errno.ENOENT, "")


@pytest.mark.skipif(not machine_code.SUPPORTED, reason="cannot apply: programs are for x86_64")
def test_the_escape_works_where_nothing_is_done_about_it(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("not root")
    root, marker = tmp_path / "root", tmp_path / "marker"
    (root / "tmp").mkdir(parents=True)
    marker.touch()
    (root / "escape").write_bytes(attacks.escape(str(marker)))
    (root / "escape").chmod(0o755)
    assert subprocess.run(["/escape"], preexec_fn=lambda: os.chroot(root)).returncode == 0


@pytest.mark.skipif(not machine_code.SUPPORTED, reason="cannot apply: programs are for x86_64")
def test_no_process_is_reached_by_its_directory(results: Results) -> None:
    shared = json.loads(results["tier"][1])["proc"] == "shared"
    # EINVAL: of another PID namespace, which is no ancestor of that process's.
    assert tuple(results["signal by directory"]) == (errno.EINVAL if shared else errno.ENOENT, "")


@pytest.mark.parametrize("name", attacks.SHELL)
def test_shell(results: Results, name: str) -> None:
    if name in attacks.OWN_PROC and json.loads(results["tier"][1])["proc"] == "shared":
        pytest.skip("cannot apply: /proc shows the processes around")
    assert tuple(results[name]) == (0, "held\n")


def test_all_capabilities_do_not_lead_out(results: Results) -> None:
    tier = json.loads(results["tier"][1])
    refused = not tier["nested"] or tier["enter"] == "move"
    for name in attacks.INSECURE:
        status, output = results[f"insecure {name}"]
        if refused:
            assert "--security=insecure" in output
        else:
            assert (status, output) == (0, "held\n")
    lacking = tier["enter"] == "move" or (tier["proc"] == "shared" and not tier["nested"])
    assert ("cannot be allowed" in results["SYS_ADMIN"][1]) == lacking


def _field(status: str, name: str) -> str:
    return next(line.split(":")[1].strip() for line in status.splitlines() if line.startswith(name))


def test_root_has_dockers_capabilities(results: Results) -> None:
    status = results["status"][1]
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(_field(status, name), 16) == 0xA80425FB
    for name in ("CapInh", "CapAmb"):
        assert int(_field(status, name), 16) == 0


def test_users_have_no_capabilities(results: Results) -> None:
    status = results["status of a user"][1]
    for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert int(_field(status, name), 16) == 0
    assert int(_field(status, "CapBnd"), 16) == 0xA80425FB
    # Where one id is mapped, nobody may change groups (user_namespaces(7)): the builder's stay.
    one_id = json.loads(results["tier"][1])["idmap"]["kind"] == "single"
    assert _field(status, "Groups") == "" or one_id


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
