"""Sessions and commands do what they promise, for root and for plain users."""

import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from imgbuild.errors import SandboxError
from imgbuild.sandbox.candidates import candidates
from imgbuild.sandbox.child.syscall_numbers import numbers
from imgbuild.sandbox.choice import start
from imgbuild.sandbox.idmap import IdMap, choose_idmap
from imgbuild.sandbox.launch import launch
from imgbuild.sandbox.tiers import Candidate
from tests.rootless.scenarios import SCENARIOS
from tests.support import lesser, machine_code
from tests.support.bench import SEARCH_PATH, Bench
from tests.support.users import PROJECT, Who, as_user, folder_of, interpreter, python_as

pytestmark = pytest.mark.rootless
_WORKER = "tests.support.sandbox_worker"


# Scenarios look at upper directories, which a host with a store on overlayfs hides in memory.
_WAYS: dict[str, tuple[Who, str]] = {
    "self": ("self", ""),
    "subids": ("subids", ""),
    "single": ("single", ""),
    "masked proc": ("self", "masked proc"),
    "masked proc, one id": ("single", "masked proc"),
    "no pivot_root": ("subids", "no pivot_root"),
    "one level": ("self", "one more user namespace"),
    "no level": ("self", "masked proc+no pivot_root+no more user namespaces"),
}


@functools.cache
def _results(way: str) -> dict[str, str]:
    code = """
        import sys
        from pathlib import Path
        from tests.rootless import scenarios
        scenarios.main(Path(sys.argv[1]), sys.argv[2:])
    """
    who, host = _WAYS[way]
    with (
        tempfile.TemporaryDirectory(prefix="imgbuild-scenarios-") as spare,
        folder_of(who, Path(spare)) as place,
    ):
        done = python_as(who, code, place, *SCENARIOS, timeout=300, host=host)
        return cast(dict[str, str], json.loads(done.stdout))


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("way", _WAYS)
def test_scenario(way: str, name: str) -> None:
    outcome = _results(way)[name]
    assert not outcome, outcome


_FOREVER = """
import sys
from pathlib import Path
from tests.support.bench import Bench
bench = Bench(Path(sys.argv[1]))
bench.finish()
running, reading = bench.start("setsid sleep 1000 & echo up; sleep 1000")
import os, threading
os.read(reading, 3)
threading.Thread(target=lambda: bench.session.request("sleep", {"seconds": 1000})).start()
import time
time.sleep(0.2)
print("up", flush=True)
running.wait()
"""


def below(pid: int) -> set[int]:
    """List the processes that descend from one."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                text = Path(f"/proc/{name}/stat").read_text()
            except OSError:
                continue
            parents[int(name)] = int(text.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    alive = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            alive.add(pid)
    return alive


def _left_after_a_second(pids: set[int]) -> set[int]:
    deadline = time.monotonic() + 1
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return alive(pids)


@pytest.mark.parametrize("way", [*_WAYS, "memory"])
def test_nothing_survives_a_killed_builder(way: str, tmp_path: Path) -> None:
    who, host = _WAYS.get(way, ("self", "store on overlay"))
    with folder_of(who, tmp_path) as top:
        place = top / "place"
        place.mkdir()
        shutil.chown(place, top.stat().st_uid, top.stat().st_gid)
        command = as_user(who, [interpreter(who), "-c", _FOREVER, str(place)])
        command = lesser.on(host, place, command)
        with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.read(2) == b"up"
            started = below(process.pid)
            assert len(started) >= 6, (
                "worker, its request, zygote, outer process, shell, two sleeps"
            )
            process.send_signal(signal.SIGKILL)
        assert _left_after_a_second(started) == set()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as made:
        made.finish()
        yield made


def test_close_ends_what_runs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.finish()
    running, reading = bench.start("sleep 1000")
    before = time.monotonic()
    bench.session.close()
    assert time.monotonic() - before < 5
    assert os.read(reading, 1) == b""
    os.close(reading)
    with pytest.raises(SandboxError):
        running.wait()
    with pytest.raises(SandboxError):
        bench.session.request("echo", {})
    with pytest.raises(SandboxError):
        bench.run("true")


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in tasks.read_text().split()]


@pytest.mark.parametrize("victim", ["first process", "worker", "zygote"])
def test_a_dead_part_of_the_session_is_noticed(tmp_path: Path, victim: str) -> None:
    session = start(candidates(SEARCH_PATH), _WORKER, [tmp_path])
    family = [session._process.pid]
    family += _children(family[0])
    family += _children(family[1])
    assert len(family) == 3
    started = below(family[0])
    killer = threading.Timer(
        0.1, os.kill, (family[["first process", "worker", "zygote"].index(victim)], 9)
    )
    killer.start()
    with pytest.raises(SandboxError, match="ended"):
        session.request("sleep", {"seconds": 9})
    killer.join()
    with pytest.raises(SandboxError):
        session.request("echo", {})
    session.close()
    assert _left_after_a_second(started) == set()


@pytest.mark.skipif(not machine_code.SUPPORTED, reason="cannot apply: programs are for x86_64")
@pytest.mark.parametrize("victim", ["first process", "worker", "zygote", "step"])
def test_a_command_that_disarms_its_signal_of_death_dies_too(tmp_path: Path, victim: str) -> None:
    table = numbers("x86_64")
    with Bench(tmp_path) as bench:
        stubborn = bench.base / "stubborn"
        # PR_SET_PDEATHSIG to none, a byte to show it, sleep without end.
        calls = ((table["prctl"], 1, 0), (table["write"], 1, b"up", 2), (table["pause"],))
        stubborn.write_bytes(machine_code.program(*calls))
        stubborn.chmod(0o755)
        bench.finish()
        running, reading = bench.start(["/stubborn"])
        assert os.read(reading, 2) == b"up"
        line = [bench.session._process.pid]
        while children := _children(line[-1]):
            line.append(children[0])
        assert len(line) == 5, "first process, worker, zygote, step, command"
        os.kill(line[["first process", "worker", "zygote", "step"].index(victim)], 9)
        if victim == "step":
            assert running.wait() == 137
        else:
            with pytest.raises(SandboxError):
                running.wait()
            bench.session.close()
            assert _left_after_a_second(set(line)) == set()
            # Files of the bench may belong to mapped ids: another session removes them.
            bench.session = start(candidates(SEARCH_PATH), _WORKER, [tmp_path])
    assert _left_after_a_second(set(line)) == set()
    os.close(reading)


def test_overlays_without_the_new_mount_options(bench: Bench) -> None:
    """Kernels before 6.7 mount by mount(2); tried here on any kernel."""
    root = bench.step()
    code = f"""
import os
from imgbuild.sandbox.child import overlay
overlay._by_descriptor = None
fd = overlay.by_path({[os.fsencode(p) for p in root.lowers]!r}, {os.fsencode(root.upper)!r}, {os.fsencode(root.work)!r})
assert os.path.isdir(f"/proc/self/fd/{{fd}}/proc")
os.unlink("etc/group", dir_fd=fd)
"""
    result = bench.session.request("python", {"code": code})
    assert result == ({}, [])
    assert (Path(root.upper) / "etc/group").lstat().st_rdev == 0


def test_refused_maps_name_the_remedy(tmp_path: Path) -> None:
    broken = IdMap("subids", ((0, 1, 1),), ((0, 1, 1),), 1, 1, helpers=("/bin/false", "/bin/false"))
    with pytest.raises(SandboxError) as caught:
        launch(Candidate("A", broken), _WORKER, [tmp_path])
    assert "newuidmap" in caught.value.message
    assert "setcap" in str(caught.value.hint)


def test_a_broken_worker_says_why(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SandboxError, match="no_such_module"):
        start(candidates(SEARCH_PATH), "imgbuild.no_such_module", [tmp_path])
    with pytest.raises(SandboxError) as caught:
        start(candidates(SEARCH_PATH)[:1], _WORKER, [tmp_path / "absent"])
    assert "read-only" in caught.value.message
    assert len(os.listdir("/proc/self/fd")) == before


# host -> what the tier is there
_PROBED: dict[str, dict[str, object]] = {
    "": {"name": "A", "proc": "own", "root": "overlay", "enter": "pivot_root", "nested": True},
    "store without devices": {"name": "A", "root": "overlay"},
    "masked proc": {"name": "A", "proc": "shared", "nested": True},
    "no pivot_root": {"name": "A", "enter": "move"},
    "store on overlay": {"name": "A", "root": "memory", "nested": True},
    "one more user namespace": {"name": "A", "nested": False},
    "no more user namespaces": {"name": "A", "nested": False},
    # chroot(2) is what makes a kernel refuse user namespaces to root as well.
    "chroot": {"name": "D", "root": "copy"},
    "no mounts": {"name": "D-userns", "root": "copy"},
}
# what stands in the way of the best there, and what to do
_OBSTACLES = {
    "chroot": ("does not allow user namespaces", "seccomp=unconfined"),
    "no mounts": ("does not allow mounts", "apparmor=unconfined"),
}


@pytest.mark.parametrize("host", _PROBED)
def test_what_is_found_on_a_host(host: str, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("not root")
    code = """
        import dataclasses, json, os, sys
        from pathlib import Path
        from imgbuild.sandbox.probe import probe
        from tests.support.bench import SEARCH_PATH
        report = probe(Path(sys.argv[1]), SEARCH_PATH)
        tier = report.tier and dataclasses.asdict(report.tier)
        checks = [[check.name, check.ok, check.detail, check.remedy] for check in report.checks]
        print(json.dumps([tier, checks, os.listdir(sys.argv[1])]))
    """
    place = tmp_path / "place"
    place.mkdir()
    tier, checks, left = json.loads(python_as("self", code, place, host=host).stdout)
    assert left == []
    assert {name: tier[name] for name in _PROBED[host]} == _PROBED[host]
    if host in _OBSTACLES:
        name, ok, detail, remedy = checks[0]
        assert name.startswith("tier A")
        assert not ok
        assert _OBSTACLES[host][0] in detail
        assert _OBSTACLES[host][1] in remedy
    assert all(remedy for _, ok, _, remedy in checks if not ok), checks


@pytest.mark.parametrize("who", ["self", "subids", "single"])
def test_probe_leaves_nothing(who: Who, tmp_path: Path) -> None:
    code = """
        import json, os, sys
        from pathlib import Path
        from imgbuild.sandbox.probe import probe
        from tests.support.bench import SEARCH_PATH
        report = probe(Path(sys.argv[1]), SEARCH_PATH)
        print(json.dumps([report.tier.name, report.checks[0].remedy, os.listdir(sys.argv[1])]))
    """
    with folder_of(who, tmp_path) as place:
        tier, remedy, left = json.loads(python_as(who, code, place).stdout)
    one_id = who == "single" or (who == "self" and choose_idmap(SEARCH_PATH).kind == "single")
    assert tier == ("C" if one_id else "A")
    assert bool(remedy) == one_id
    assert left == []
