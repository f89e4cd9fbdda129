"""Build arguments that nothing declares are found, and nothing else is."""

from dataclasses import replace

import pytest

from imgbuild.dockerfile.parse import parse
from imgbuild.oci.config import RunConfig
from imgbuild.plan.unused import unused_arguments
from tests.unit.plan.planning import image, plan


def unused(text: str, *given: str, on_build: tuple[str, ...] = ()) -> list[str]:
    base = image("debian", replace(RunConfig(), on_build=on_build))
    return unused_arguments(given, parse(text), plan(text, {"debian": base}))


def test_what_an_arg_declares_is_used() -> None:
    text = """\
ARG TOP FIRST=1
FROM debian AS other
ARG OTHER
FROM debian
ARG A=1 B
ONBUILD ARG LATER=x
"""
    assert unused(text, "A", "B", "TOP", "FIRST", "OTHER", "LATER") == []
    assert unused(text, "UNHEARD", "other") == ["UNHEARD", "other"]
    assert unused(text, "OTHR") == ["OTHR (did you mean OTHER?)"]


@pytest.mark.parametrize(
    "name",
    ["HTTP_PROXY", "no_proxy", "SOURCE_DATE_EPOCH", "BUILDKIT_INLINE_CACHE", "TARGETARCH",
     "BUILDPLATFORM"],
)  # fmt: skip
def test_predefined_arguments_need_no_arg(name: str) -> None:
    assert unused("FROM debian\n", name) == []


def test_triggers_of_the_base_declare_arguments() -> None:
    triggers = ("arg  FROM_BASE=1", "RUN echo $RUN", "")[:2]
    assert unused("FROM debian\n", "FROM_BASE", "RUN", on_build=triggers) == ["RUN"]
