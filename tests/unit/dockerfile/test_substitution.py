"""Patterns of substitutions against the plain translation to regular expressions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.dockerfile.substitution import replace, trim_prefix, trim_suffix

ROOM = 100
PATTERN = st.text("ab*?", max_size=7)
VALUE = st.text("ab", max_size=9)


def plain(pattern: str, star: str) -> str:
    return pattern.replace("?", ".").replace("*", star)


@given(PATTERN, VALUE)
def test_prefixes(pattern: str, value: str) -> None:
    for longest in (False, True):
        match = re.match(plain(pattern, ".*" if longest else ".*?"), value)
        expected = value[match.end() :] if match else value
        assert trim_prefix(pattern, value, longest=longest) == expected


@given(PATTERN, VALUE)
def test_suffixes(pattern: str, value: str) -> None:
    expression = re.compile(plain(pattern, ".*"))
    ends = [at for at in range(len(value) + 1) if expression.fullmatch(value, at)]
    for longest in (False, True):
        expected = value[: min(ends) if longest else max(ends)] if ends else value
        assert trim_suffix(pattern, value, longest=longest) == expected


@given(PATTERN, VALUE)
def test_the_first_match_is_replaced(pattern: str, value: str) -> None:
    expected = re.sub(plain(pattern, ".*"), "<>", value, count=1)
    assert replace(pattern, "<>", value, everywhere=False, room=ROOM) == expected


@given(st.text("ab?", min_size=1, max_size=4), VALUE)
def test_every_match_is_replaced(pattern: str, value: str) -> None:
    expected = re.sub(plain(pattern, ".*"), "<>", value)
    assert replace(pattern, "<>", value, everywhere=True, room=ROOM) == expected


def test_no_empty_match_behind_a_match() -> None:
    assert replace("*", "x", "ab", everywhere=True, room=ROOM) == "x"
    assert replace("", "-", "ab", everywhere=True, room=ROOM) == "-a-b-"


def test_replacements_stay_in_the_room_there_is() -> None:
    assert replace("a", "xx", "aaa", everywhere=True, room=6) == "xxxxxx"
    with pytest.raises(OverflowError):
        replace("a", "xx", "aaa", everywhere=True, room=5)
