"""One stage, from its base down: instructions to steps, with the config they fold into."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol, assert_never

from imgbuild.dockerfile.instructions import Add, Arg, Copy, Run, Workdir
from imgbuild.errors import DockerfileError, ImgbuildError
from imgbuild.oci.config import HistoryEntry
from imgbuild.oci.reference import parse_reference
from imgbuild.options import NetworkMode
from imgbuild.plan.copying import copy_tree, plan_copy
from imgbuild.plan.entitlements import devices_of, network_of, security_of
from imgbuild.plan.fold import Config
from imgbuild.plan.graph import Item, Node
from imgbuild.plan.heredocs import shell_text
from imgbuild.plan.model import (
    Base,
    BaseImage,
    ContextSource,
    CopyStep,
    MetaStep,
    RunStep,
    ScratchBase,
    Source,
    Stage,
    StageBase,
    Step,
    WorkdirStep,
)
from imgbuild.plan.options import PlanOptions
from imgbuild.plan.paths import clean, join_workdir
from imgbuild.plan.place import located
from imgbuild.plan.runmounts import NAMESPACE, Mounts, Place, plan_mounts
from imgbuild.plan.scope import Scope
from imgbuild.plan.titles import Counter, upper_first_word, written
from imgbuild.plan.watch import Watch


class Text(NamedTuple):
    """The Dockerfile as it is shown in names of steps and in errors."""

    source: str
    lines: Sequence[str]
    escape: str


class Sources(Protocol):
    """Tells what COPY --from means, or the `from` of something else: `use` is how it is written."""

    def __call__(self, name: str, node: Node, use: str = "COPY --from=") -> Source: ...


class StageWork:
    """A stage while it is planned."""

    def __init__(
        self,
        node: Node,
        base: Base,
        config: Config,
        scope: Scope,
        options: PlanOptions,
        watch: Watch,
    ) -> None:
        self._node = node
        self._base = base
        self._config = config
        self._scope = scope
        self._network: NetworkMode = options.network
        self._allow = options.allow
        self._namespace = options.build_args.get(NAMESPACE, "")
        self._contexts = options.contexts
        self._watch = watch
        self._counter = Counter(node.label, node.total)
        if config.working_dir:
            config.working_dir = join_workdir("/", config.working_dir)
        scope.values.update(config.env)

    def plan(self, text: Text, find_source: Sources) -> Stage:
        """Plan all instructions of the stage; raise `DockerfileError` with the place."""
        node = self._node
        title = self._title()
        steps: list[Step] = []
        if node.tree is not None and not self._watch.dry:
            steps.append(copy_tree(node.tree, node.span, self._counter.title(f"FROM {node.tree}")))
        for item in node.items:
            try:
                step = self._step(item, text, find_source)
            except ImgbuildError as error:
                raise located(error, item.instruction.span, text.source) from None
            if step is not None:
                steps.append(step)
        return Stage(
            index=node.index,
            name=node.text.from_.name or "",
            span=node.span,
            base=self._base,
            title=title,
            steps=tuple(steps),
            config=self._config.finished(),
            base_history=self._base_history(),
        )

    def _title(self) -> str | None:
        image = self._base
        if not isinstance(image, BaseImage):
            return None
        if not image.layers and all(entry.empty_layer for entry in image.config.history):
            return None
        name = image.name
        if name not in self._contexts:
            name = str(parse_reference(name))
        if image.digest is not None and "@" not in name:
            name = f"{name}@{image.digest}"
        return self._counter.title(f"FROM {name}")

    def _base_history(self) -> tuple[HistoryEntry, ...]:
        match self._base:
            case BaseImage(config=config):
                return config.history
            case ScratchBase() | StageBase():
                return ()
            case _:
                assert_never(self._base)

    def _step(self, item: Item, text: Text, find_source: Sources) -> Step | None:
        instruction = item.instruction
        self._watch.item(item, self._scope)
        if self._watch.dry and isinstance(instruction, Run | Copy | Add):
            # For its errors: what it says may be wrong.
            if isinstance(instruction, Run):
                self._mounts(instruction, find_source)
            else:
                self._copy(instruction, "", find_source)
            return None
        match instruction:
            case Arg():
                return MetaStep(instruction.span, self._scope.declare(instruction))
            case Run():
                return self._run(instruction, item, text, find_source)
            case Copy() | Add():
                return self._copy(instruction, self._name(item, text), find_source)
            case Workdir():
                return self._workdir(instruction, item, text)
            case _:
                line = self._config.fold(instruction, self._scope)
                return None if line is None else MetaStep(instruction.span, line)

    def _name(self, item: Item, text: Text, summary: str = "") -> str:
        shown = item.trigger or written(text.lines, item.instruction.span, text.escape)
        if summary:
            shown = f"{shown} ({summary})"
        if isinstance(item.instruction, Run):
            shown = self._scope.shown_raw(shown)
        else:
            shown = self._scope.shown(shown)
        shown = upper_first_word(shown)
        return self._counter.title(f"ONBUILD {shown}" if item.trigger else shown)

    def _run(self, run: Run, item: Item, text: Text, find_source: Sources) -> RunStep:
        mounts = self._mounts(run, find_source)
        command, script, summary = shell_text(run.command)
        name = self._name(item, text, summary)
        argv = self._config.command_line(command)
        if not argv or not argv[0]:
            raise DockerfileError("RUN has no command", hint='write RUN ["program", "argument"]')
        values = self._scope.values
        return RunStep(
            span=run.span,
            name=name,
            created_by=" ".join(("RUN", *self._scope.arguments_text(), *argv, "# buildkit")),
            argv=argv,
            env=tuple({**values, **mounts.env}.items()),
            hidden_env=tuple(pair for pair in self._scope.hidden if pair[0] not in values),
            cwd=clean(self._config.working_dir),
            user=self._config.user,
            network=network_of(run, self._network, self._allow),
            script=script,
            security=security_of(run, self._allow),
            devices=devices_of(run, self._scope, self._allow),
            mounts=mounts.planned,
        )

    def _mounts(self, run: Run, find_source: Sources) -> Mounts:
        place = Place(self._config.working_dir, self._namespace)
        find = partial(find_source, node=self._node, use="RUN --mount=from=")
        return plan_mounts(run, self._scope, place, find)

    def _copy(self, instruction: Copy | Add, name: str, find_source: Sources) -> CopyStep:
        source: Source = ContextSource()
        if isinstance(instruction, Copy) and instruction.from_:
            source = find_source(instruction.from_, self._node)
        return plan_copy(instruction, self._scope, self._config.working_dir, source, name)

    def _workdir(self, workdir: Workdir, item: Item, text: Text) -> Step:
        path = join_workdir(self._config.working_dir, self._scope.expand(workdir.path))
        self._config.working_dir = path
        created_by = f"WORKDIR {path}"
        if clean(path) == "/":
            return MetaStep(workdir.span, created_by)
        name = self._name(item, text)
        return WorkdirStep(workdir.span, name, created_by, clean(path), self._config.user)
