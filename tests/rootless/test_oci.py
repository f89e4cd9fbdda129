"""Commands run by installed OCI runtimes: the same scenarios, attacks and layers as without."""

import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from imgbuild.errors import SandboxError
from tests.rootless import attacks
from tests.rootless.scenarios import SCENARIOS
from tests.support import machine_code
from tests.support.bench import Bench
from tests.support.command import imgbuild
from tests.support.users import Who, folder_of, python_as

pytestmark = pytest.mark.rootless

_RUNTIMES = ("crun", "runc")
# What runtimes do in their own way, none of it less safe.
_OTHERWISE = {
    "programs_are_looked_up_in_the_specs_path": "they take relative folders of PATH as well",
    "environment_and_arguments_survive_as_bytes": "what is not UTF-8 is refused",
    "proc_as_a_link_is_not_followed_outside": "a /proc that is a link is refused",
}
_OTHER_REFUSALS = {"x32", "a call of the future"}
_CODE = """
import sys
from pathlib import Path
from tests.rootless import attacks, scenarios
place, what, runtime, *wanted = sys.argv[1:]
if what == "attacks":
    attacks.main(Path(place), runtimes=(runtime,))
else:
    scenarios.main(Path(place), wanted, (runtime,))
"""


def _path(runtime: str) -> str:
    found = shutil.which(runtime)
    if found is None:
        pytest.skip(f"{runtime} is not installed")
    return found


@functools.cache
def _played(who: Who, runtime: str, what: str) -> dict[str, Any]:
    wanted = [name for name in SCENARIOS if name not in _OTHERWISE]
    with (
        tempfile.TemporaryDirectory(prefix="imgbuild-oci-") as spare,
        folder_of(who, Path(spare)) as place,
    ):
        done = python_as(who, _CODE, place, what, _path(runtime), *wanted, timeout=300)
        return cast(dict[str, Any], json.loads(done.stdout))


@pytest.mark.parametrize(
    ("who", "runtime"), [("self", "crun"), ("self", "runc"), ("subids", "crun"), ("single", "crun")]
)
def test_scenarios(who: Who, runtime: str) -> None:
    failed = {name: text for name, text in _played(who, runtime, "scenarios").items() if text}
    assert failed == {}


@pytest.mark.skipif(not machine_code.SUPPORTED, reason="cannot apply: programs are for x86_64")
@pytest.mark.parametrize("runtime", _RUNTIMES)
def test_attacks(runtime: str) -> None:
    found = _played("self", runtime, "attacks")
    expected = {name: [status, ""] for name, (_, status) in attacks.programs().items()}
    expected |= {name: [0, "held\n"] for name in attacks.SHELL}
    wrong = {name: found[name] for name, value in expected.items() if found[name] != value}
    assert set(wrong) <= _OTHER_REFUSALS
    assert all(status for status, _ in wrong.values())


DOCKERFILE = """\
FROM base
RUN mkdir /made && echo text >/made/file && chmod 4751 /made/file && rm /etc/group
WORKDIR /made
RUN <<END
ls -l >listing
mkfifo pipe
ln -s file link
END
USER 0:0
RUN --network=none cat /sys/class/net/lo/operstate >state
"""
_BASE = ("--build-context", "base=host://sh,ls,cat,mkdir,chmod,rm,mkfifo,ln")


def _diff_ids(place: Path, *flags: str) -> list[str]:
    store = place / "store"
    environment = {"SOURCE_DATE_EPOCH": "1000000000"}
    words = ["--no-cache", "-t", "built", *flags, *_BASE, place / "context"]
    imgbuild(*words, store=store, env=environment)
    shown = json.loads(imgbuild("inspect", "built", store=store).stdout)
    return cast(list[str], shown["config"]["rootfs"]["diff_ids"])


def test_layers_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE)
    expected = _diff_ids(tmp_path)
    for runtime in _RUNTIMES:
        found = _diff_ids(tmp_path, "--isolation=oci", f"--runtime={_path(runtime)}")
        assert found == expected, runtime
    imgbuild("reset", "--yes", store=tmp_path / "store")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert "imgbuild" not in " ".join(os.listdir("/run"))


def _fake(place: Path, script: str) -> str:
    path = place / "fake"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_next_runtime_is_tried_when_one_refuses(place: Path) -> None:
    refusing = _fake(place, "exit 3")
    with Bench(place, runtimes=(refusing, _path("crun"))) as bench:
        bench.finish()
        assert bench.run("echo $$; exit 4") == (4, "1\n")


def test_what_all_runtimes_said_is_told(place: Path) -> None:
    log = """while [ "$1" != --log ]; do shift; done
echo '{"level":"warning","msg":"careful"}
{"level":"error","msg":"no way"}' >"$2"; exit 1"""
    refusing = _fake(place, log)
    with Bench(place, runtimes=(refusing, "/absent/runtime")) as bench:
        bench.finish()
        with pytest.raises(SandboxError, match="fake: no way; runtime: .*o such file") as caught:
            bench.run("true")
    assert caught.value.hint is not None
    assert "--runtime" in caught.value.hint


def test_nothing_is_left_of_a_build_that_is_killed(tmp_path: Path) -> None:
    runtime, sleep = _path("crun"), f"sleep {100_000 + os.getpid()}"  # of this run of tests
    code = f"""
        import sys
        from pathlib import Path
        from tests.support.bench import Bench
        bench = Bench(Path(sys.argv[1]), runtimes=(sys.argv[2],))
        bench.finish()
        running, reading = bench.start("setsid {sleep} & echo up; {sleep}")
        import os
        os.read(reading, 3)
        print("up", flush=True)
        os.kill(os.getpid(), 9)
    """
    done = python_as("self", code, tmp_path, runtime, check=False)
    assert done.stdout == "up\n"
    found = subprocess.run(["pgrep", "-f", sleep], capture_output=True, text=True)
    assert found.stdout == ""
    with open("/proc/mounts") as mounts:
        assert str(tmp_path) not in mounts.read()


def test_a_program_that_makes_no_container_is_told(place: Path) -> None:
    with Bench(place, runtimes=(_fake(place, "exit 0"),)) as bench:
        bench.finish()
        with pytest.raises(SandboxError, match="fake made no container") as caught:
            bench.run("true")
    assert caught.value.hint is not None


def test_a_runtime_is_for_oci_alone(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    done = imgbuild("--runtime=crun", tmp_path, store=tmp_path / "store", check=False)
    assert done.returncode == 2
    assert b"--isolation=oci" in done.stderr


def test_the_choice_tells_the_runtime(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base\nRUN true\n")
    words = ["--isolation=oci", f"--runtime={_path('crun')}", "--progress=plain", *_BASE, tmp_path]
    done = imgbuild(*words, store=tmp_path / "store")
    assert b"), made by crun\n" in done.stderr
    imgbuild("reset", "--yes", store=tmp_path / "store")


def test_a_runtime_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base\nRUN true\n")
    words = ["--isolation=oci", "--runtime=/absent/runtime", *_BASE, tmp_path]
    done = imgbuild(*words, store=tmp_path / "store", check=False)
    assert done.returncode == 5
    assert b"/absent/runtime is not there" in done.stderr
