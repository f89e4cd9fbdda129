"""Variable expansion against BuildKit's own tables and its answers to ours."""

from typing import Any

import pytest

from imgbuild.dockerfile.words import expand, expand_words
from imgbuild.errors import DockerfileError
from tests.vectors import load

MODES: dict[str, dict[str, Any]] = {
    "word": {},
    "heredoc_content_mode_skip_quotes": {"skip_quotes": True},
    "display_mode_rawquotes_skipunset": {"raw_quotes": True, "keep_unset": True},
    "escape_backtick": {"escape": "`"},
}


def label(case: dict[str, Any]) -> str:
    return str(case["input"])


def in_modes(document: dict[str, Any]) -> list[dict[str, Any]]:
    env = document["env"]
    return [{**case, "env": env, "mode": mode} for mode in MODES for case in document[mode]]


def in_words(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**case, "env": document["env"]} for case in document["words"]]


def in_table(document: dict[str, Any] | list[Any]) -> list[dict[str, Any]]:
    tables = document if isinstance(document, list) else [document]
    return [
        {**case, "env": table["env"], "escape": table["escape"], "result": case["expected"]}
        for table in tables
        for case in table["cases"]
    ]


def check(case: dict[str, Any], **mode: Any) -> None:
    env = dict(pair.split("=", 1) for pair in case["env"])
    if case["error"]:
        with pytest.raises(DockerfileError) as caught:
            expand(case["input"], env.get, **mode)
        assert caught.value.message == case["error"]
        return
    found = expand(case["input"], env.get, **mode)
    assert found.text == case["result"]
    assert sorted(found.used) == case["matched"]
    assert sorted(found.unknown) == case["unmatched"]


@pytest.mark.parametrize("case", load("shell/extra.json", in_modes, label))
def test_modes(case: dict[str, Any]) -> None:
    check(case, **MODES[case["mode"]])


@pytest.mark.parametrize("case", load("shell/process_word.json", in_table, label))
def test_words_one_by_one(case: dict[str, Any]) -> None:
    check(case, escape=case["escape"])


@pytest.mark.parametrize("case", load("shell/process_word_with_matches.json", list, label))
def test_matches(case: dict[str, Any]) -> None:
    check(case)


@pytest.mark.parametrize(
    "case",
    [
        *load("shell/process_words.json", list, label),
        *load("shell/extra.json", in_words, label),
    ],
)
def test_splitting(case: dict[str, Any]) -> None:
    env = dict(pair.split("=", 1) for pair in case["env"])
    if case["error"]:
        with pytest.raises(DockerfileError) as caught:
            expand_words(case["input"], env.get)
        assert caught.value.message == case["error"]
        return
    assert expand_words(case["input"], env.get) == (case.get("words") or [])
