"""`imgbuild run -t`: a terminal of its own for the command, and the user's as it was."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import environment, imgbuild

pytestmark = pytest.mark.rootless


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("console")
    (place / "Dockerfile").write_text('FROM base\nENV PS1="ready> "\nCMD ["sh", "-i"]\n')
    base = ("--build-context", "base=host://sh,cat,stty")
    imgbuild("-t", "shell", *base, place, store=place / "store")
    return place / "store"


def _take_terminal() -> None:
    """Be the session that the terminal belongs to, as a login shell is."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class User:
    """Somebody at a terminal of 40 lines and 90 columns."""

    def __init__(self, store: Path, *arguments: str, login: bool = False) -> None:
        self.master, self.terminal = os.openpty()
        self.resize(40, 90)
        self.before = termios.tcgetattr(self.terminal)
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "imgbuild", "run", *arguments],
            stdin=self.terminal, stdout=self.terminal, stderr=self.terminal,
            env=environment({"IMGBUILD_STORE": str(store)}), start_new_session=True,
            preexec_fn=_take_terminal if login else None,  # noqa: PLW1509  no threads here
        )  # fmt: skip

    def resize(self, lines: int, columns: int) -> None:
        size = struct.pack("4H", lines, columns, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def expect(self, text: bytes) -> None:
        """Read until `text` comes, and forget what came before it."""
        deadline = time.monotonic() + 20
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come: {self.seen!r}"
            self.seen += os.read(self.master, 1000)
        self.seen = self.seen.partition(text)[2]

    def types(self, text: bytes) -> None:
        os.write(self.master, text)

    def says(self, line: bytes) -> None:
        """Type a line to a running `cat`, and wait for it: typed, then from the command."""
        self.types(line + b"\n")
        self.expect(line)
        self.expect(line + b"\r\n")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.terminal)


@pytest.fixture
def user(store: Path) -> Iterator[User]:
    somebody = User(store, "-it", "shell")
    yield somebody
    somebody.close()


def test_a_shell_has_job_control(user: User) -> None:
    user.expect(b"ready> ")
    assert b"job control" not in user.seen
    user.types(b"echo $((40 + 2))\n")
    user.expect(b"42\r\nready> ")
    user.types(b"cat\n")
    user.says(b"one")
    user.types(b"\x1a")
    user.expect(b"ready> ")
    user.types(b"jobs\n")
    user.expect(b"Stopped")
    user.expect(b"ready> ")
    user.types(b"fg\n")
    user.says(b"two")
    user.types(b"\x03")
    user.expect(b"ready> ")
    user.types(b"exit 3\n")
    assert user.process.wait(20) == 3
    assert termios.tcgetattr(user.terminal) == user.before


def test_the_size_is_the_users_also_when_it_changes(user: User) -> None:
    user.expect(b"ready> ")
    user.types(b"stty size\n")
    user.expect(b"40 90\r\n")
    user.resize(50, 100)
    time.sleep(0.7)
    user.types(b"stty size; exit\n")
    user.expect(b"50 100\r\n")
    assert user.process.wait(20) == 0


def test_the_terminal_is_as_before_after_the_end_by_a_signal(user: User) -> None:
    user.expect(b"ready> ")
    assert termios.tcgetattr(user.terminal) != user.before, "raw"
    user.process.send_signal(signal.SIGTERM)
    assert user.process.wait(20) == 143
    assert termios.tcgetattr(user.terminal) == user.before


def test_all_output_comes_before_the_end(store: Path) -> None:
    user = User(
        store,
        "-t",
        "shell",
        "sh",
        "-c",
        "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done",
    )
    user.expect(b"line 2999\r\n")
    assert user.process.wait(20) == 0
    user.close()


def test_a_command_cannot_take_the_users_terminal(store: Path) -> None:
    """Whose controlling terminal it is could type into it (TIOCSTI)."""
    user = User(store, "shell", "sh", "-c", "cat < /dev/tty || echo held", login=True)
    user.expect(b"held")
    assert user.process.wait(20) == 0
    user.close()


def test_ctrl_c_ends_what_has_no_terminal_of_its_own(store: Path) -> None:
    user = User(store, "shell", "cat")
    time.sleep(1.5)
    user.process.send_signal(signal.SIGINT)
    assert user.process.wait(20) == 130
    user.close()


def test_without_a_terminal_the_flag_changes_nothing(store: Path) -> None:
    done = imgbuild("run", "-it", "shell", "cat", store=store, stdin=b"through")
    assert done.stdout == b"through"
