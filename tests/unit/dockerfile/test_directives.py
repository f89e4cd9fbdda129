"""Parser directives and the syntax of a build definition."""

import pytest

from imgbuild.dockerfile.directives import detect_syntax, read_directives
from imgbuild.dockerfile.source import read_source
from imgbuild.errors import DockerfileError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#escape=`", [("escape", "`")]),
        (" #\tESCAPE \t=  ` \r\n# syntax = a b ", [("escape", "`"), ("syntax", "a b")]),
        ("# check=error=true\n# escape=\\\n", [("check", "error=true"), ("escape", "\\")]),
        ("\n# escape=`", []),
        ("# a comment\n# escape=`", []),
        ("# unknown=1\n# escape=`", []),
        ("FROM x\n# escape=`", []),
        ("# syntax=\n# escape=`", []),
        ("# syn tax=a\n# escape=`", []),
        ("## escape=`", []),
    ],
)
def test_found(text: str, found: list[tuple[str, str]]) -> None:
    directives = read_directives(read_source(text, "D"))
    assert list(directives.found) == found
    assert directives.lines == len(found)
    assert directives.escape == dict(found).get("escape", "\\")


@pytest.mark.parametrize("value", ["x", "``", "\\\\", "\\ `"])
def test_wrong_escape(value: str) -> None:
    with pytest.raises(DockerfileError, match="invalid escape token") as caught:
        read_directives(read_source(f"# check=a\n# escape={value}\n", "D"))
    assert caught.value.span is not None
    assert caught.value.span.first == 2


@pytest.mark.parametrize(
    ("text", "syntax"),
    [
        ("#!/usr/bin/env x\n# syntax=a", "a"),
        ("// syntax = a\n", "a"),
        ('{"syntax": "a"}', "a"),
        ('#!x\n{"syntax": "a"}', "a"),
        ('{"syntax": 1}', None),
        ("{" * 100000, None),
        ('{"a":' * 100000, None),
        ("FROM x", None),
        ("", None),
    ],
)
def test_syntax(text: str, syntax: str | None) -> None:
    assert detect_syntax(text) == syntax
