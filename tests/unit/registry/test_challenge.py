"""Challenges as servers really write them, and scopes there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.registry.challenge import (
    Challenge,
    choose,
    format_scopes,
    grants_for,
    parse_challenges,
    parse_scopes,
)

HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:samalba/my-app:pull,push"'
)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        ([""], []),
        (["Basic"], [("basic", {})]),
        (['basic REALM = "x"'], [("basic", {"realm": "x"})]),
        (['Basic realm="a \\"b\\" \\\\ c"'], [("basic", {"realm": 'a "b" \\ c'})]),
        (["Negotiate"], [("negotiate", {})]),
        (["Negotiate YII=, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (
            ['Bearer realm="r",service=s, Basic realm="b"'],
            [("bearer", {"realm": "r", "service": "s"}), ("basic", {"realm": "b"})],
        ),
        (["Negotiate", "Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['Bearer realm="first",realm="second"'], [("bearer", {"realm": "first"})]),
        (['Bearer realm="open'], [("bearer", {"realm": "open"})]),
        (
            ["Bearer realm=https://x/token?a=b,service=s"],
            [("bearer", {"realm": "https://x/token?a=b", "service": "s"})],
        ),
        ([",,Bearer ,realm=x"], [("bearer", {"realm": "x"})]),
        (['="x" Basic'], [("x", {}), ("basic", {})]),
    ],
)
def test_challenges(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(headers) == [Challenge(*item) for item in expected]


def test_docker_hub() -> None:
    (found,) = parse_challenges([HUB])
    assert found.params["realm"] == "https://auth.docker.io/token"
    assert found.params["service"] == "registry.docker.io"
    assert parse_scopes(found.params["scope"]) == grants_for("samalba/my-app", "pull", "push")


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        (["Basic realm=x, Bearer realm=y"], "bearer"),
        (["Bearer", "Basic realm=x"], "basic"),
        (['Bearer realm=""'], None),
        (["Negotiate", "NTLM"], None),
        ([], None),
    ],
)
def test_choice(headers: list[str], scheme: str | None) -> None:
    found = choose(parse_challenges(headers))
    assert (found.scheme if found else None) == scheme


@given(st.text())
def test_any_header_is_survived(text: str) -> None:
    for scheme, params in parse_challenges([text]):
        assert scheme == scheme.lower()
        assert all(name == name.lower() for name in params)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_-]*", fullmatch=True), st.text(max_size=40)))
def test_quoted_values_come_back(params: dict[str, str]) -> None:
    quoted = (
        f'{name}="{value.replace(chr(92), chr(92) * 2).replace(chr(34), chr(92) + chr(34))}"'
        for name, value in params.items()
    )
    assert parse_challenges([f"Bearer {', '.join(quoted)}"]) == [Challenge("bearer", params)]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("", []),
        ("repository:a/b:pull", ["repository:a/b:pull"]),
        ("repository:a/b:push,pull", ["repository:a/b:pull,push"]),
        ("repository:b:pull  repository:a:pull", ["repository:a:pull", "repository:b:pull"]),
        ("registry:catalog:*", ["registry:catalog:*"]),
        ("repository:host:5000/a:pull", ["repository:host:5000/a:pull"]),
        ("aws", ["aws"]),
    ],
)
def test_scopes(text: str, written: list[str]) -> None:
    assert format_scopes(parse_scopes(text)) == written
    assert parse_scopes(" ".join(written)) == parse_scopes(text)
