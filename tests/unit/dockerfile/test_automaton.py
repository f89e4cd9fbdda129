"""Patterns matched state by state: the same as their expressions say, and never for ever."""

import random
import re
import time

import pytest

from imgbuild.dockerfile.automaton import Automaton
from imgbuild.dockerfile.globs import BadPatternError, _steps, glob_expression
from imgbuild.dockerfile.ignore import IgnoreMatcher

PIECES = ["a", "b", ".", "/", "*", "**", "**/", "?", "[ab]", "[^a]", "[!-0]", "\\*", "/**/", "\n"]


def test_random_patterns_match_what_their_expressions_match() -> None:
    rng = random.Random(4)
    matched = compared = 0
    for _ in range(4000):
        pattern = "".join(rng.choices(PIECES, k=rng.randint(1, 6)))
        try:
            expression = re.compile(glob_expression(pattern))
        except BadPatternError:
            continue
        if pattern.startswith("**") and not re.search(r"[*?\[\\]", pattern[2:]):
            continue  # moby's special case for these is never matched so
        automaton = Automaton(_steps(pattern))
        for _ in range(8):
            text = "".join(rng.choices("ab./*\n", k=rng.randint(0, 7)))
            found = expression.fullmatch(text) is not None
            assert automaton.fullmatch(text) == found, (pattern, text)
            matched += found
            compared += 1
    assert matched > compared // 100


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("[^a]*" * 12 + "b", "x" * 255),
        ("**/" + "[^a]*/**/" * 5 + "b", "xx/" * 400 + "x"),
        ("**/" + "a**/" * 5 + "z", "aa/" * 300 + "y"),
        ("**[a-z]" * 6 + "**1", "abc/" * 100 + "x"),
        ("a**" * 10 + "/b", "a/" * 500 + "c"),
    ],
)
def test_no_pattern_takes_for_ever(pattern: str, path: str) -> None:
    begun = time.process_time()
    assert not IgnoreMatcher([pattern]).matches(path)
    assert IgnoreMatcher([pattern]).decide(path).line is None
    assert time.process_time() - begun < 5
