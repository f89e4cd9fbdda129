"""Ignore files: the cases in testdata/ignore, pruning, hostile patterns."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.dockerfile.ignore import IgnoreLine, IgnoreMatcher, parse_ignore, parse_lines
from imgbuild.errors import ContextError, Span

CASES = Path(__file__).resolve().parents[3] / "testdata" / "ignore" / "cases.txt"


def cases() -> list[Any]:
    _, text = CASES.read_text("utf-8").split("\n\n", 1)
    out = []
    for case in text.split("--\n"):
        patterns, tree = case.split("==\n")
        for line in tree.splitlines():
            verdict, path = line.split(" ", 1)
            out.append(pytest.param(patterns, verdict, path, id=f"{patterns!r}-{line}"))
    return out


@pytest.mark.parametrize(("text", "verdict", "path"), cases())
def test_cases(text: str, verdict: str, path: str) -> None:
    matcher = IgnoreMatcher(parse_ignore(text))
    if verdict == "x":
        assert not matcher.may_include_below(path)
        assert not matcher.may_include_below(path.encode())
    assert matcher.matches(path) == matcher.matches(path.encode()) == (verdict != "+")
    if verdict == "+":
        for number, char in enumerate(path):
            assert char != "/" or matcher.may_include_below(path[:number])


def test_no_pattern_excludes_nothing() -> None:
    assert parse_ignore("# x\n\n \n") == ()
    matcher = IgnoreMatcher(())
    assert not matcher.matches("a/b")
    assert matcher.may_include_below("a")


def test_the_root_is_never_excluded() -> None:
    matcher = IgnoreMatcher(["**"])
    assert not matcher.matches("")
    assert not matcher.matches(b".")
    assert matcher.may_include_below("")


def test_names_that_are_no_utf8() -> None:
    matcher = IgnoreMatcher(parse_ignore(b"a\xff*\n".decode("utf-8", "surrogateescape")))
    assert matcher.matches(b"a\xffb")
    assert not matcher.matches(b"a\xfe")
    assert IgnoreMatcher(["?"]).matches(b"\xff")


def test_names_with_line_feeds() -> None:
    assert IgnoreMatcher(["a"]).matches("a/b\nc")
    assert not IgnoreMatcher(["a"]).matches("a\n")
    assert IgnoreMatcher(["a*"]).matches("a\n")
    assert IgnoreMatcher(["**/c"]).matches("a\nb/c")


@pytest.mark.parametrize(
    "pattern", ["[", "[]a]", "a[", "[^", "[^bc", "[x-]", "[-x]", "[b-a]", "a\\", "[a\\", "[a-b-c]"]
)
def test_malformed_patterns(pattern: str) -> None:
    for text in (pattern, f"!{pattern}"):
        with pytest.raises(ContextError, match="syntax error in pattern") as caught:
            IgnoreMatcher(["ok", text])
        assert caught.value.hint


def test_an_empty_exclusion() -> None:
    with pytest.raises(ContextError, match='illegal exclusion pattern: "!"'):
        IgnoreMatcher(parse_ignore("a\n! \n"))


def test_classes_are_text() -> None:
    """Neither classes of regular expressions nor their signs get through."""
    assert not IgnoreMatcher(["\\d"]).matches("1")
    assert IgnoreMatcher(["\\d"]).matches("d")
    assert IgnoreMatcher(["[*]"]).matches("*")
    assert not IgnoreMatcher(["[*]"]).matches("a")
    assert IgnoreMatcher(["a[&&|~+.]b"]).matches("a&b")
    assert IgnoreMatcher(["(a|b)"]).matches("(a|b)")
    assert not IgnoreMatcher(["(a|b)"]).matches("a")


@pytest.mark.parametrize(
    "pattern",
    [
        "*a*a*a*a*a*a*a*a*b",
        "**/*a*a*a*a*a*b/c",
        "?*?*?*?*?*?*b",
        "**/**/**/**/b",
        "*[a]*[a]*[a]*[a]*[a]*b",
    ],
)
def test_hostile_patterns_end(pattern: str) -> None:
    matcher = IgnoreMatcher([pattern, f"!{pattern}"])
    assert not matcher.matches("a" * 250)
    assert not matcher.matches("/".join(["a" * 20] * 40))


@pytest.mark.parametrize(
    "pattern", ["**/a/" * 40 + "b", "**/" * 40 + "b", "**/a*/" * 40 + "b", "**/[a]/" * 40 + "b"]
)
def test_deep_paths_and_many_stars_take_no_time(pattern: str) -> None:
    path = "/".join([*["a"] * 200, "b", *["a"] * 200])
    matcher = IgnoreMatcher([pattern])
    assert matcher.matches(path) is True
    assert matcher.matches(path.replace("b", "bc")) is False


def test_a_deep_path() -> None:
    path = "/".join(["d"] * 3000)
    assert IgnoreMatcher(["d/d", "!d/d/x"]).matches(path)
    assert not IgnoreMatcher(["d/d", "!d/d"]).matches(path)


PATTERN = st.text("ab*?/!.[]\\", min_size=1, max_size=8)
NAMES = st.lists(st.sampled_from(["a", "b", "ab", "ba", ".a"]), min_size=1, max_size=4)


@given(st.lists(PATTERN, max_size=5), st.lists(NAMES, max_size=6))
def test_pruning_never_loses_a_file(patterns: list[str], tree: list[list[str]]) -> None:
    try:
        matcher = IgnoreMatcher(parse_ignore("\n".join(patterns)))
    except ContextError:
        return
    for names in tree:
        if matcher.matches("/".join(names)):
            continue
        for depth in range(1, len(names)):
            assert matcher.may_include_below("/".join(names[:depth]))


@given(st.lists(PATTERN, max_size=5), st.lists(NAMES, max_size=6))
def test_the_order_of_questions_does_not_matter(patterns: list[str], tree: list[list[str]]) -> None:
    try:
        matcher = IgnoreMatcher(parse_ignore("\n".join(patterns)))
    except ContextError:
        return
    paths = ["/".join(names) for names in tree]
    forward = [matcher.matches(path) for path in paths]
    fresh = IgnoreMatcher(parse_ignore("\n".join(patterns)))
    assert [fresh.matches(path) for path in reversed(paths)] == forward[::-1]


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ContextError):
        IgnoreMatcher(parse_ignore(text)).matches("a/b")


def test_lines_are_kept() -> None:
    lines = parse_lines("\ufeff# x\n\n /a/ \r\n!./b/../c\n")
    assert lines == (IgnoreLine(3, "/a/", "a"), IgnoreLine(4, "!./b/../c", "!c"))


def test_decisions_name_the_last_line_of_those_that_match() -> None:
    matcher = IgnoreMatcher.read("*.log\n**/x.*\n!keep\nx.log\n", ".dockerignore")
    assert matcher is not None
    assert matcher.decide("x.log/y") == (True, IgnoreLine(2, "**/x.*", "**/x.*"), "x.log")
    assert matcher.decide(b"y.md") == (False, None, "")
    assert matcher.decide("") == (False, None, "")
    assert IgnoreMatcher.read("# nothing\n", ".dockerignore") is None


def test_a_decision_without_a_file_has_no_number() -> None:
    assert IgnoreMatcher(["a", "b"]).decide("b").line == IgnoreLine(0, "b", "b")


@pytest.mark.parametrize("pattern", ["[a", "! "])
def test_errors_tell_the_line_of_the_ignore_file(pattern: str) -> None:
    text = f"# first\nok\n\n{pattern}\n"
    with pytest.raises(ContextError) as caught:
        IgnoreMatcher.read(text, ".dockerignore")
    assert caught.value.span == Span(".dockerignore", 4, 4)
    assert caught.value.source == text
