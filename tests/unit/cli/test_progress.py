import io

from imgbuild.cli.lines import LineSplitter
from imgbuild.cli.progress import PlainProgress
from imgbuild.events import (
    BuildFinished,
    BuildStarted,
    Notice,
    StepFinished,
    StepOutput,
    StepStarted,
    TransferProgress,
)


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
        "sha256:0 built in 2.0s",
        "named docker.io/library/x:latest",
    ]
