"""A build that is told to end, or killed, leaves no process, no mount and no half of a layer."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from tests.support import users, validate
from tests.support.command import PROJECT
from tests.support.users import Who, as_user, folder_of

pytestmark = pytest.mark.rootless

_SECOND = 1.0
_PROGRAMS = "sh,sleep,setsid,setpriv,mkdir"
_BASE = ("--build-context", f"base=host://{_PROGRAMS}")
# All that a command can do not to be found: it ignores signals, leaves its session and its parent,
# and no longer ends with that. %s is a time by which its processes are told from all others.
_STUBBORN = """\
trap '' INT TERM HUP QUIT
setsid sleep %s &
(setsid sh -c '(sleep %s &)' &)
setpriv --pdeathsig clear sleep %s &
setsid setpriv --pdeathsig clear sh -c 'trap "" TERM; sleep %s; sleep %s' &
mkdir /half
echo is "up"
sleep %s
"""
_DOCKERFILE = "FROM base\nRUN mkdir /before\nRUN <<'END'\n{}END\n"


@dataclass
class Stubborn:
    """A build in whose RUN something runs that does not want to end."""

    who: Who
    place: Path
    isolation: str

    def __post_init__(self) -> None:
        self.mark = f"{10**6 + os.getpid()}.{time.monotonic_ns() % 10**9}"
        self.context = self.place / "context"
        self.context.mkdir()
        self._write(_DOCKERFILE.format(_STUBBORN.replace("%s", self.mark)))
        self.process: subprocess.Popen[bytes] | None = None

    def _write(self, text: str) -> None:
        (self.context / "Dockerfile").write_text(text)
        self.context.chmod(0o755)

    def words(self) -> list[str]:
        packages = Path(click.__file__).parents[1]
        env = {"PYTHONPATH": f"{PROJECT}:{packages}", "IMGBUILD_STORE": str(self.place / "store")}
        python = users.interpreter(self.who)
        # The tests may run where it is ignored, as under nohup.
        words = [
            "env",
            "--default-signal=HUP",
            *(f"{name}={value}" for name, value in env.items()),
            python,
        ]
        build = ["-m", "imgbuild", "build", "--progress=plain", "-t", "built", *_BASE]
        return as_user(
            self.who, [*words, *build, f"--isolation={self.isolation}", str(self.context)]
        )

    def start(self) -> subprocess.Popen[bytes]:
        """Start the build and wait until the command is up."""
        self.process = subprocess.Popen(
            self.words(), stderr=subprocess.PIPE, cwd="/", start_new_session=True
        )
        assert self.process.stderr is not None
        seen = b""
        while b"is up\n" not in seen.replace(b'"', b""):
            line = self.process.stderr.readline()
            assert line, seen.decode(errors="replace")
            seen += line
        end = time.monotonic() + 10 * _SECOND
        while len(self.running()) < 6:
            assert time.monotonic() < end, self.running()
            time.sleep(0.02)
        return self.process

    def running(self) -> list[str]:
        """List what runs of the command, anywhere on this machine."""
        found = []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                words = Path("/proc", name, "cmdline").read_bytes()
            except OSError:
                continue
            if self.mark.encode() in words:
                found.append(f"{name}: {words!r}")
        return found

    def is_gone_after_a_second(self) -> None:
        end = time.monotonic() + _SECOND
        while self.running() and time.monotonic() < end:
            time.sleep(0.02)
        assert self.running() == []
        assert str(self.place) not in Path("/proc/self/mounts").read_text()

    def the_next_build_is_right(self) -> None:
        self._write("FROM base\nRUN mkdir /before\nRUN mkdir /whole\n")
        done = subprocess.run(self.words(), capture_output=True, cwd="/", timeout=120)
        assert done.returncode == 0, done.stderr.decode()
        assert b"CACHED" in done.stderr
        store = self.place / "store"
        assert validate.layout(store) == []
        for folder in ("tmp/files",):
            left = list((store / folder).iterdir()) if (store / folder).exists() else []
            assert left == []

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        words = self.words()
        reset = [*words[: words.index("build")], "reset", "--yes"]
        subprocess.run(reset, capture_output=True, cwd="/")


_WAYS = [("self", "auto"), ("single", "auto"), ("self", "oci"), ("self", "D"), ("self", "D-userns")]


@pytest.fixture
def stubborn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stubborn]:
    who, isolation = request.param
    if isolation == "oci" and not (shutil.which("crun") or shutil.which("runc")):
        pytest.skip("neither crun nor runc is installed")
    if isolation == "D" and os.geteuid() != 0:
        pytest.skip("needs root to change the root without namespaces")
    with folder_of(who, tmp_path) as place:
        build = Stubborn(who, place, isolation)
        try:
            yield build
        finally:
            build.close()


def _to_the_group(process: "subprocess.Popen[bytes]") -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C


def _term(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()


def _hang_up(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize(
    ("stubborn", "tell", "status"),
    [
        *((way, _to_the_group, 130) for way in _WAYS),
        *((way, _term, 143) for way in _WAYS[:2]),
        (_WAYS[0], _hang_up, 129),
    ],
    indirect=["stubborn"],
)
def test_a_build_that_is_told_to_end(
    stubborn: Stubborn, tell: "Callable[[subprocess.Popen[bytes]], None]", status: int
) -> None:
    process = stubborn.start()
    tell(process)
    stubborn.is_gone_after_a_second()
    assert process.wait(10) == status
    stubborn.the_next_build_is_right()


@pytest.mark.parametrize("stubborn", _WAYS, indirect=True, ids="-".join)
def test_a_build_that_is_killed(stubborn: Stubborn) -> None:
    process = stubborn.start()
    process.kill()
    process.wait()
    stubborn.is_gone_after_a_second()
    stubborn.the_next_build_is_right()


@pytest.mark.parametrize("stubborn", [_WAYS[0], _WAYS[3]], indirect=True, ids="-".join)
def test_a_build_whose_timeout_is_over(stubborn: Stubborn) -> None:
    words = stubborn.words()
    at = words.index("build") + 1
    done = subprocess.run(
        [*words[:at], "--timeout=2", *words[at:]], capture_output=True, cwd="/", timeout=60
    )
    assert b"timed out" in done.stderr, done.stderr.decode()
    assert done.returncode == 1
    stubborn.is_gone_after_a_second()
    stubborn.the_next_build_is_right()
