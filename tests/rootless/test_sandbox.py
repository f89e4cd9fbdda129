"""Sessions and commands do what they promise, for root and for plain users."""

import functools
import json
import os
import signal
import subprocess
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from imgbuild.errors import SandboxError
from imgbuild.sandbox.child.syscall_numbers import numbers
from imgbuild.sandbox.choice import candidates, start
from imgbuild.sandbox.idmap import IdMap, choose_idmap
from imgbuild.sandbox.launch import launch
from imgbuild.sandbox.tiers import Candidate
from tests.rootless.scenarios import SCENARIOS
from tests.support import machine_code
from tests.support.bench import SEARCH_PATH, Bench
from tests.support.users import PROJECT, Who, as_user, folder_of, interpreter, python_as

pytestmark = pytest.mark.rootless
_WORKER = "tests.support.sandbox_worker"


@functools.cache
def _results(who: Who) -> dict[str, str]:
    code = """
        import sys
        from pathlib import Path
        from tests.rootless import scenarios
        scenarios.main(Path(sys.argv[1]), sys.argv[2:])
    """
    with (
        tempfile.TemporaryDirectory(prefix="imgbuild-scenarios-") as spare,
        folder_of(who, Path(spare)) as place,
    ):
        done = python_as(who, code, place, *SCENARIOS, timeout=300)
        return cast(dict[str, str], json.loads(done.stdout))


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("who", ["self", "subids", "single"])
def test_scenario(who: Who, name: str) -> None:
    outcome = _results(who)[name]
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


def _below(pid: int) -> set[int]:
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


def _alive(pids: set[int]) -> set[int]:
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
    while _alive(pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return _alive(pids)


@pytest.mark.parametrize("who", ["self", "subids", "single"])
def test_nothing_survives_a_killed_builder(who: Who, tmp_path: Path) -> None:
    with folder_of(who, tmp_path) as place:
        command = as_user(who, [interpreter(who), "-c", _FOREVER, str(place)])
        with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.read(2) == b"up"
            below = _below(process.pid)
            assert len(below) >= 6, "worker, its request, zygote, outer process, shell, two sleeps"
            process.send_signal(signal.SIGKILL)
        assert _left_after_a_second(below) == set()


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
    below = _below(family[0])
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
    assert _left_after_a_second(below) == set()


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
        start(candidates(SEARCH_PATH), _WORKER, [tmp_path / "absent"])
    assert "read-only" in caught.value.message
    assert len(os.listdir("/proc/self/fd")) == before


_LESSER_HOSTS = {
    # chroot(2) is what makes a kernel refuse user namespaces to root as well.
    "user namespaces refused": (
        """
        os.makedirs(place + "/root")
        mount("/", place + "/root", None, MS_BIND | MS_REC)
        os.chroot(place + "/root")
        os.chdir("/")
        """,
        "user namespace",
        "seccomp=unconfined",
    ),
    "parts of /proc masked, as in a container": (
        """mount("/dev/null", "/proc/version", None, MS_BIND)""",
        "RUN, network host",
        "systempaths=unconfined",
    ),
    "the store on overlayfs, as in a container": (
        """
        for name in ("lower", "upper", "work", "merged"):
            os.makedirs(f"{place}/{name}/store")
        dirs = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
        mount("overlay", f"{place}/merged", "overlay", 0, dirs)
        store = f"{place}/merged/store"
        """,
        "overlay",
        "emptyDir",
    ),
    "the store on a mount without device files and programs": (
        """
        os.makedirs(place + "/store")
        mount("tmpfs", place + "/store", "tmpfs", 0xE)
        store = place + "/store"
        """,
        None,
        "",
    ),
}


@pytest.mark.parametrize("host", _LESSER_HOSTS)
def test_probe_names_the_remedy_of_lesser_hosts(host: str, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("not root")
    change, failed, remedy = _LESSER_HOSTS[host]
    code = """
        import ctypes, json, os, sys
        from pathlib import Path
        from imgbuild.sandbox.probe import probe
        from tests.support.bench import SEARCH_PATH
        MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
        libc = ctypes.CDLL(None, use_errno=True)
        def mount(source, target, kind, flags, data=None):
            parts = [part and part.encode() for part in (source, target, kind)]
            if libc.mount(*parts, ctypes.c_ulong(flags), data and data.encode()) < 0:
                raise OSError(ctypes.get_errno(), f"mount {target}")
        store = place = sys.argv[1]
        assert libc.unshare(0x20000) == 0
        mount(None, "/", None, MS_REC | MS_PRIVATE)
    """
    code = textwrap.dedent(code) + textwrap.dedent(change)
    code += textwrap.dedent("""
        report = probe(Path(store), SEARCH_PATH)
        failed = [(c.name, c.detail, c.remedy) for c in report.checks if not c.ok]
        print(json.dumps([report.tier, failed]))
    """)
    tier, problems = json.loads(python_as("self", code, tmp_path).stdout)
    if failed is None:
        assert (tier, problems) == ("A", [])
        return
    assert tier is None
    assert problems[0][0] == failed, problems
    assert remedy in problems[0][2]


@pytest.mark.parametrize("who", ["self", "subids", "single"])
def test_probe_finds_a_working_host_and_leaves_nothing(who: Who, tmp_path: Path) -> None:
    code = """
        import json, os, sys
        from pathlib import Path
        from imgbuild.sandbox.probe import probe
        from tests.support.bench import SEARCH_PATH
        report = probe(Path(sys.argv[1]), SEARCH_PATH)
        failed = [check.name for check in report.checks if not check.ok]
        print(json.dumps([report.tier, failed, os.listdir(sys.argv[1])]))
    """
    with folder_of(who, tmp_path) as place:
        tier, failed, left = json.loads(python_as(who, code, place).stdout)
    assert tier == "A"
    one_id = who == "single" or (who == "self" and choose_idmap(SEARCH_PATH).kind == "single")
    assert failed == (["ids"] if one_id else [])
    assert left == []
