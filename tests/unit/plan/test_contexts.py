"""--build-context: names that stand for stages and images."""

from imgbuild.plan.model import BaseImage, ContextSource, CopyStep, ImageSource, StageBase
from tests.unit.plan.planning import Images, error, image, plan, target


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


def test_a_directory_cannot_be_built_on_yet() -> None:
    only = frozenset({"base"})
    options = {"contexts": only, "directory_contexts": only}
    for text in ("FROM base\n", "FROM scratch AS base\nFROM base\n"):
        found = error(text, **options)
        assert "FROM base with a directory as its build context is not supported" in found.message
        assert found.span is not None
    assert "is not supported yet" in error("FROM scratch AS base\n", **options).message


def test_reserved_names_are_never_contexts() -> None:
    contexts = frozenset({"scratch", "context"})
    images = Images({"context": image("context")})
    assert target("FROM scratch\n", images, contexts=contexts).title is None
    assert images.asked == []


def test_odd_context_names_do_no_harm() -> None:
    assert plan("FROM scratch AS a\n", contexts=frozenset({"", "A B", "é", "x@y"})).stages
