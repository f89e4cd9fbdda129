from pathlib import Path

import pytest

from imgbuild.cli import report
from imgbuild.errors import DockerfileError, Span, StepFailedError

SOURCE = "FROM base\nRUN one && \\\n  two\nCMD x\nCMD y\nCMD z\n"


def test_an_error_shows_where_what_and_what_next() -> None:
    error = DockerfileError("went wrong", hint="do this", span=Span("D", 2, 3), source=SOURCE)
    assert report.render(error).splitlines() == [
        "D:2",
        "--------------------",
        "   1 |     FROM base",
        "   2 | >>> RUN one && \\",
        "   3 | >>>   two",
        "   4 |     CMD x",
        "   5 |     CMD y",
        "--------------------",
        "error: went wrong",
        "hint: do this",
    ]


def test_an_excerpt_shows_no_password() -> None:
    source = "FROM base\nADD https://user:pass@h/x /\n"
    text = report.render(DockerfileError("went wrong", span=Span("D", 2, 2), source=source))
    assert ">>> ADD https://xxxxx:xxxxx@h/x /" in text


def test_a_failed_step_shows_its_last_lines_and_no_control_sequences() -> None:
    output = b"".join(b"line %d\n" % n for n in range(40)) + b"\x1b[2Jlast"
    error = StepFailedError("failed", status=1, output=output)
    lines = report.render(error).splitlines()
    assert lines[0] == "last output:"
    assert lines[-2:] == ["  last", "error: failed"]
    assert "  line 0" not in lines


def test_a_bug_is_one_line_and_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert report.show_bug(RuntimeError("oops")) == 70
    (kept,) = tmp_path.iterdir()
    assert "RuntimeError: oops" in kept.read_text()
    assert str(kept) in capsys.readouterr().err


def test_a_line_of_an_excerpt_ends_somewhere() -> None:
    source = f"FROM x\nRUN {'y' * 100_000}\n"
    text = report.render(DockerfileError("went wrong", span=Span("D", 2, 2), source=source))
    assert f"   2 | >>> RUN {'y' * 900}" in text
    assert len(text) < 1200
