import json
import os
from pathlib import Path

import pytest

from imgbuild.build.wildcard import has_wildcard, match

VECTORS = Path(os.environ.get("IMGBUILD_VECTORS", Path(__file__).parents[4] / "shared" / "vectors"))
TABLE = VECTORS / "dockerignore" / "filepath_match_table.json"


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*.txt", "a.txt", True),
        ("*.txt", ".txt", True),
        ("*.txt", "a.md", False),
        ("?", "é", True),
        ("??", "é", False),
        ("[ab]x", "bx", True),
        ("[^ab]x", "cx", True),
        ("[^ab]x", "ax", False),
        ("[a-c]x", "bx", True),
        ("[c-a]x", "bx", False),
        ("[[]", "[", True),
        (r"\*", "*", True),
        (r"\*", "a", False),
        (r"[\]]", "]", True),
        ("[", "a", False),
        ("[]a]", "]", False),
        ("[-x]", "x", False),
        ("[x-]", "x", False),
        ("a\\", "a", False),
        ("[c-ab]x", "bx", True),
        ("[^c-a]x", "bx", True),
        ("*[c-a]*", "abc", False),
        ("*", "line\nbreak", True),
        ("a**b*", "abc", True),
        ("*a*[bc]*d", "xaxcxd", True),
        ("*a*[bc]*d", "xaxcxdx", False),
        ("*ab*ab", "xabab", True),
        ("*ab*ab", "xab", False),
    ],
)
def test_one_element_matches_as_in_go(pattern: str, name: str, matches: bool) -> None:
    assert match(pattern.encode(), name.encode()) is matches


@pytest.mark.parametrize("part", [b"*a", b"*[a]"])
def test_a_pattern_cannot_keep_a_build_busy(part: bytes) -> None:
    """Tried one way after the other, this would take longer than the universe has existed."""
    assert not match(part * 60 + b"*b", b"a" * 255)
    assert match(part * 60 + b"*b", b"a" * 254 + b"b")


def test_names_that_are_no_text_match() -> None:
    assert match(b"?x", b"\xffx")
    assert match(b"*", b"\xff\xfe")


@pytest.mark.skipif(not TABLE.exists(), reason="no vectors here")
def test_go_s_own_table() -> None:
    rows = json.loads(TABLE.read_text())
    used = [
        row
        for row in rows
        if "/" not in row["pattern"] + row["path"] and "**" not in row["pattern"]
    ]
    assert len(used) > 30
    for row in used:
        wanted = row["match"] and not row["bad_pattern"]
        assert match(row["pattern"].encode(), row["path"].encode()) is wanted, row


@pytest.mark.parametrize(
    ("element", "wild"),
    [
        (b"a*", True),
        (b"?", True),
        (b"[a]", True),
        (rb"\*", False),
        (rb"\\*", True),
        (b"*x", True),
        (b"a]", False),
        (b"plain", False),
    ],
)
def test_a_backslash_hides_a_wildcard(element: bytes, wild: bool) -> None:
    assert has_wildcard(element) is wild


def test_many_stars_do_not_take_for_ever() -> None:
    name = b"a" * 200
    assert not match(b"*a" * 60 + b"b", name)
    assert match(b"*a" * 60, name)
    assert match(b"*a*b*", b"xxaxxaxxb")
    assert not match(b"*ab*ab", b"xabx")
