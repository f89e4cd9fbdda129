"""`imgbuild context ls`, as people and programs read it."""

import json
import os
from pathlib import Path

import click
import pytest

from imgbuild.cli import context_commands
from imgbuild.cli.main import main
from imgbuild.cli.text import escaped


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_text("x" * 2000)
    (tmp_path / "b.log").touch()
    (tmp_path / ".dockerignore").write_text("*.log\n")
    return tmp_path


def test_rows_and_totals(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "l").symlink_to("d")
    os.mkfifo(context / "p")
    assert main(["context", "ls", str(context)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "      6B  .dockerignore",
        "          d/",
        "     2kB  d/a",
        "          l@",
        "          p|",
        "2.01kB in 2 files, 1 directory, 2 others",
    ]


def test_json(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / os.fsdecode(b"n\n\xff")).touch()
    assert main(["context", "ls", "--json", str(context)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["path"] for entry in document["entries"]] == [
        ".dockerignore",
        "d",
        "d/a",
        os.fsdecode(b"n\n\xff"),
    ]
    assert document["totals"] == {"files": 3, "directories": 1, "others": 0, "size": 2006}


def test_an_empty_context_is_a_document_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["context", "ls", "--json", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == []
    assert main(["context", "ls", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "0B in 0 files, 0 directories\n"


def test_names_cannot_speak_to_the_terminal(
    context: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (context / os.fsdecode(b"e\x1b]0;x\x07\n\xff")).touch()
    assert main(["context", "ls", str(context)]) == 0
    assert "      0B  e\\x1b]0;x\\x07\\x0a\\xff\n" in capsys.readouterr().out
    assert main(["context", "ls", str(context), "--explain", "\x1b[2J"]) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_explanations(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["context", "ls", str(context), "--explain", "b.log"]) == 1
    out = capsys.readouterr().out
    assert out == "/b.log is not sent: .dockerignore excludes it (line 1: *.log)\n"
    assert main(["context", "ls", str(context), "--explain", "d/a", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["path"], verdict["sent"], verdict["line"]) == ("d/a", True, None)


def test_rows_come_while_the_walk_goes_on(
    context: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(context_commands, "_TOGETHER", 2)
    writes: list[str] = []
    monkeypatch.setattr(click, "echo", writes.append)
    assert main(["context", "ls", str(context)]) == 0
    assert [text.count("\n") + 1 for text in writes] == [2, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain é", "plain é"),
        ("a\tb", "a\\x09b"),
        ("\u202ex", "\\xe2\\x80\\xaex"),
        ("\udcff", "\\xff"),
    ],
)
def test_escaped(name: str, shown: str) -> None:
    assert escaped(name) == shown


def test_context_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["context"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Usage: imgbuild context ")
    assert not shown.err


def test_standard_input_has_no_ignore_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["context", "ls", "-"]) == 2
    assert capsys.readouterr().err.startswith("error: only a folder has an ignore file")
