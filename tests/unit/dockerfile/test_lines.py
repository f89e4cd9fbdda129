"""Splitting into instructions: what dockerfile-parse alone would lose, and a second opinion."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.dockerfile.lines import join, split
from imgbuild.dockerfile.source import BLANKS, cut_continuation


def pieces(text: str, escape: str = "\\") -> list[tuple[int, int, str]]:
    lines = text.split("\n")
    return [
        (p.first, p.last, join(lines[p.first : p.last + 1], escape)) for p in split(lines, escape)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN", [(0, 0, "RUN")]),  # no argument, no line feed
        ("RUN\nUSER x", [(0, 0, "RUN"), (1, 1, "USER x")]),
        ("RUN a \\\n\n b\nUSER x", [(0, 2, "RUN a  b"), (3, 3, "USER x")]),
        ("RUN a \\\n \t\n\n b", [(0, 3, "RUN a  b")]),
        ("RUN a \\\n# c\n b", [(0, 2, "RUN a  b")]),
        ("RUN a \\\n# c \\\n b", [(0, 2, "RUN a  b")]),
        ("RUN a \\", [(0, 0, "RUN a ")]),
        ("RUN a \\\n", [(0, 1, "RUN a ")]),
        ("RUN a \\\n# c\n# d", [(0, 2, "RUN a ")]),
        ("RUN a \\\\\nUSER x", [(0, 0, "RUN a \\\\"), (1, 1, "USER x")]),
        ("RUN a \\  \t\n b", [(0, 1, "RUN a  b")]),
        ("RUN a \\\r\n b\r", [(0, 1, "RUN a  b")]),
        ("RUN a \\\f\nUSER x", [(0, 0, "RUN a \\\f"), (1, 1, "USER x")]),
        ("FR\\\nOM x", [(0, 1, "FROM x")]),
        ("RUN\\\n a", [(0, 1, "RUN a")]),
        ("\\\nRUN a", [(0, 1, "RUN a")]),
        ("  RUN a", [(0, 0, "RUN a")]),
        ("COMMENT a", [(0, 0, "COMMENT a")]),
        ("# escape=`\nRUN a \\\n b", [(1, 2, "RUN a  b")]),
        ("\x1c\nRUN a", [(0, 0, "\x1c"), (1, 1, "RUN a")]),
        ("RUN \udcff\\\n\udcfe", [(0, 1, "RUN \udcff\udcfe")]),
        ("RUN a\u2028b", [(0, 0, "RUN a\u2028b")]),
        ("", []),
        ("\n \n#\n", []),
    ],
)
def test_lines_are_joined(text: str, expected: list[tuple[int, int, str]]) -> None:
    assert pieces(text) == expected


def test_the_escape_character_can_be_a_backtick() -> None:
    assert pieces("RUN a `\n b \\\nUSER x", "`") == [(0, 1, "RUN a  b \\"), (2, 2, "USER x")]


def one_by_one(lines: list[str], escape: str) -> list[tuple[int, int, str]]:
    """Split as BuildKit's own loop does, line by line."""
    out, at = [], 0
    while at < len(lines):
        first, line = at, lines[at].rstrip("\r\n").lstrip(BLANKS)
        at += 1
        if not line or line.startswith("#"):
            continue
        text, goes_on = cut_continuation(line, escape)
        while goes_on and at < len(lines):
            line = lines[at]
            at += 1
            if line.strip(BLANKS) and not line.lstrip(BLANKS).startswith("#"):
                part, goes_on = cut_continuation(line, escape)
                text += part
        out.append((first, at - 1, text))
    return out


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "RUN a",
                "RUN a \\",
                "b `",
                "b \\\\",
                "",
                " ",
                "# c",
                "# c \\",
                "\\",
                "`",
                "#",
                "x\\\r",
            ]
        ),
        st.text("RUN a\\`#\t\r\f\v\x1c\x85\xa0\u2028=escap", max_size=12),
        st.sampled_from(["# escape=`", "# escape=\\", "# syntax=", "#escape=` "]),
    ),
    max_size=12,
)


@given(LINES, st.sampled_from("\\`"))
def test_the_split_is_buildkits(lines: list[str], escape: str) -> None:
    assert pieces("\n".join(lines), escape) == one_by_one("\n".join(lines).split("\n"), escape)


@given(LINES, st.integers(0, 12))
def test_the_split_can_start_anywhere(lines: list[str], start: int) -> None:
    expected = [(a + start, b + start, text) for a, b, text in one_by_one(lines[start:], "\\")]
    found = [
        (p.first, p.last, join(lines[p.first : p.last + 1], "\\"))
        for p in split(lines, "\\", start)
    ]
    assert found == expected


def test_parsing_loads_nothing_heavy() -> None:
    code = (
        "import sys\nimport imgbuild.dockerfile.parse as p\n"
        "assert 'dockerfile_parse' not in sys.modules\n"
        "p.parse('FROM x\\nRUN [\"a\"]\\nCOPY <<A /b\\nA\\n')\n"
        "heavy = ('requests', 'ssl', 'cryptography', 'rich', 'ctypes', 'asyncio', 'urllib.request')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_is_split_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand lines parse in some 20 ms; splitting anew behind each body would be seconds."""
    from imgbuild.dockerfile import nodes
    from imgbuild.dockerfile.parse import parse

    stage = "FROM a\nARG A=1\nRUN x \\\n y\nCOPY <<E /x\nhello \\\n\nE\nRUN <<E\n# c\nE\n"
    calls: list[int] = []

    def counted(lines: list[str], escape: str, start: int = 0) -> object:
        calls.append(start)
        return split(lines, escape, start)

    monkeypatch.setattr(nodes, "split", counted)
    assert len(parse(stage * 200).stages) == 200
    assert calls == [0]
