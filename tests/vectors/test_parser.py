"""Cutting up Dockerfiles against the syntax trees of BuildKit's parser."""

from typing import Any

import pytest

from imgbuild.dockerfile.csvfields import csv_fields
from imgbuild.dockerfile.directives import detect_syntax, read_directives
from imgbuild.dockerfile.durations import parse_duration
from imgbuild.dockerfile.heredoc import parse_opener
from imgbuild.dockerfile.nodes import KEYWORDS, Node, read_nodes
from imgbuild.dockerfile.parse import parse
from imgbuild.dockerfile.quoting import quote_list
from imgbuild.dockerfile.source import read_source
from imgbuild.errors import DockerfileError
from tests.vectors import load

# BuildKit names line 0 of an empty file; a span has to be a line.
LINE_OF_EMPTY = {"": [1]}
# Never more than one ONBUILD is followed, since a second one is refused anyway.
CANNOT_APPLY = {"ONBUILD ONBUILD RUN touch foobar"}


def trees(document: list[Any]) -> list[Any]:
    return [case.get("parse") or case for case in document_with_text(document)]


def document_with_text(document: list[Any]) -> list[Any]:
    for case in document:
        if "parse" in case:
            case["parse"]["dockerfile"] = case["dockerfile"]
    return document


def arguments(node: Node) -> list[Any]:
    if node.trigger:
        return [{"value": node.trigger.name, "next": arguments(node.trigger)}]
    if node.keyword not in KEYWORDS:
        return [""]
    if node.keyword not in {"ENV", "LABEL"}:
        return list(node.args)
    mark = "" if node.legacy else "="
    pairs = zip(node.args[::2], node.args[1::2], strict=True)
    return [word for name, value in pairs for word in (name, value, mark)]


def expected_arguments(tree: dict[str, Any]) -> list[Any]:
    out: list[Any] = []
    for word in tree.get("next", []):
        if word.get("children"):
            (inner,) = word["children"]
            out.append({"value": inner["value"], "next": expected_arguments(inner)})
        else:
            out.append(word["value"])
    return out


def as_tree(node: Node) -> dict[str, Any]:
    return {
        "value": node.name,
        "next": arguments(node),
        "json": node.json,
        "original": node.text,
        "flags": node.flags,
        "lines": (node.first, node.last),
        "heredocs": [
            {
                "name": document.name,
                "fd": document.fd,
                "expand": document.expand,
                "chomp": document.chomp,
                "content": document.content,
            }
            for document in node.heredocs
        ],
        "prev_comment": list(node.comments),
    }


def expected_tree(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        "value": tree["value"],
        "next": expected_arguments(tree),
        "json": bool(tree.get("attributes", {}).get("json")),
        "original": tree["original"],
        "flags": tree.get("flags", []),
        "lines": (tree["start_line"], tree["end_line"]),
        "heredocs": tree.get("heredocs", []),
        "prev_comment": tree.get("prev_comment", []),
    }


def label(case: dict[str, Any]) -> str:
    return str(case.get("name") or case["dockerfile"])


@pytest.mark.parametrize(
    "case",
    [
        *load("parser/ast.json", trees, label),
        *load("instructions/unit-dockerfiles.json", trees, label),
    ],
)
def test_trees(case: dict[str, Any]) -> None:
    text = case["dockerfile"]
    if text in CANNOT_APPLY:
        pytest.skip("cannot apply: the inside of a second ONBUILD is not read")
    source = read_source(text, "Dockerfile")
    if case.get("error"):
        with pytest.raises(DockerfileError) as caught:
            read_nodes(source, read_directives(source))
        assert caught.value.message == case["error"]
        assert caught.value.span is not None
        lines = list(range(caught.value.span.first, caught.value.span.last + 1))
        assert lines == LINE_OF_EMPTY.get(text, case["error_lines"])
        return
    directives = read_directives(source)
    assert directives.escape == case["escape_token"]
    found = [as_tree(node) for node in read_nodes(source, directives)]
    assert found == [expected_tree(tree) for tree in case["ast"]["children"]]


@pytest.mark.parametrize("case", load("dockerfiles/integration-dockerfiles.json", list, label))
def test_corpus(case: dict[str, Any]) -> None:
    if case["parse_error"]:
        with pytest.raises(DockerfileError) as caught:
            parse(case["dockerfile"])
        assert caught.value.message == case["parse_error"]
        return
    assert parse(case["dockerfile"]).stages


@pytest.mark.parametrize("case", load("misc/heredoc_words.json"))
def test_heredoc_words(case: dict[str, Any]) -> None:
    if case["error"]:
        with pytest.raises(DockerfileError) as caught:
            parse_opener(case["input"])
        assert caught.value.message == case["error"]
        return
    found = parse_opener(case["input"])
    expected = case.get("heredoc")
    assert (found is None) == (expected is None)
    if found is not None:
        assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize("case", load("misc/detect_syntax.json"))
def test_syntax(case: dict[str, Any]) -> None:
    assert detect_syntax(case["text"]) == (case["value"] if case["ok"] else None)


@pytest.mark.parametrize("case", load("misc/durations.json"))
def test_durations(case: dict[str, Any]) -> None:
    if case["error"]:
        with pytest.raises(ValueError) as caught:
            parse_duration(case["input"])
        assert str(caught.value) == case["error"]
        return
    assert parse_duration(case["input"]) == case["ns"]


@pytest.mark.parametrize("case", load("misc/csv_fields.json"))
def test_csv(case: dict[str, Any]) -> None:
    if case["error"]:
        with pytest.raises(ValueError) as caught:
            csv_fields(case["input"])
        assert str(caught.value) == case["error"]
        return
    assert csv_fields(case["input"]) == case["fields"]


@pytest.mark.parametrize("case", load("misc/goquote.json"))
def test_quoting(case: dict[str, Any]) -> None:
    import json

    assert quote_list(json.loads(case["input"])) == case["q"]
