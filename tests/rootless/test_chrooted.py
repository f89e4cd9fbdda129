"""Commands in a changed root, without namespaces or without mounts, and what they try to get out."""

import functools
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import cast

import pytest

from tests.rootless import attacks, chrooted
from tests.rootless.test_sandbox import alive, below
from tests.support import machine_code
from tests.support.users import PROJECT, Who, as_user, folder_of, interpreter, python_as

pytestmark = pytest.mark.rootless

_WAYS: dict[str, tuple[Who, str]] = {
    "root": ("self", "D"),
    "user": ("subids", "D-userns"),
    "one id": ("single", "D-userns"),
}
# What only a mount or a PID namespace does: files of a step's own at most, and none of this machine.
_HARMLESS = {
    "sysrq": "a file of the root",
    "sys": "a file of the root",
    "its root is ours": "there is no /proc/1",
    "a number of pid 1's parent": "there is no /proc/1",
    "mount point of the resolver": "moved away, it comes back",
    "resolver": "a copy",
    "remove the resolver": "a copy",
    "no descriptors": "a list made before the directory was opened",
}
_ROOT_ONLY = {"foreign id": "the ids are this machine's own"}


@pytest.fixture(params=_WAYS)
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "root" and os.getuid() != 0:
        pytest.skip("not root")
    return cast(str, request.param)


@functools.cache
def _played(way: str) -> dict[str, str]:
    who, isolation = _WAYS[way]
    code = f"""
        import sys
        from pathlib import Path
        from tests.rootless import chrooted
        chrooted.main(Path(sys.argv[1]), {isolation!r})
    """
    with (
        tempfile.TemporaryDirectory(prefix="imgbuild-chrooted-") as spare,
        folder_of(who, Path(spare)) as place,
    ):
        return cast(dict[str, str], json.loads(python_as(who, code, place, timeout=300).stdout))


@pytest.mark.parametrize("name", chrooted.SCENARIOS)
def test_scenario(way: str, name: str) -> None:
    assert not _played(way)[name], _played(way)[name]


@functools.cache
def _tried(way: str) -> dict[str, tuple[int, str]]:
    who, isolation = _WAYS[way]
    code = f"""
        import sys
        from pathlib import Path
        from tests.rootless import attacks, bare
        attacks.main(Path(sys.argv[1]), {isolation!r}, kind=bare.OneRoot)
    """
    with (
        tempfile.TemporaryDirectory(prefix="imgbuild-attacks-") as spare,
        folder_of(who, Path(spare)) as place,
    ):
        return cast(
            dict[str, tuple[int, str]], json.loads(python_as(who, code, place, timeout=300).stdout)
        )


@pytest.mark.skipif(not machine_code.SUPPORTED, reason="cannot apply: programs are for x86_64")
@pytest.mark.parametrize("name", attacks.programs())
def test_system_calls(way: str, name: str) -> None:
    assert tuple(_tried(way)[name]) == (attacks.programs()[name][1], "")


@pytest.mark.skipif(not machine_code.SUPPORTED, reason="cannot apply: programs are for x86_64")
@pytest.mark.parametrize("name", ["escape", "abstract", "signal by directory"])
def test_ways_out_of_the_root(way: str, name: str) -> None:
    assert _tried(way)[name][0] != 0


@pytest.mark.parametrize("name", attacks.SHELL)
def test_shell(way: str, name: str) -> None:
    harmless = _HARMLESS | (_ROOT_ONLY if way == "root" else {})
    if name in harmless:
        pytest.skip(f"cannot apply: {harmless[name]}")
    assert tuple(_tried(way)[name]) == (0, "held\n")


def test_capabilities_that_lead_out_are_gone(way: str) -> None:
    status = _tried(way)["status"][1]
    for name in ("CapPrm", "CapEff", "CapBnd"):
        value = next(line for line in status.splitlines() if line.startswith(name)).split()[1]
        # docker's set without CAP_SYS_CHROOT, CAP_MKNOD and CAP_NET_RAW
        assert int(value, 16) == 0xA80425FB & ~(1 << 18 | 1 << 27 | 1 << 13)


_FOREVER = """
import os, sys, threading, time
from pathlib import Path
from tests.rootless.bare import Bare
bench = Bare(Path(sys.argv[1]), sys.argv[2])
bench.finish()
running, reading = bench.start("setsid sh -c 'sleep 1000 & sleep 1000' & echo up; sleep 1000")
os.read(reading, 3)
time.sleep(0.2)
print("up", flush=True)
running.wait()
"""


def _part(builder: int, victim: str, way: str) -> int:
    """Find a process of a session by who started it."""
    names = ["builder", "worker", "zygote", "waiting process"]
    if way != "root":
        names.insert(1, "first process")
    pid = builder
    for _ in range(names.index(victim)):
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return pid


@pytest.mark.parametrize("victim", ["builder", "worker", "zygote", "waiting process"])
def test_nothing_survives_a_killed_part(way: str, victim: str, tmp_path: Path) -> None:
    who, isolation = _WAYS[way]
    with folder_of(who, tmp_path) as place:
        command = as_user(who, [interpreter(who), "-c", _FOREVER, str(place), isolation])
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        with subprocess.Popen(command, cwd=PROJECT, stdout=pipe, stderr=null) as process:
            assert process.stdout is not None
            assert process.stdout.read(2) == b"up"
            started = below(process.pid)
            assert len(started) >= 6, "worker, zygote, waiting process, shell, sleeps"
            os.kill(_part(process.pid, victim, way), signal.SIGKILL)
            process.wait()
        deadline = time.monotonic() + 1
        while alive(started) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert alive(started) == set()
