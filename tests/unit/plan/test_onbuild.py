"""ONBUILD: triggers of a base run in the stage built on it, once."""

import pytest

from imgbuild.errors import Span
from imgbuild.oci.config import RunConfig
from imgbuild.plan.model import CopyStep, ImageSource, RunStep, StageSource
from tests.unit.plan.planning import Images, error, history, image, names, plan, target


def base(*triggers: str) -> dict[str, object]:
    run = RunConfig(env=(("PATH", "/bin"),), on_build=triggers)
    return {"b": image("b", run)}


def test_triggers_of_an_image_come_first() -> None:
    built = plan("FROM b\nLABEL z=1\nRUN own\n", base("ARG OB=1", "run echo $OB", "COPY a /ob/"))
    stage = built.stages[-1]
    assert history(stage) == [
        "ARG OB=1",
        "RUN |1 OB=1 /bin/sh -c echo $OB # buildkit",
        "COPY a /ob/ # buildkit",
        "LABEL z=1",
        "RUN |1 OB=1 /bin/sh -c own # buildkit",
    ]
    assert names(built)[1:] == [
        "[2/5] ONBUILD RUN echo 1",
        "[3/5] ONBUILD COPY a /ob/",
        "[4/5] RUN own",
    ]
    assert {step.span for step in stage.steps[:3]} == {Span("Dockerfile", 1, 1)}
    assert stage.config.run.on_build == ()


def test_triggers_of_a_stage_run_in_its_children_not_grandchildren() -> None:
    built = plan("FROM debian AS a\nONBUILD RUN x\nFROM a AS b\nFROM b\n")
    assert [len(stage.steps) for stage in built.stages] == [0, 1, 0]
    assert built.stages[0].config.run.on_build == ("RUN x",)
    assert built.stages[1].config.run.on_build == ()


def test_a_trigger_may_need_another_stage() -> None:
    text = "FROM debian AS other\nFROM debian AS unused\nFROM b\n"
    built = plan(text, base("COPY --from=other /x /y"))
    assert [stage.index for stage in built.stages] == [0, 2]
    step = built.stages[-1].steps[0]
    assert isinstance(step, CopyStep)
    assert step.source == StageSource(0)


def test_a_trigger_may_need_another_image_and_chain() -> None:
    images = Images({**base("COPY --from=c /x /y"), "c": image("c")})  # type: ignore[dict-item]
    step = plan("FROM b\n", images).stages[0].steps[0]
    assert isinstance(step, CopyStep)
    assert isinstance(step.source, ImageSource)
    assert images.asked == [("b", "linux/amd64"), ("c", "linux/amd64")]


def test_triggers_that_add_stages_which_have_triggers() -> None:
    text = """\
        FROM debian AS one
        ONBUILD RUN first
        FROM one AS two
        FROM debian AS three
        ONBUILD COPY --from=two /x /y
        FROM three
        """
    built = plan(text)
    assert [stage.index for stage in built.stages] == [0, 1, 2, 3]
    assert isinstance(built.stages[1].steps[0], RunStep)


def test_a_trigger_cannot_copy_from_a_later_stage() -> None:
    found = error("FROM b AS a\nFROM debian AS later\nFROM a\n", base("COPY --from=later x x"))
    assert "it needs to be defined before" in found.message
    assert found.span == Span("Dockerfile", 1, 1)


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        ("FROM debian", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("MAINTAINER me", "MAINTAINER isn't allowed as an ONBUILD trigger"),
        ("RUN x\nRUN y", "onbuild trigger should be a single expression"),
        ("# nothing", "onbuild trigger should be a single expression"),
        ("", "onbuild trigger should be a single expression"),
        ("NONSENSE x", "unknown instruction: NONSENSE"),
        ("COPY x", "COPY requires at least two arguments"),
        ("RUN --mount=type=tmpfs,target=/ y", 'invalid mount target "/"'),
        ("COPY --from=9 a b", "invalid stage index 9"),
        ("USER ${", "missing '}'"),
    ],
)
def test_malformed_triggers_are_told_at_the_from(trigger: str, message: str) -> None:
    found = error("ARG A\nFROM b\n", base(trigger))
    assert message in found.message
    assert found.span == Span("Dockerfile", 2, 2)


def test_triggers_do_not_use_the_escape_of_this_file() -> None:
    stage = target("# escape=`\nFROM b\n", base("RUN a \\\n  b"))
    run = stage.steps[0]
    assert isinstance(run, RunStep)
    assert run.argv[-1] == "a   b"
