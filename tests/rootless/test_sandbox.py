"""Sessions and commands do what they promise, for root and for plain users."""

import functools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from imgbuild.errors import SandboxError
from imgbuild.sandbox.idmap import IdMap, choose_idmap
from imgbuild.sandbox.launch import launch
from tests.rootless.scenarios import SCENARIOS
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


def test_a_dead_worker_is_noticed(tmp_path: Path) -> None:
    session = launch(choose_idmap(SEARCH_PATH), _WORKER, [tmp_path])
    below = _below(session._process.pid)
    with pytest.raises(SandboxError, match="ended"):
        session.request("python", {"code": "import os, time; os.kill(os.getppid(), 9); time.sleep(9)"})
    with pytest.raises(SandboxError):
        session.request("echo", {})
    session.close()
    assert _left_after_a_second(below) == set()


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
        launch(broken, _WORKER, [tmp_path])
    assert "newuidmap" in caught.value.message
    assert "setcap" in str(caught.value.hint)


def test_a_broken_worker_says_why(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SandboxError, match="no_such_module"):
        launch(choose_idmap(SEARCH_PATH), "imgbuild.no_such_module", [tmp_path])
    with pytest.raises(SandboxError) as caught:
        launch(choose_idmap(SEARCH_PATH), _WORKER, [tmp_path / "absent"])
    assert "read-only" in caught.value.message
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_host_without_user_namespaces_names_the_remedy(tmp_path: Path) -> None:
    """chroot(2) is what makes a kernel refuse user namespaces to root as well."""
    if os.getuid() != 0:
        pytest.skip("not root")
    code = """
        import os, sys
        from pathlib import Path
        from imgbuild.errors import SandboxError
        from imgbuild.sandbox.idmap import choose_idmap
        from imgbuild.sandbox.launch import launch
        from imgbuild.sandbox import session, probe
        import subprocess, select
        import ctypes
        libc = ctypes.CDLL(None)
        # A root that is not the mount namespace's root.
        os.makedirs(sys.argv[1] + "/r")
        assert libc.unshare(0x20000) == 0
        assert libc.mount(None, b"/", None, 0x4000 | 1 << 18, None) == 0
        root = (sys.argv[1] + "/r").encode()
        assert libc.mount(b"/", root, None, 4096 | 16384, None) == 0
        os.chroot(root)
        os.chdir("/")
        report = probe.probe(Path("/tmp"), "/usr/bin")
        print(report.tier)
        print(report.checks[-1].name, report.checks[-1].remedy)
    """
    done = python_as("self", code, tmp_path)
    assert done.stdout.startswith("None\nuser namespace")
    assert "seccomp=unconfined" in done.stdout


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
    assert failed == (["ids"] if who == "single" else [])
    assert left == []
