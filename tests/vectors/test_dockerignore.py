"""Ignore files against moby's pattern matcher."""

from typing import Any

import pytest

from imgbuild.dockerfile.ignore import IgnoreMatcher, parse_ignore
from imgbuild.errors import ContextError
from tests.vectors import load


def label(case: dict[str, Any]) -> str:
    return " ".join(case["patterns"])


def scenarios(document: dict[str, Any] | list[Any]) -> list[dict[str, Any]]:
    documents = document if isinstance(document, list) else [document]
    return [{**case, "paths": one["paths"]} for one in documents for case in one["cases"]]


@pytest.mark.parametrize("case", load("dockerignore/ignorefile.json"))
def test_ignore_files(case: dict[str, Any]) -> None:
    assert list(parse_ignore(case["content"])) == (case["patterns"] or [])


@pytest.mark.parametrize("case", load("dockerignore/matches.json", list, label))
def test_matches(case: dict[str, Any]) -> None:
    matcher = IgnoreMatcher(case["patterns"])
    assert matcher.matches(case["path"]) == case["expected"] == case["walk"]
    assert matcher.matches(case["path"].encode()) == case["walk"]


@pytest.mark.parametrize("case", load("dockerignore/matches-named.json", list, label))
def test_named_matches(case: dict[str, Any]) -> None:
    if case["new_error"]:
        with pytest.raises(ContextError) as caught:
            IgnoreMatcher(case["patterns"])
        # The pattern is named behind upstream's text.
        assert caught.value.message.startswith(case["new_error"])
        return
    assert IgnoreMatcher(case["patterns"]).matches(case["path"]) == case["walk"]


@pytest.mark.parametrize(
    "case", load("dockerignore/filepath_match_table.json", list, lambda case: str(case["pattern"]))
)
def test_one_pattern(case: dict[str, Any]) -> None:
    if case["bad_pattern"]:
        with pytest.raises(ContextError):
            IgnoreMatcher([case["pattern"]])
        return
    assert IgnoreMatcher([case["pattern"]]).matches(case["path"]) == case["match"]


@pytest.mark.parametrize(
    "case", load("dockerignore/scenarios.json", scenarios, lambda case: str(case["dockerignore"]))
)
def test_trees(case: dict[str, Any]) -> None:
    if case["error"]:
        with pytest.raises(ContextError, match="illegal exclusion pattern"):
            IgnoreMatcher(parse_ignore(case["dockerignore"]))
        return
    patterns = parse_ignore(case["dockerignore"])
    assert list(patterns) == (case["patterns"] or [])
    matcher = IgnoreMatcher(patterns)
    paths = case["paths"]
    ignored = [path for path in paths if matcher.matches(path)]
    assert ignored == (case["ignored_walk"] or [])
    for folder in paths:
        kept = any(p.startswith(f"{folder}/") and p not in ignored for p in paths)
        assert matcher.may_include_below(folder) or not kept, f"{folder} was cut off"


# dockerignore/compile.json pins moby's own regular expressions and how it sorts them into kinds;
# here every pattern becomes another expression, so only what they match can be compared.
@pytest.mark.parametrize(
    "case", load("dockerignore/compile.json", list, lambda case: str(case["pattern"]))
)
def test_patterns_compile(case: dict[str, Any]) -> None:
    IgnoreMatcher([case["pattern"]])
