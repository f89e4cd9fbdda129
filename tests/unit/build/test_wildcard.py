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
        ("*", "line\nbreak", True),
    ],
)
def test_one_element_matches_as_in_go(pattern: str, name: str, matches: bool) -> None:
    assert match(pattern.encode(), name.encode()) is matches


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
