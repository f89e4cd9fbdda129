"""Questions about a Dockerfile that need no build: its targets, the outline of one, what checks find.

Source of the rules: BuildKit's frontend/subrequests and dockerfile2llb/outline.go.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from imgbuild.dockerfile.instructions import Arg, Dockerfile, Run
from imgbuild.dockerfile.mounts import parse_mount
from imgbuild.dockerfile.words import expand
from imgbuild.errors import ImgbuildError, Span
from imgbuild.events import CheckWarning
from imgbuild.oci.config import ImageConfig
from imgbuild.plan.graph import Item, Node
from imgbuild.plan.model import BaseImage, BuildPlan
from imgbuild.plan.options import PlanOptions
from imgbuild.plan.runmounts import secret_id
from imgbuild.plan.scope import Arguments, Scope

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What the build checks say of a Dockerfile, in the order in which it was found.

    `error` is what would stop a build before its first step. `file` is the Dockerfile's name, `path`
    where it is (its name, when it came from standard input), and `source` its bytes, which the spans
    point into.
    """

    warnings: tuple[CheckWarning, ...]
    error: ImgbuildError | None
    file: str
    path: str
    source: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        return not self.warnings and self.error is None


@dataclass(frozen=True, slots=True)
class Target:
    """A stage that can be built: `base` and `platform` are as FROM has them; `name` may be empty."""

    name: str
    description: str
    default: bool
    base: str
    platform: str
    span: Span


@dataclass(frozen=True, slots=True)
class Targets:
    """All stages, in the order of the Dockerfile, whose bytes are `source`; iterates over them."""

    stages: tuple[Target, ...]
    source: bytes = field(repr=False)

    def __iter__(self) -> Iterator[Target]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)


@dataclass(frozen=True, slots=True)
class OutlineArg:
    """A build argument that a target uses; `value` is what it would have now, "" for nothing."""

    name: str
    description: str
    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class OutlineMount:
    """A secret, or a socket of an SSH agent, that a RUN of a target mounts."""

    name: str
    required: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Outline:
    """What can be given to the build of one target, by line of the Dockerfile."""

    name: str
    description: str
    args: tuple[OutlineArg, ...]
    secrets: tuple[OutlineMount, ...]
    ssh: tuple[OutlineMount, ...]
    source: bytes = field(repr=False)


def list_targets(dockerfile: Dockerfile, source: bytes) -> Targets:
    """Return the stages of `dockerfile`, which was read from `source`; the last one is the default."""
    last = len(dockerfile.stages) - 1
    stages = tuple(
        Target(
            name=stage.from_.name or "",
            description=stage.from_.comment,
            default=index == last,
            base=stage.from_.image,
            platform=stage.from_.platform or "",
            span=stage.from_.span,
        )
        for index, stage in enumerate(dockerfile.stages)
    )
    return Targets(stages, source)


class _Known(NamedTuple):
    """An argument and the names of those that its default mentions."""

    arg: OutlineArg
    needs: frozenset[str] = frozenset()


class _Uses(NamedTuple):
    """What one stage knows and uses."""

    node: Node
    known: dict[str, _Known]
    used: dict[str, None]
    secrets: dict[str, OutlineMount]
    ssh: dict[str, OutlineMount]


class OutlineWatch:
    """Watches a plan to make an outline of its target."""

    all_stages = False
    dry = True

    def __init__(self) -> None:
        self._globals: dict[str, _Known] = {}
        self._arguments = Arguments({}, {}, (), "\\")
        self._stages: dict[int, _Uses] = {}
        self._now: _Uses | None = None

    def begin(
        self,
        dockerfile: Dockerfile,
        _options: PlanOptions,
        arguments: Arguments,
        _predefined: Mapping[str, str],
    ) -> None:
        self._arguments = arguments
        for arg in dockerfile.global_args:
            for (name, default), comment in zip(arg.args, arg.comments, strict=True):
                value = arguments.globals.get(name, "")
                used = frozenset() if name in arguments.given else self._mentioned(default)
                if name in used:
                    used -= {name}
                    if (old := self._globals.get(name)) is not None:
                        used |= old.needs
                self._globals[name] = _Known(OutlineArg(name, comment, value, arg.span), used)

    def _mentioned(self, word: str | None) -> frozenset[str]:
        if not word:
            return frozenset()
        return expand(word, self._arguments.globals.get, self._arguments.escape).used

    def base(self, node: Node, image: BaseImage) -> None:
        pass

    def stage(self, node: Node, start: ImageConfig) -> None:  # noqa: ARG002  a watch is given both
        from_ = node.text.from_
        used = self._mentioned(from_.image) | self._mentioned(from_.platform)
        self._now = _Uses(node, dict(self._globals), dict.fromkeys(sorted(used)), {}, {})
        self._stages[node.index] = self._now

    def item(self, item: Item, scope: Scope) -> None:
        match item.instruction:
            case Arg() as arg:
                self._take_arg(arg, scope)
            case Run() as run:
                for mount in run.mounts:
                    self._take_mount(mount, run, scope)
            case _:
                pass

    def _take_arg(self, arg: Arg, scope: Scope) -> None:
        assert self._now is not None  # noqa: S101  a stage was begun
        values = dict(scope.values)
        given, inherited = self._arguments.given, self._arguments.globals
        for (name, default), comment in zip(arg.args, arg.comments, strict=True):
            self._now.used[name] = None
            value = given.get(name)
            if value is None and default is not None:
                value = expand(default, values.get, self._arguments.escape).text
            # One that only hands on a global argument is told of by that one.
            if value is not None or name not in inherited:
                self._now.known[name] = _Known(OutlineArg(name, comment, value or "", arg.span))
            value = inherited.get(name) if value is None else value
            if value is not None:
                values[name] = value

    def _take_mount(self, text: str, run: Run, scope: Scope) -> None:
        assert self._now is not None  # noqa: S101  a stage was begun
        mount = parse_mount(text, scope.expand)
        if mount.type in {"secret", "ssh"}:
            name = secret_id(mount)
            found = self._now.secrets if mount.type == "secret" else self._now.ssh
            found[name] = OutlineMount(name, mount.required, run.span)

    def outline(self, plan: BuildPlan, source: bytes) -> Outline:
        """Return the outline of the target of `plan`, which was watched; `source` is the Dockerfile."""
        target = self._stages.get(plan.target)
        stages = list(self._reached(plan.target))
        from_ = target.node.text.from_ if target else None
        return Outline(
            name=(from_.name or "") if from_ else "",
            description=from_.comment if from_ else "",
            args=_merged(stages, _arguments, lambda arg: arg.span.first),
            secrets=_merged(stages, lambda uses: uses.secrets, lambda item: item.span.first),
            ssh=_merged(stages, lambda uses: uses.ssh, lambda item: item.span.first),
            source=source,
        )

    def _reached(self, index: int) -> Iterator[_Uses]:
        """Yield a stage, then what it builds on, then what it copies from; each once."""
        seen: set[int] = set()
        waiting = [index]
        while waiting:
            number = waiting.pop()
            uses = self._stages.get(number)
            if number in seen or uses is None:
                continue
            seen.add(number)
            yield uses
            waiting.extend(reversed(list(uses.node.needs())))


def _arguments(uses: _Uses) -> dict[str, OutlineArg]:
    found: dict[str, OutlineArg] = {}
    waiting = list(uses.used)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop(0)
        known = uses.known.get(name)
        if name in seen or known is None:
            continue
        seen.add(name)
        found[name] = known.arg
        waiting += sorted(known.needs)
    return found


def _merged(
    stages: list[_Uses], part: Callable[[_Uses], Mapping[str, T]], line: Callable[[T], int]
) -> tuple[T, ...]:
    """Collect by name what the stages have, the nearest stage's first, in the order of lines."""
    found: dict[str, T] = {}
    for uses in stages:
        for name, item in part(uses).items():
            found.setdefault(name, item)
    return tuple(sorted(found.values(), key=line))
