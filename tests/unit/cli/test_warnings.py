"""What the checks found is told once, at the end of a build, also of one that failed."""

import io

import pytest

from imgbuild.cli.check_commands import read_call
from imgbuild.cli.progress import PlainProgress
from imgbuild.cli.terminal import TerminalProgress
from imgbuild.cli.text import found
from imgbuild.errors import Span, UsageError
from imgbuild.events import BuildFinished, CheckWarning, Notice

WARNING = CheckWarning("UndefinedVar", "what \x1b[2Jis wrong", "d", "u", Span("Dockerfile", 3, 4))
LINES = [
    "1 warning found (use imgbuild check to expand):",
    " - UndefinedVar: what is wrong (line 3)",
]


@pytest.mark.parametrize("make", [PlainProgress, TerminalProgress])
def test_warnings_come_last(make: type[PlainProgress] | type[TerminalProgress]) -> None:
    out = io.StringIO()
    sink = make(out)
    sink(WARNING)
    sink(Notice("first"))
    sink(BuildFinished("sha256:1", (), 1.0))
    assert "UndefinedVar" not in out.getvalue()
    sink.close()
    sink.close()
    text = out.getvalue().replace("\x1b[33m", "").replace("\x1b[0m", "")
    assert text.splitlines()[-2:] == LINES
    assert text.count("UndefinedVar") == 1
    assert "\x1b" not in text


def test_many_warnings() -> None:
    assert found([]) == []
    assert found([WARNING, WARNING])[0] == "2 warnings found (use imgbuild check to expand):"


def test_calls() -> None:
    assert read_call("check") == ("check", "text")
    assert read_call("lint,format=json") == ("check", "json")
    assert read_call("targets,format=text") == ("targets", "text")
    for text in ("", "chec", "check,", "check,json", "check,format=yaml", "check,form=json"):
        with pytest.raises(UsageError):
            read_call(text)
