"""Which language a text is in: the frontends that are this one, and the error for all others."""

import pytest

from imgbuild.dockerfile.frontend import is_own, refuse_foreign_frontend
from imgbuild.errors import DockerfileError, Span


@pytest.mark.parametrize(
    "value",
    [
        "",
        "dockerfile.v0",
        "docker/dockerfile",
        "docker/dockerfile:1.7-labs some arguments",
        "docker.io/docker/dockerfile:1@sha256:" + "0" * 64,
        "docker/dockerfile-upstream:master",
        "registry.example:5000/mirror/docker/dockerfile:1",
    ],
)
def test_own(value: str) -> None:
    assert is_own(value)


@pytest.mark.parametrize(
    "value",
    ["dockerfile", "mydocker/dockerfile", "docker/dockerfile-x", "docker/dockerfile/x", "a:5/b"],
)
def test_foreign(value: str) -> None:
    assert not is_own(value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# syntax=a/b\nversion: 1\n", 1),
        ("#!/usr/bin/env x\n# syntax=a/b\n", 2),
        ("// check=skip=all\n// syntax=a/b\n", 2),
        ('{"syntax": "a/b"}', 1),
        ("\ufeff# escape=`\n# syntax = a/b args\nFROM x\n", 2),
    ],
)
def test_a_text_in_another_language_is_told_by_its_line(text: str, line: int) -> None:
    with pytest.raises(DockerfileError, match="the frontend a/b cannot be used") as caught:
        refuse_foreign_frontend(text.encode(), "D")
    assert caught.value.span == Span("D", line, line)
    assert caught.value.source == text.removeprefix("\ufeff")
    refuse_foreign_frontend(text, "D", "docker/dockerfile:1")


def test_the_build_argument_wins() -> None:
    with pytest.raises(DockerfileError, match="c/d") as caught:
        refuse_foreign_frontend("# syntax=docker/dockerfile:1\n", "D", "c/d:1")
    assert caught.value.span is None
    assert "BUILDKIT_SYNTAX" in (caught.value.hint or "")
