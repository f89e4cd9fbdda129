"""Outlines and targets: what is listed for which target, with which value."""

import json
import textwrap
import unicodedata
from typing import Any

import pytest

from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError, Span
from imgbuild.oci.config import RunConfig
from imgbuild.plan.calls import Outline, OutlineWatch, Target, list_targets
from imgbuild.plan.calls_json import targets_json
from imgbuild.plan.planner import PlanOptions, make_plan
from tests.unit.plan.planning import HOST, Images, image


def outline(text: str, **options: Any) -> Outline:
    watch = OutlineWatch()
    images = {"debian": image("debian", RunConfig(env=(("BASE", "of the base"),)))}
    settled = PlanOptions(**{"platform": HOST, "build_platform": HOST, **options})
    plan = make_plan(parse(textwrap.dedent(text)), settled, Images(images), watch)
    return watch.outline(plan, text.encode())


def args(found: Outline) -> list[tuple[str, str, int]]:
    return [(arg.name, arg.value, arg.span.first) for arg in found.args]


def test_global_arguments_are_listed_where_they_are_used() -> None:
    text = """\
        ARG unused=1
        ARG version=12
        ARG tag=v${version}
        ARG image=debian
        ARG handed=on
        FROM $image
        ARG handed
        ARG own=a
        LABEL tag=$tag
        """
    assert args(outline(text)) == [("image", "debian", 4), ("handed", "on", 5), ("own", "a", 8)]


def test_arguments_of_arguments_are_used_too() -> None:
    text = "ARG name=deb\nARG image=${name}ian\nFROM $image\n"
    assert args(outline(text)) == [("name", "deb", 1), ("image", "debian", 2)]


def test_an_argument_may_mention_itself() -> None:
    text = "ARG n=deb\nARG image=${n}\nARG image=${image}ian\nFROM $image\n"
    assert args(outline(text)) == [("n", "deb", 1), ("image", "debian", 3)]


def test_values_are_what_the_build_would_see() -> None:
    text = "FROM debian\nARG a=$BASE b=${a}x\nARG c\nARG d=1\n"
    found = outline(text, build_args={"d": "given"})
    assert args(found) == [
        ("a", "of the base", 2),
        ("b", "of the basex", 2),
        ("c", "", 3),
        ("d", "given", 4),
    ]


def test_only_what_the_target_needs_is_listed() -> None:
    text = """\
        FROM scratch AS base
        ARG of_base=1
        RUN --mount=type=secret,target=/run/token x
        FROM scratch AS other
        ARG of_other=1
        # app is it
        FROM base AS app
        COPY --from=2 / /x
        FROM scratch AS files
        ARG of_files=1
        RUN --mount=type=ssh,required x
        """
    text = text.replace("--from=2 ", "--from=base ")
    found = outline(text, target="app")
    assert (found.name, found.description) == ("app", "is it")
    assert args(found) == [("of_base", "1", 2)]
    assert [(each.name, each.required) for each in found.secrets] == [("token", False)]
    assert found.ssh == ()
    assert [(each.name, each.required) for each in outline(text).ssh] == [("default", True)]


def test_names_of_secrets_are_expanded() -> None:
    text = "FROM scratch\nARG who=me\nRUN --mount=type=secret,id=key-$who,required=false x\n"
    assert [(each.name, each.required) for each in outline(text).secrets] == [("key-me", False)]


def test_an_outline_ends_in_the_error_of_the_build() -> None:
    with pytest.raises(DockerfileError, match="target stage"):
        outline("FROM scratch\n", target="nothing")


def test_targets() -> None:
    text = "# a first\nFROM scratch AS a\nFROM --platform=$BUILDPLATFORM a\n"
    found = list_targets(parse(text), text.encode())
    assert list(found) == [
        Target("a", "first", False, "scratch", "", Span("Dockerfile", 2, 2)),
        Target("", "", True, "a", "$BUILDPLATFORM", Span("Dockerfile", 3, 3)),
    ]
    assert len(found) == 2


def test_bytes_of_any_kind_survive_in_json() -> None:
    data = b"FROM scratch\nLABEL a=\xff\n"
    assert "RlJPTSBzY3JhdGNoCkxBQkVMIGE9/wo=" in targets_json(list_targets(parse(data), data))


def test_json_has_no_control_characters() -> None:
    data = "# all \x1b[31m\x7f\x9b31m\u00e9\nFROM scratch AS all\n".encode()
    text = targets_json(list_targets(parse(data), data))
    assert not [char for char in text if char != "\n" and unicodedata.category(char) == "Cc"]
    assert json.loads(text)["targets"][0]["description"] == "\x1b[31m\x7f\x9b31m\u00e9"
