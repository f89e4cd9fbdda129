import io
import os
import termios
import time

import pytest

from imgbuild.cli.lines import LineSplitter
from imgbuild.cli.progress import PlainProgress, shown
from imgbuild.cli.terminal import TerminalProgress
from imgbuild.events import (
    BuildFinished,
    BuildStarted,
    Event,
    Notice,
    StepFinished,
    StepOutput,
    StepStarted,
    TransferProgress,
)

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def test_lines_are_cut_at_newlines_and_carriage_returns() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"a\r\nb\rc") == ["a", "b"]
    assert splitter.feed(b"d\n") == ["cd"]
    assert splitter.feed(b"rest", final=True) == ["rest"]


def test_a_character_split_between_two_chunks_is_one_character() -> None:
    splitter = LineSplitter()
    data = "ä\n".encode()
    assert splitter.feed(data[:1]) == []
    assert splitter.feed(data[1:]) == ["ä"]


def test_plain_progress_prints_every_event() -> None:
    out = io.StringIO()
    sink = PlainProgress(out)
    sink(BuildStarted(2, "linux/amd64"))
    sink(StepStarted(1, "[1/2] RUN true"))
    sink(StepOutput(1, "stdout", b"hello\x1b[2J\nunfinished"))
    sink(StepFinished(1, "[1/2] RUN true", "done", 1.25))
    sink(StepFinished(2, "[2/2] RUN true", "cached", 0.0))
    sink(TransferProgress("pulling layer", 0, 1000))
    sink(TransferProgress("pulling layer", 1000, 1000))
    sink(Notice("take care"))
    sink(BuildFinished("sha256:0", ("docker.io/library/x:latest",), 2.0))
    lines = out.getvalue().splitlines()
    assert lines[0] == "#1 [1/2] RUN true"
    assert lines[1].endswith(" hello")
    assert lines[2].endswith(" unfinished")
    assert lines[3:] == [
        "#1 DONE 1.2s",
        "#2 [2/2] RUN true",
        "#2 CACHED",
        "pulling layer (1kB)",
        "pulling layer done",
        "notice: take care",
        "sha256:0",
        "built in 2.0s as docker.io/library/x:latest",
    ]


def test_a_build_without_a_name_says_how_to_give_one() -> None:
    out = io.StringIO()
    PlainProgress(out)(BuildFinished("sha256:0", (), 2.0))
    assert out.getvalue().splitlines()[1] == "built in 2.0s without a name; -t NAME gives one"


@pytest.mark.parametrize("event", [StepStarted(1, "RUN sleep"), TransferProgress("layer", 0, 9)])
def test_the_terminal_is_left_as_it_was_after_an_error(
    event: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    with pytest.raises(ZeroDivisionError), shown("tty") as sink:
        sink(event)
        started = time.monotonic()
        while HIDE_CURSOR not in out.getvalue():
            assert time.monotonic() - started < 30, "what runs is never shown"
            time.sleep(0.02)
        raise ZeroDivisionError
    assert out.getvalue().rindex(SHOW_CURSOR) > out.getvalue().rindex(HIDE_CURSOR)


def test_rows_fit_the_terminal() -> None:
    reader, writer = os.openpty()
    try:
        termios.tcsetwinsize(reader, (24, 40))
        with open(writer, "w", closefd=False) as out:
            sink = TerminalProgress(out)
            sink(StepFinished(1, f"[1/2] FROM base@sha256:{'a' * 64}", "cached", 0.0))
            sink(StepFinished(2, f"[2/2] RUN {'x' * 80}", "done", 1.25))
            sink(StepFinished(3, "[3/3] RUN true", "canceled", 1.25))
        seen = b""
        while not seen.endswith(b"\n") or seen.count(b"\n") < 3:
            seen += os.read(reader, 4096)
        rows = seen.decode().splitlines()
    finally:
        os.close(reader)
        os.close(writer)
    assert [row.split("m", 1)[1].removesuffix("\x1b[0m") for row in rows] == [
        "=> CACHED [1/2] FROM base@sha256:aaaaaa…",
        f"=> [2/2] RUN {'x' * 20}…  1.2s",
        "=> CANCELED [3/3] RUN true  1.2s",
    ]
