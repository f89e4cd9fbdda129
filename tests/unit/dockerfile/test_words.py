"""Variable expansion: the table in testdata/words, and what must hold for any text."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.dockerfile.words import (
    expand,
    expand_for_display,
    expand_heredoc,
    expand_words,
)
from imgbuild.errors import DockerfileError

TABLE = Path(__file__).resolve().parents[3] / "testdata" / "words" / "expand.txt"


class Row(NamedTuple):
    mode: str
    input: str
    expected: str
    env: dict[str, str]


def rows() -> list[Any]:
    env: dict[str, str] = {}
    out = []
    for number, line in enumerate(TABLE.read_text("utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("ENV "):
            name, value = line.removeprefix("ENV ").split("=", 1)
            env = {**env, name: value}
            continue
        mode, text, expected = f"{line} ".split(" | ")
        out.append(pytest.param(Row(mode, text, expected[:-1], env), id=f"{number}-{mode}-{text}"))
    return out


def run(row: Row) -> str:
    match row.mode:
        case "words":
            return "+".join(expand_words(row.input, row.env.get))
        case "heredoc":
            return expand_heredoc(row.input, row.env.get).text
        case "display":
            return expand_for_display(row.input, row.env.get).text
        case "backtick":
            return expand(row.input, row.env.get, "`").text
    assert row.mode == "word"
    return expand(row.input, row.env.get).text


@pytest.mark.parametrize("row", rows())
def test_table(row: Row) -> None:
    if row.expected.startswith("error "):
        with pytest.raises(DockerfileError) as caught:
            run(row)
        message = caught.value.message
        assert message.startswith("failed to process ")
        assert message.endswith('": ' + row.expected.removeprefix("error "))
        return
    assert run(row) == row.expected


def test_used_and_unknown() -> None:
    found = expand("$A ${B:-$C} ${D+$E} '$F'", {"A": "1", "C": "", "D": "4"}.get)
    assert found.text == "1   $F"
    assert found.used == {"A", "C", "D"}
    assert found.unknown == {"B", "E"}


def test_both_arms_of_a_default_are_seen() -> None:
    found = expand("${A:-$B}", {"A": "1"}.get)
    assert (found.text, found.used, found.unknown) == ("1", {"A"}, {"B"})


def test_a_word_that_was_not_used_may_still_be_wrong() -> None:
    with pytest.raises(DockerfileError):
        expand("${A:-${B:?}}", {"A": "1"}.get)


def test_line_feeds_stop_wildcards() -> None:
    env = {"A": "a\nb"}
    assert expand("${A#*b}", env.get).text == "a\nb"
    assert expand("${A##*}", env.get).text == "\nb"
    assert expand("${A//*/x}", env.get).text == "x\nx"


def test_deep_nesting_is_refused() -> None:
    deep = "${a:-" * 20000 + "}" * 20000
    with pytest.raises(DockerfileError, match="nested too deeply"):
        expand(deep, {}.get)
    assert expand("${a:-" * 50 + "x" + "}" * 50, {}.get).text == "x"


@pytest.mark.parametrize("pattern", ["*a*a*a*a*a*a*a*a*b", "?*?*?*?*?*?*?*b", "**********b"])
@pytest.mark.parametrize("sign", ["#", "##", "%", "%%"])
def test_hostile_patterns_end(pattern: str, sign: str) -> None:
    value = "a" * 20000
    assert expand(f"${{A{sign}{pattern}}}", {"A": value}.get).text == value


PLAIN = st.text(st.characters(exclude_characters="$'\"\\"))


@given(PLAIN)
def test_text_without_signs_is_unchanged(text: str) -> None:
    assert expand(text, {}.get) == (text, frozenset(), frozenset())
    assert expand_heredoc(text, {}.get).text == text
    # The same by way of the scanner, which the plain text alone never reaches.
    assert expand(text + "$X", {}.get).text == text


@given(PLAIN, st.text())
def test_values_are_not_looked_at_again(text: str, value: str) -> None:
    assert expand(f"{text}${{A}}{text}", {"A": value}.get).text == text + value + text
    assert expand('"$A"', {"A": value}.get).text == value


HOSTILE = st.text("aA$'\"\\`{}:-+?#%/*<@ \n", max_size=30)


@given(HOSTILE, st.sampled_from("\\`"), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_anything_is_expanded_or_refused(
    text: str, escape: str, raw: bool, escapes: bool, skip: bool, keep: bool
) -> None:
    try:
        expand(
            text,
            {"A": "1a/b"}.get,
            escape,
            raw_quotes=raw,
            raw_escapes=escapes,
            skip_quotes=skip,
            keep_unset=keep,
        )
        words = expand_words(text, {"A": "1 2"}.get, escape, raw_quotes=raw, keep_unset=keep)
    except DockerfileError:
        return
    assert all(words)


@given(st.lists(st.text("abc", min_size=1, max_size=3), max_size=5))
def test_words_of_a_value(words: list[str]) -> None:
    assert expand_words("$A", {"A": "  ".join(words)}.get) == words
    joined = " ".join(words)
    assert expand_words('"$A"', {"A": joined}.get) == ([joined] if joined else [])


@pytest.mark.parametrize(
    "word",
    [
        "$A" * 20_000,
        '"' + "${A}" * 20_000 + '"',
        "${A//a/$A$A$A$A}",
        "${B:-" + "$A" * 20_000 + "}",
        "${B:-${A//a/$A}}" * 20_000,
    ],
)
def test_no_word_grows_without_bound(word: str) -> None:
    values = {"A": "a" * 60_000}
    for scan in (expand, expand_words, expand_for_display, expand_heredoc):
        with pytest.raises(DockerfileError, match="come to more than 16777216 characters"):
            scan(word, values.get)
