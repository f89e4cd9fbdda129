"""`--on-fail=shell`: a shell in what a failed step left, for somebody at a terminal."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuild import BuildOptions, StepFailedError, build
from imgbuild.events import Event, Notice
from imgbuild.options import RunOptions
from tests.support.command import environment, imgbuild

pytestmark = pytest.mark.rootless

_BASE = ("--build-context", "base=host://sh,cat,rm,ls")
DOCKERFILE = """\
FROM base
ENV WORD=remembered PS1="look> "
RUN echo made >/before
WORKDIR /where
RUN <<END
echo left >/evidence
rm /before
exit 7
END
RUN echo never
"""


class Builder:
    """Somebody who builds at a terminal."""

    def __init__(self, place: Path, *flags: str) -> None:
        self.store = place / "store"
        self.master, terminal = os.openpty()
        self.seen = ""
        words = ["build", "--on-fail=shell", *_BASE, *flags, str(place)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "imgbuild", *words],
            stdin=terminal, stdout=terminal, stderr=terminal,
            env=environment({"IMGBUILD_STORE": str(self.store), "NO_COLOR": "1"}),
            start_new_session=True,
        )  # fmt: skip
        os.close(terminal)

    def read_until(self, text: str, seconds: float = 60) -> str:
        """Give what was shown until `text` was."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in:\n{self.seen}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += self._read()
        shown, _, self.seen = self.seen.partition(text)
        return shown + text

    def ask(self, command: str) -> str:
        os.write(self.master, f"{command}\n".encode())
        self.read_until(command)
        return self.read_until("look> ").removesuffix("look> ").strip()

    def end(self) -> int:
        """Wait for the end; what was shown until then is in `seen`."""
        while data := self._read():
            self.seen += data
        return self.process.wait(60)

    def _read(self) -> str:
        try:
            return os.read(self.master, 10_000).decode(errors="replace")
        except OSError:  # nobody has the other end any more
            return ""

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        imgbuild("reset", "--yes", store=self.store)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    return tmp_path


@pytest.fixture(params=["auto", "oci", "D", "D-userns"])
def builder(place: Path, request: pytest.FixtureRequest) -> Iterator[Builder]:
    if request.param == "D" and os.geteuid() != 0:
        pytest.skip("needs root to change the root without namespaces")
    made = Builder(place, f"--isolation={request.param}")
    yield made
    made.close()


def test_the_shell_is_in_what_the_step_left(builder: Builder) -> None:
    shown = builder.read_until("look> ")
    assert "exit code: 7" in shown
    assert "ends the build" in shown
    assert builder.ask("cat /evidence; ls /before").splitlines()[0] == "left"
    assert builder.ask("echo $WORD; echo `pwd`").splitlines() == ["remembered", "/where"]
    assert builder.ask("test -t 0 && echo yes") == "yes"
    assert builder.ask("echo changed >/evidence; cat /evidence") == "changed"
    os.write(builder.master, b"exit 3\n")
    assert builder.end() == 1
    assert "exit code: 7" in builder.seen
    assert "never" not in builder.seen.partition("error:")[0].rpartition("|")[0]


def test_nothing_of_the_shell_is_kept(place: Path) -> None:
    for _ in range(2):
        builder = Builder(place)
        try:
            builder.read_until("look> ")
            assert builder.ask("ls /kept && cat /evidence; echo x >/kept") != ""
            os.write(builder.master, b"\x04")
            assert builder.end() == 1
        finally:
            builder.close()
    (place / "Dockerfile").write_text(DOCKERFILE.replace("exit 7\n", ""))
    built = imgbuild("-t", "built", *_BASE, place, store=place / "store")
    assert built.returncode == 0
    ran = imgbuild(
        "run", "built", "sh", "-c", "ls -d /kept /evidence", store=place / "store", check=False
    )
    assert ran.stdout == b"/evidence\n"
    imgbuild("reset", "--yes", store=place / "store")


def test_without_a_terminal_there_is_an_error_and_no_shell(place: Path) -> None:
    done = imgbuild("--on-fail=shell", *_BASE, place, store=place / "store", check=False)
    assert done.returncode == 1
    assert b"no shell is opened for the failed step: there is no terminal" in done.stderr
    assert b"exit code: 7" in done.stderr


def test_the_library_opens_no_shell_unless_it_is_given_streams(place: Path) -> None:
    events: list[Event] = []
    options = BuildOptions(
        context=place,
        store=place / "store",
        build_contexts={"base": "host://sh,rm"},
        run=RunOptions(on_fail="shell"),
    )
    with pytest.raises(StepFailedError):
        build(options, events=events.append)
    assert any("no terminal" in event.message for event in events if isinstance(event, Notice))


def test_who_sits_at_a_terminal_is_told_of_the_shell(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base\nRUN exit 3\n")
    user = Builder(tmp_path, "--on-fail=stop")
    user.read_until("hint: --on-fail=shell opens a shell in what a failed step left")
    assert user.end() == 1
    user.close()
    words = ("build", *_BASE, str(tmp_path))
    done = imgbuild(*words, store=tmp_path / "store", check=False)
    assert b"exit code: 3" in done.stderr
    assert b"on-fail" not in done.stderr
