"""ONBUILD: the triggers of a base, made into instructions of the stage that builds on it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from imgbuild.dockerfile.instructions import Maintainer, OnBuild, StageInstruction
from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError, Span
from imgbuild.plan.graph import Item
from imgbuild.plan.titles import written


def expand_triggers(triggers: Iterable[str], span: Span) -> Iterator[Item]:
    """Parse `triggers`; what they do is said to happen at `span`, the FROM.

    Raises `DockerfileError`: a base may hold any text.
    """
    for text in triggers:
        try:
            instruction, shown = _parse(text)
        except DockerfileError as error:
            raise DockerfileError(
                f"ONBUILD trigger of the base: {error.message}",
                hint=error.hint or f"the base asks for: {text}",
                span=span,
            ) from None
        yield Item(replace(instruction, span=span), shown)


def _parse(text: str) -> tuple[StageInstruction, str]:
    # A parser directive in a trigger would be read at the top of a file only.
    dockerfile = parse(f"FROM scratch\n{text}", "ONBUILD")
    if len(dockerfile.stages) != 1:
        raise DockerfileError("FROM isn't allowed as an ONBUILD trigger")
    instructions = dockerfile.stages[0].instructions
    if len(instructions) != 1:
        raise DockerfileError("onbuild trigger should be a single expression")
    instruction = instructions[0]
    if isinstance(instruction, OnBuild):
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if isinstance(instruction, Maintainer):
        raise DockerfileError("MAINTAINER isn't allowed as an ONBUILD trigger")
    lines = dockerfile.source.split("\n")
    return instruction, written(lines, instruction.span, dockerfile.escape)
