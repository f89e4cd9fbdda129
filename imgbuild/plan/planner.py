"""Instructions to a build plan: every word expanded, every config folded, stages pruned and ordered.

Pure: images are resolved by a function that is given; nothing is fetched, read or run here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from imgbuild.dockerfile.frontend import ARGUMENT as BUILDKIT_SYNTAX
from imgbuild.dockerfile.frontend import refuse_foreign_frontend
from imgbuild.dockerfile.instructions import Dockerfile, OnBuild
from imgbuild.dockerfile.quoting import quote
from imgbuild.errors import DockerfileError, ImgbuildError, RegistryError, UsageError
from imgbuild.oci.config import ImageConfig
from imgbuild.oci.platform import Platform
from imgbuild.oci.reference import parse_reference
from imgbuild.plan.epoch import NO_TIMES, Times, settle_epoch
from imgbuild.plan.fold import Config, scratch_config
from imgbuild.plan.graph import SCRATCH, Graph, Node
from imgbuild.plan.missing import explain_missing
from imgbuild.plan.model import (
    Base,
    BaseImage,
    BuildPlan,
    ContextSource,
    ImageSource,
    ScratchBase,
    Source,
    Stage,
    StageBase,
    StageSource,
)
from imgbuild.plan.names import ContextNames
from imgbuild.plan.onbuild import expand_triggers
from imgbuild.plan.options import PlanOptions
from imgbuild.plan.place import located
from imgbuild.plan.prune import check_cycles, needed
from imgbuild.plan.scope import (
    Scope,
    global_arguments,
    platform_arguments,
)
from imgbuild.plan.stage import StageWork, Text
from imgbuild.plan.watch import NOBODY, Watch

ResolveBase = Callable[[str, Platform], BaseImage]

__all__ = ["PlanOptions", "ResolveBase", "make_plan"]


def make_plan(
    dockerfile: Dockerfile,
    options: PlanOptions,
    resolve_base: ResolveBase,
    watch: Watch = NOBODY,
    times: Times = NO_TIMES,
) -> BuildPlan:
    """Return what building `dockerfile` means.

    `resolve_base` is called once for each image and platform that the target needs: with the name
    of a --build-context where one applies, else with the name as FROM or COPY --from has it.
    `watch` is told of everything as it is come to. `times` is asked where
    SOURCE_DATE_EPOCH names a context or a stage.
    Raises `DockerfileError`, and what `resolve_base` raises, with the place added.
    """
    if not dockerfile.stages:
        raise DockerfileError(
            "dockerfile contains no stages to build",
            hint="start it with FROM, e.g. FROM debian:bookworm-slim",
            source=dockerfile.source,
        )
    return _Planner(dockerfile, options, resolve_base, watch, times).plan()


class _Planner:
    def __init__(
        self,
        dockerfile: Dockerfile,
        options: PlanOptions,
        resolve_base: ResolveBase,
        watch: Watch,
        times: Times,
    ) -> None:
        given: Mapping[str, str] = {**options.proxies, **options.build_args}
        name = options.target or dockerfile.stages[-1].from_.name or ""
        predefined = platform_arguments(options.platform, options.build_platform, name)
        refuse_foreign_frontend(dockerfile.source, dockerfile.file, given.get(BUILDKIT_SYNTAX))
        self._dockerfile = dockerfile
        self._options = options
        self._resolve_base = resolve_base
        self._watch = watch
        self._contexts = ContextNames(options.contexts, options.build_platform)
        arguments = global_arguments(dockerfile, given, predefined)
        watch.begin(dockerfile, options, arguments, predefined)
        find = partial(self._contexts.find, platform=options.platform)
        self._arguments, self._epoch = settle_epoch(dockerfile, arguments, find, times)
        self._graph = Graph(dockerfile, self._arguments, options, self._contexts)
        self._images: dict[tuple[str, Platform], BaseImage] = {}
        self._bases: dict[int, BaseImage] = {}
        self._stages: dict[int, Stage] = {}
        self._scopes: dict[int, Scope] = {}

    def plan(self) -> BuildPlan:
        dockerfile, graph = self._dockerfile, self._graph
        target = graph.target(self._options.target)
        for node in graph.nodes:
            graph.connect(node, node.items, dockerfile.source)
        check_cycles(graph, dockerfile.source)
        graph.settle_labels()
        wanted = graph.nodes if self._watch.all_stages else [target]
        nodes = needed(graph, wanted, self._prepare)
        text = Text(dockerfile.source, dockerfile.source.split("\n"), dockerfile.escape)
        # A stage that a tree of files stands for is copied from as it is; FROM makes an image of it.
        bases = {node.base for node in nodes} | {target.index}
        for node in nodes:
            if node.index in bases or node.context not in self._options.directory_contexts:
                self._plan_stage(node, text, is_target=node is target)
        return BuildPlan(
            self._options.platform,
            tuple(self._stages.values()),
            target.index,
            self._epoch,
        )

    # --- bases, before anything is planned: their triggers may need more stages

    def _prepare(self, node: Node) -> None:
        try:
            self._find_base(node)
        except ImgbuildError as error:
            raise located(error, node.span, self._dockerfile.source) from None

    def _find_base(self, node: Node) -> None:
        if node.context is not None:
            if node.context in self._options.directory_contexts:
                node.tree = node.context
            else:
                self._bases[node.index] = self._resolve(node.context, node.platform)
            return
        if node.base is not None:
            triggers = self._triggers(self._graph.nodes[node.base])
        elif node.image == SCRATCH:
            return
        else:
            context = self._contexts.find(node.image, node.platform)
            if context in self._options.directory_contexts:
                node.tree = context
                return
            image = self._image(node, context)
            self._bases[node.index] = image
            if context is None:
                self._watch.base(node, image)
            triggers = image.config.run.on_build
        if triggers:
            items = list(expand_triggers(triggers, node.span))
            node.add_triggers(items)
            self._graph.connect(node, items, self._dockerfile.source)

    def _triggers(self, base: Node) -> tuple[str, ...]:
        if base.context is not None:
            image = self._bases.get(base.index)
            return image.config.run.on_build if image else ()
        found = (item.instruction for item in base.items)
        return tuple(each.text for each in found if isinstance(each, OnBuild))

    def _image(self, node: Node, context: str | None) -> BaseImage:
        """Resolve the base of `node`, or the context that stands for it."""
        stages = [each.label for each in self._graph.nodes[: node.index]]
        return self._resolve(context or _checked(node.image, stages), node.platform)

    def _resolve(self, name: str, platform: Platform, use: str = "FROM ") -> BaseImage:
        image = self._images.get((name, platform))
        if image is None:
            try:
                image = self._resolve_base(name, platform)
            except RegistryError as error:
                labels = [node.label for node in self._graph.nodes]
                is_context = name in self._options.contexts
                explain_missing(error, use, name, is_context=is_context, stages=labels)
                raise
            self._images[name, platform] = image
        return image

    # --- stages, in the order of the Dockerfile

    def _plan_stage(self, node: Node, text: Text, *, is_target: bool) -> None:
        base, start, parent = self._start(node)
        config = Config(start, self._options.platform)
        scope = Scope(self._arguments, parent)
        self._watch.stage(node, start)
        work = StageWork(node, base, config, scope, self._options, self._watch)
        stage = work.plan(text, self._source)
        if is_target and self._options.labels:
            config.add_labels(self._options.labels)
            stage = replace(stage, config=config.finished())
        self._stages[node.index] = stage
        self._scopes[node.index] = scope

    def _start(self, node: Node) -> tuple[Base, ImageConfig, Scope | None]:
        image = self._bases.get(node.index)
        if image is not None:
            return image, image.config, None
        if node.tree is not None:
            # What takes the place of a stage comes without a config in BuildKit, even this.
            empty = ImageConfig(node.platform) if node.context else scratch_config(node.platform)
            return ScratchBase(), empty, None
        if node.base is None:
            return ScratchBase(), scratch_config(self._options.platform), None
        stage = self._stages[node.base]
        return StageBase(node.base), stage.config, self._scopes[node.base]

    def _source(self, name: str, node: Node, use: str = "COPY --from=") -> Source:
        """Tell what COPY --from=`name`, or what `use` is, means in the stage `node`."""
        found = self._graph.find(name)
        if found.stage is not None:
            verb = "copy" if use.startswith("COPY") else "mount"
            return self._stage_source(name, node, self._graph.nodes[found.stage], verb)
        if name == SCRATCH:
            platform = self._options.platform
            return ImageSource(BaseImage(SCRATCH, None, scratch_config(platform), ()))
        context = self._contexts.find(name, self._options.platform)
        if context is not None and context in self._options.directory_contexts:
            return ContextSource(context)
        wanted = context or _checked(name)
        return ImageSource(self._resolve(wanted, self._options.platform, use))

    def _stage_source(self, name: str, node: Node, source: Node, verb: str) -> Source:
        if source.context is not None:
            image = self._bases.get(source.index)
            return ImageSource(image) if image else ContextSource(source.context)
        if source.index >= node.index:
            raise DockerfileError(
                f"cannot {verb} from stage {quote(name)}, it needs to be defined before current"
                f" stage {quote(node.label)}",
                hint="move the stage up",
            )
        return StageSource(source.index)


def _checked(name: str, stages: Sequence[str] = ()) -> str:
    """Return `name` when it names an image; raise `DockerfileError` in BuildKit's words.

    `stages` are those that FROM could have named: it finds them by their lower-case name only.
    """
    try:
        parse_reference(name)
    except UsageError as error:
        stage = name.lower()
        hint = f"for the stage, write FROM {stage}" if stage in stages else error.hint
        raise DockerfileError(
            f"failed to parse stage name {quote(name)}: {error.message}", hint=hint
        ) from None
    return name
