"""--build-context: names that stand for stages and images."""

from imgbuild.plan.model import (
    BaseImage,
    ContextSource,
    CopyStep,
    ImageSource,
    ScratchBase,
    StageBase,
)
from tests.unit.plan.planning import Images, image, plan, target


def sources(text: str, images: Images, **options: object) -> list[object]:
    steps = target(text, images, **options).steps
    return [step.source for step in steps if isinstance(step, CopyStep)]


def test_a_context_replaces_an_image_however_it_is_spelled() -> None:
    contexts = frozenset({"debian:bookworm-slim", "tool"})
    images = Images({name: image("x") for name in contexts})
    text = """\
        FROM docker.io/library/debian:bookworm-slim
        COPY --from=tool:latest /x /x
        """
    plan(text, images, contexts=contexts)
    assert [name for name, _ in images.asked] == ["debian:bookworm-slim", "tool"]


def test_a_context_of_another_tag_is_another_image() -> None:
    images = Images()
    plan("FROM debian\n", images, contexts=frozenset({"debian:12"}))
    assert [name for name, _ in images.asked] == ["debian"]


def test_unused_contexts_are_never_resolved() -> None:
    images = Images()
    plan("FROM scratch\n", images, contexts=frozenset({"a", "b"}))
    assert images.asked == []


def test_a_context_replaces_a_stage_and_what_it_needs() -> None:
    images = Images({"base": image("ctx")})
    text = "FROM nowhere AS early\nFROM early AS Base\nRUN x\nFROM base\nCOPY --from=base a b\n"
    built = plan(text, images, contexts=frozenset({"base"}))
    assert [name for name, _ in images.asked] == ["base"]
    assert [stage.index for stage in built.stages] == [1, 2]
    assert isinstance(built.stages[0].base, BaseImage)
    assert built.stages[0].steps == ()
    assert built.stages[1].base == StageBase(1)
    step = built.stages[1].steps[0]
    assert isinstance(step, CopyStep)
    assert isinstance(step.source, ImageSource)


def test_a_directory_replaces_a_stage_or_an_image_to_copy_from() -> None:
    both = frozenset({"base", "tool"})
    text = "FROM nowhere AS base\nFROM scratch\nCOPY --from=base a b\nCOPY --from=tool a b\n"
    images = Images()
    found = sources(text, images, contexts=both, directory_contexts=both)
    assert found == [ContextSource("base"), ContextSource("tool")]
    assert images.asked == []


def test_from_a_tree_makes_an_image_of_its_files() -> None:
    only = frozenset({"base"})
    built = plan("FROM base\nENV a=b\nCOPY x y\n", contexts=only, directory_contexts=only)
    (stage,) = built.stages
    assert stage.base == ScratchBase()
    first, second = (step for step in stage.steps if isinstance(step, CopyStep))
    assert (first.source, first.sources, first.dest) == (ContextSource("base"), ("",), "/")
    assert (first.name, second.name) == ("[1/2] FROM base", "[2/2] COPY x y")
    assert stage.config.run.working_dir == "/"


def test_from_a_stage_that_a_tree_replaces() -> None:
    only = frozenset({"base"})
    options = {"contexts": only, "directory_contexts": only}
    text = "FROM nowhere AS base\nRUN x\nFROM base\nCOPY --from=base a b\n"
    built = plan(text, **options)
    assert [len(stage.steps) for stage in built.stages] == [1, 1]
    assert built.stages[1].base == StageBase(0)
    assert sources(text, Images(), **options) == [ContextSource("base")]
    # Copied from alone, it is no stage; as the target it is.
    alone = plan("FROM nowhere AS base\nFROM scratch\nCOPY --from=base a b\n", **options)
    assert [stage.index for stage in alone.stages] == [1]
    (stage,) = plan("FROM nowhere AS base\n", **options).stages
    assert [step.source for step in stage.steps if isinstance(step, CopyStep)] == [
        ContextSource("base")
    ]


def test_a_context_for_one_platform() -> None:
    names = frozenset({"debian", "debian::linux/arm64", "tool::linux/aarch64"})
    images = Images({name: image("x") for name in names} | {"tool": image("y")})
    text = "FROM --platform={} debian\nCOPY --from=tool x x\n"
    plan(text.format("linux/arm64"), images, contexts=names)
    plan(text.format("linux/amd64"), images, contexts=names)
    assert [name for name, _ in images.asked] == [
        "debian::linux/arm64", "tool", "debian", "tool"
    ]  # fmt: skip
    images = Images({"tool::linux/aarch64": image("x")})
    plan("FROM --platform=linux/arm64 tool\n", images, contexts=names)
    assert [name for name, _ in images.asked] == ["tool::linux/aarch64"]


def test_reserved_names_are_never_contexts() -> None:
    contexts = frozenset({"scratch", "context"})
    images = Images({"context": image("context")})
    assert target("FROM scratch\n", images, contexts=contexts).title is None
    assert images.asked == []


def test_odd_context_names_do_no_harm() -> None:
    assert plan("FROM scratch AS a\n", contexts=frozenset({"", "A B", "é", "x@y"})).stages
