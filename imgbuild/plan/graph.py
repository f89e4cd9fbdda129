"""The stages of a Dockerfile: their names and bases, and who copies from whom.

Nothing is resolved and no instruction is expanded here but FROM.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from imgbuild.dockerfile.instructions import (
    Add,
    Copy,
    Dockerfile,
    Run,
    StageInstruction,
    StageText,
    Workdir,
)
from imgbuild.dockerfile.mounts import mount_from
from imgbuild.dockerfile.suggest import did_you_mean
from imgbuild.dockerfile.words import expand
from imgbuild.errors import DockerfileError, ImgbuildError, Span, UsageError
from imgbuild.oci.platform import Platform, parse_platform
from imgbuild.plan.names import ContextNames
from imgbuild.plan.options import PlanOptions
from imgbuild.plan.place import located
from imgbuild.plan.scope import Arguments

SCRATCH = "scratch"
_INDEX = re.compile(r"[+-]?[0-9]{1,9}")
# Instructions that show as a step of their own.
_STEPS = (Run, Copy, Add, Workdir)


class Item(NamedTuple):
    """An instruction of a stage; `trigger` is the text of what an ONBUILD of the base brought."""

    instruction: StageInstruction
    trigger: str = ""


class From(NamedTuple):
    """Where a COPY or a mount takes its files from: a stage, or else a name that is none."""

    stage: int | None
    name: str = ""


class Node:
    """One stage: `base` is the number of the stage it builds on, else `image` names its base.

    `context` is the named context that takes the stage's place. `sources` are the stages it
    copies from, each with the first instruction that does; `tree` is the context whose files the stage
    starts with. `label` is its name in progress output.
    """

    __slots__ = (
        "base",
        "context",
        "image",
        "index",
        "items",
        "label",
        "platform",
        "sources",
        "span",
        "text",
        "total",
        "tree",
    )

    def __init__(self, index: int, text: StageText, image: str, platform: Platform) -> None:
        self.index = index
        self.text = text
        self.span = text.from_.span
        self.image = image
        self.platform = platform
        self.base: int | None = None
        self.context: str | None = None
        self.label = text.from_.name or f"stage-{index}"
        self.items = [Item(instruction) for instruction in text.instructions]
        self.sources: dict[int, Span] = {}
        self.total = 0
        self.tree: str | None = None

    def needs(self) -> Iterator[int]:
        """The stages this one is built from."""
        if self.context is None:
            if self.base is not None:
                yield self.base
            yield from self.sources

    def add_triggers(self, items: Iterable[Item]) -> None:
        """Put the triggers of the base before the stage's own instructions."""
        added = list(items)
        self.items[:0] = added
        self.total += len(added)


class Graph:
    """All stages of a Dockerfile, in its order."""

    def __init__(
        self,
        dockerfile: Dockerfile,
        arguments: Arguments,
        options: PlanOptions,
        contexts: ContextNames,
    ) -> None:
        self._contexts = contexts
        self._by_name: dict[str, int] = {}
        self._foreign = False
        self.nodes: list[Node] = []
        for index, text in enumerate(dockerfile.stages):
            try:
                self._add(index, text, arguments, options)
            except ImgbuildError as error:
                raise located(error, text.from_.span, dockerfile.source) from None

    def _add(self, index: int, text: StageText, arguments: Arguments, options: PlanOptions) -> None:
        image = arguments.expand(text.from_.image)
        if not image:
            raise DockerfileError(
                f"base name ({text.from_.image}) should not be blank",
                hint="declare the variable with ARG before the first FROM, and give it a value",
            )
        platform = _platform(text.from_.platform, arguments, options)
        node = Node(index, text, image, platform)
        self.nodes.append(node)
        name = text.from_.name
        if name is not None:
            node.context = self._contexts.find(name, platform)
        if node.context is None:
            node.base = self._by_name.get(image)
            own = sum(isinstance(item, _STEPS) for item in text.instructions)
            node.total = own + (image != SCRATCH and node.base is None)
        else:
            node.items, node.total = [], 1
        if name is not None:
            self._by_name[name.lower()] = index

    def find(self, name: str) -> From:
        """Tell what COPY --from=`name` means; raise `DockerfileError` in BuildKit's words."""
        if expand(name, lambda _: None).text != name:
            raise DockerfileError(
                "variable expansion is not supported for --from, define a new stage with FROM"
                " using ARG from global scope as a workaround",
                hint=f"write FROM {name} AS files, and COPY --from=files",
            )
        if _INDEX.fullmatch(name):
            index = int(name)
            if not 0 <= index < len(self.nodes):
                last = len(self.nodes) - 1
                raise DockerfileError(
                    f"invalid stage index {index}",
                    hint=f"stages are numbered 0 to {last}" if last else "the only stage is 0",
                )
            return From(index)
        return From(self._by_name.get(name.lower()), name)

    def target(self, name: str | None) -> Node:
        """Return the stage to build: the last one, or that named `name`."""
        if not name:
            return self.nodes[-1]
        index = self._by_name.get(name.lower())
        if index is None:
            guess = did_you_mean(name, (node.label for node in self.nodes))
            named = ", ".join(self._by_name)
            raise DockerfileError(
                f'target stage "{name}" could not be found{guess}',
                hint=f"the named stages are {named}"
                if named
                else "no stage has a name (FROM … AS)",
            )
        return self.nodes[index]

    def connect(self, node: Node, items: Iterable[Item], text: str) -> None:
        """Note which stages the instructions among `items` of `node` take files from.

        `text` is the Dockerfile, for errors.
        """
        for item in items:
            span = item.instruction.span
            for name in _taken_from(item.instruction):
                try:
                    source = self.find(name)
                except ImgbuildError as error:
                    raise located(error, span, text) from None
                if source.stage is None:
                    self._foreign = True
                else:
                    node.sources.setdefault(source.stage, span)

    def settle_labels(self) -> None:
        """Drop the label of a stage that is the only one: its steps show as `[1/2]`."""
        # What COPY --from names outside the Dockerfile counts as a stage of its own in BuildKit, and
        # so does a mount that names nothing.
        if len(self.nodes) == 1 and not self._foreign:
            self.nodes[0].label = ""


def _taken_from(instruction: StageInstruction) -> Iterator[str]:
    """Yield the names of what an instruction takes files from."""
    if isinstance(instruction, Copy) and instruction.from_:
        yield instruction.from_
    elif isinstance(instruction, Run):
        yield from (mount_from(text) or SCRATCH for text in instruction.mounts)


def _platform(text: str | None, arguments: Arguments, options: PlanOptions) -> Platform:
    if not text:
        return options.platform
    name = arguments.expand(text)
    if not name:
        found = expand(text, arguments.globals.get, arguments.escape)
        guesses = (did_you_mean(word, arguments.globals) for word in sorted(found.unknown))
        guess = next(filter(None, guesses), "")
        raise DockerfileError(
            f"empty platform value from expression {text}{guess}",
            hint="declare the variable with ARG before the first FROM, or use $BUILDPLATFORM",
        )
    try:
        return parse_platform(name, options.build_platform)
    except UsageError as error:
        raise DockerfileError(
            f"failed to parse platform {text}: {error.message}", hint=error.hint
        ) from None
