"""The straight line: for each step of each stage its key, then the cached layer or a new one."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

from imgbuild.build.finish import history_entry, timestamp, write_image
from imgbuild.build.platforms import host_platform
from imgbuild.build.rootfs import Rootfs
from imgbuild.errors import ImgbuildError
from imgbuild.events import BuildStarted, EventSink, Notice, StepFinished, StepStarted, Verdict
from imgbuild.oci.config import HistoryEntry, ImageConfig
from imgbuild.oci.descriptor import Descriptor, Layer
from imgbuild.options import ArchiveLimits, RunOptions
from imgbuild.plan.cachekey import base_key, chain, step_fields, step_kind
from imgbuild.plan.model import (
    BaseImage,
    BuildPlan,
    CacheKey,
    ContextSource,
    CopyStep,
    ImageSource,
    MetaStep,
    RunStep,
    ScratchBase,
    Source,
    Stage,
    StageBase,
    StageSource,
    WorkdirStep,
)
from imgbuild.store.cache import StepRecord
from imgbuild.store.store import Store

if TYPE_CHECKING:
    from imgbuild.build.accounts import Accounts
    from imgbuild.build.cachemounts import CacheMounts
    from imgbuild.build.commands import Commands
    from imgbuild.build.commit import LayerMaker
    from imgbuild.build.contexts import Tree
    from imgbuild.build.copywork import CopyWork
    from imgbuild.build.mountsources import MountSources
    from imgbuild.build.remotes import Remotes
    from imgbuild.build.runmounts import Brought
    from imgbuild.build.secrets import Secrets
    from imgbuild.sandbox.tiers import Tier
    from imgbuild.snapshot.roots import Roots
    from imgbuild.snapshot.workspace import Workspace

LayerStep = RunStep | CopyStep | WorkdirStep


@dataclass(frozen=True, slots=True)
class BuildInputs:
    """What a build is made of beside its plan.

    `open_context` opens the main context (empty name) or one that --build-context named; the
    engine closes it. `remotes` fetches for ADD. `run` and `secrets` are for RUN. `clamp` is the latest time of what is made, in seconds. `fresh` tells for a
    base's name whether it had to be fetched. `source` is the text of the Dockerfile, for errors. `streams`
    are the user's standard streams, for a shell in a step that failed.
    """

    store: Store
    rootfs: Rootfs
    open_context: Callable[[str], "Tree"]
    remotes: "Remotes"
    secrets: "Secrets"
    events: EventSink
    clamp: int | None = None
    no_cache: bool = False
    fresh: frozenset[str] = frozenset()
    source: str | None = None
    archive_limits: ArchiveLimits = field(default_factory=ArchiveLimits)
    run: RunOptions = field(default_factory=RunOptions)
    streams: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """How a step went; `layer` is None for a FROM."""

    name: str
    verdict: Verdict
    seconds: float
    layer: Layer | None


@dataclass(frozen=True, slots=True)
class Built:
    """What a build made: `descriptor` is of the manifest."""

    descriptor: Descriptor
    config: ImageConfig
    layers: tuple[Layer, ...]
    steps: tuple[StepOutcome, ...]


@dataclass(slots=True)
class _Progress:
    """A stage as far as it is built."""

    stage: Stage
    key: CacheKey
    layers: list[Layer]
    history: list[HistoryEntry]
    accounts: "Accounts | None" = None


def build_image(plan: BuildPlan, inputs: BuildInputs) -> Built:
    """Build the target of `plan` and put its manifest into the store, unnamed.

    Raises an `ImgbuildError` with the span of the instruction that failed.
    """
    with ExitStack() as stack:
        return _Engine(plan, inputs, stack).build()


class _Engine:
    def __init__(self, plan: BuildPlan, inputs: BuildInputs, stack: ExitStack) -> None:
        self._plan = plan
        self._inputs = inputs
        self._store = inputs.store
        self._stack = stack
        self._done: dict[int, _Progress] = {}
        self._outcomes: list[StepOutcome] = []
        self._contexts: dict[str, Tree] = {}
        self._opened: Roots | None = None
        self._commands: Commands | None = None
        self._caches: CacheMounts | None = None
        self._announced = False

    def build(self) -> Built:
        plan = self._plan
        shown = [s for stage in plan.stages for s in stage.steps if not isinstance(s, MetaStep)]
        total = len(shown) + sum(stage.title is not None for stage in plan.stages)
        self._inputs.events(BuildStarted(total, str(plan.platform)))
        for stage in plan.stages:
            self._build_stage(stage)
        target = self._done[plan.target]
        descriptor, config = write_image(
            self._store.blobs, target.stage, target.layers, target.history, self._inputs.clamp
        )
        return Built(descriptor, config, tuple(target.layers), tuple(self._outcomes))

    def _build_stage(self, stage: Stage) -> None:
        progress = self._start(stage)
        self._done[stage.index] = progress
        if stage.title is not None:
            base = stage.base
            is_fresh = isinstance(base, BaseImage) and base.name in self._inputs.fresh
            with self._step(stage.title) as finish:
                finish("done" if is_fresh else "cached", None)
        for step in stage.steps:
            if isinstance(step, MetaStep):
                progress.history.append(history_entry(step.created_by, None, empty=True))
                continue
            with self._located(step), self._step(step.name) as finish:
                record, verdict = self._make_or_find(step, progress)
                if verdict == "cached" or not isinstance(step, RunStep):
                    progress.accounts = None
                finish(verdict, record.layer)
            progress.layers.append(record.layer)
            progress.history.append(history_entry(step.created_by, record.created, empty=False))

    def _start(self, stage: Stage) -> _Progress:
        match stage.base:
            case ScratchBase():
                key = base_key(stage.base, stage.config.platform)
                return _Progress(stage, key, [], list(stage.base_history))
            case BaseImage():
                key = base_key(stage.base, stage.config.platform)
                return _Progress(stage, key, list(stage.base.layers), list(stage.base_history))
            case StageBase(index):
                below = self._done[index]
                return _Progress(stage, below.key, list(below.layers), list(below.history))
            case _:
                assert_never(stage.base)

    # --- one step

    @contextmanager
    def _step(self, name: str) -> Iterator[Callable[[Verdict, Layer | None], None]]:
        """Report a step; the block says how it went, or fails."""
        number = len(self._outcomes) + 1
        started = time.monotonic()
        events = self._inputs.events
        events(StepStarted(number, name))
        how: list[tuple[Verdict, Layer | None]] = []
        try:
            yield lambda verdict, layer: how.append((verdict, layer))
        except BaseException as problem:
            how_bad: Verdict = "failed" if isinstance(problem, Exception) else "canceled"
            events(StepFinished(number, name, how_bad, time.monotonic() - started))
            raise
        verdict, layer = how[0]
        seconds = time.monotonic() - started
        self._outcomes.append(StepOutcome(name, verdict, seconds, layer))
        events(StepFinished(number, name, verdict, seconds))

    @contextmanager
    def _located(self, step: LayerStep) -> Iterator[None]:
        """Give errors of a step the place of its instruction."""
        try:
            yield
        except ImgbuildError as error:
            error.span = error.span or step.span
            error.source = error.source or self._inputs.source
            raise

    def _make_or_find(self, step: LayerStep, progress: _Progress) -> tuple[StepRecord, Verdict]:
        match step:
            case RunStep():
                with ExitStack() as stack:
                    sources = (
                        stack.enter_context(self._mount_sources(step)) if step.mounts else None
                    )
                    return self._ran(step, progress, sources)
            case WorkdirStep():
                document = self._key(step, progress, {})
                return self._cached(progress) or self._make(
                    progress, document, lambda: self._workdir(step, progress)
                )
            case CopyStep():
                with self._copy_work(step) as work:
                    return (self._linked if step.link else self._copied)(step, progress, work)
            case _:
                assert_never(step)

    def _key(self, step: LayerStep, progress: _Progress, inputs: Mapping[str, str]) -> bytes:
        """Advance the stage's key over `step`; return what the key is made of."""
        progress.key, document = self._chained(step, progress, inputs)
        return document

    def _chained(
        self, step: LayerStep, progress: _Progress, inputs: Mapping[str, str]
    ) -> tuple[CacheKey, bytes]:
        fields: dict[str, Any] = dict(step_fields(step))
        fields["clamp"] = self._inputs.clamp
        # The stage's, not the target's: what runs on $BUILDPLATFORM is shared by all targets.
        fields["platform"] = str(progress.stage.config.platform)
        return chain(progress.key, step_kind(step), fields, inputs)

    def _cached(self, progress: _Progress) -> tuple[StepRecord, Verdict] | None:
        if self._inputs.no_cache:
            return None
        record = self._store.cache.get(progress.key)
        if record is None or not self._store.blobs.exists(record.layer.descriptor):
            return None
        return record, "cached"

    def _make(
        self, progress: _Progress, document: bytes, make: Callable[[], Layer], family: str = ""
    ) -> tuple[StepRecord, Verdict]:
        layer = make()
        record = StepRecord(layer, timestamp(self._inputs.clamp))
        # The layer may not be on disk yet; a record without its blob is no hit.
        self._store.cache.put(progress.key, record, document, family)
        return record, "done"

    def _maker(self) -> "LayerMaker":
        from imgbuild.build.commit import LayerMaker

        return LayerMaker(self._store, self._inputs.clamp, self._guarded())

    def _guarded(self) -> Mapping[str, bytes] | None:
        """Return the values that no layer may hold."""
        return None if self._inputs.run.allow_secret_in_layer else self._inputs.secrets.lent

    # --- RUN

    def _mount_sources(self, step: RunStep) -> "MountSources":
        from imgbuild.build.mountsources import MountSources

        return MountSources(step, self._copy_work, self._source_layers)

    def _ran(
        self, step: RunStep, progress: _Progress, sources: "MountSources | None"
    ) -> tuple[StepRecord, Verdict]:
        rootfs, parent = self._inputs.rootfs, progress.key
        expected = rootfs.single_id
        inputs = {} if sources is None else dict(sources.digests())
        if names := [name for name, _ in self._inputs.run.add_hosts]:
            inputs |= {"hosts": " ".join(names)}  # not addresses, as BuildKit
        document = self._key(step, progress, inputs | _ids(single=expected))
        found = self._cached(progress)
        if found is None and self._single_id() != expected:
            # The host allows other ids than it looked like: what is made is something else.
            progress.key = parent
            document = self._key(step, progress, inputs | _ids(single=not expected))
            found = self._cached(progress)
        return found or self._make(progress, document, lambda: self._run(step, progress, sources))

    def _single_id(self) -> bool:
        """Tell what commands really get, now that one has to run."""
        roots = self._roots()
        roots.start_early()  # while the modules of a RUN are loaded
        import imgbuild.build.runstep  # noqa: F401

        self._announce(roots.session.tier)
        return roots.session.tier.single_id

    def _announce(self, tier: "Tier") -> None:
        """Say once how commands run; why not better is said as well."""
        if self._announced:
            return
        self._announced = True
        lacks, better = tier.lacks(), "; ".join(tier.reasons)
        text = f"RUN steps run in {tier.describe()}{self._runtimes()}"
        text += f"; {lacks}" if lacks else ""
        text += f". Not possible here: {better}" if better else ""
        self._inputs.events(Notice(text, detail=tier.is_best))

    def _runtimes(self) -> str:
        """Say what makes the containers, if imgbuild does not."""
        found = self._shared_commands(self._roots()).runtimes
        if not found:
            return ""
        return f", made by {' or '.join(os.path.basename(path) for path in found)}"

    def _run(self, step: RunStep, progress: _Progress, sources: "MountSources | None") -> Layer:
        roots = self._roots()
        from imgbuild.build.accounts import Accounts
        from imgbuild.build.runsetup import RunContext
        from imgbuild.build.runstep import run_layer

        commands = self._shared_commands(roots)
        if step.network == "default":
            commands.networks.begin()
        accounts = progress.accounts or Accounts()
        platform = progress.stage.config.platform
        context = RunContext(
            self._inputs.events,
            len(self._outcomes) + 1,
            self._inputs.clamp,
            self._inputs.rootfs.single_id,
            self._maker,
            accounts,
            self._inputs.run,
            self._inputs.secrets,
            commands,
            "" if platform.matches(host_platform()) else str(platform),
            None if sources is None else partial(self._mount, step, sources),
            self._inputs.streams,
        )
        with roots.workspace(progress.layers) as workspace:
            layer = run_layer(step, workspace, context)
        # Good for the step that follows at once; any other layer drops it.
        progress.accounts = accounts
        return layer

    def _mount(
        self, step: RunStep, sources: "MountSources", workspace: "Workspace", stack: ExitStack
    ) -> "Brought":
        from imgbuild.build.cachemounts import CacheMounts
        from imgbuild.build.runmounts import MountMaker

        inputs = self._inputs
        if self._caches is None:
            folder = self._store.paths.cache_mounts / self._roots().session.tier.idmap.key
            self._caches = CacheMounts(
                folder, self._roots, fresh=inputs.no_cache, events=inputs.events
            )
        maker = MountMaker(sources, inputs.secrets, self._caches, self._roots(), workspace, stack)
        return maker.make(step)

    def _roots(self) -> "Roots":
        if self._opened is None:
            opened = self._inputs.rootfs.open(lambda: self._shared_commands(opened).files())
            self._opened = self._stack.enter_context(opened)
        return self._opened

    def _shared_commands(self, roots: "Roots") -> "Commands":
        if self._commands is None:
            from imgbuild.build.commands import Commands

            inputs = self._inputs
            self._commands = Commands(
                inputs.run,
                inputs.rootfs.search_path,
                lambda: roots.session,
                inputs.events,
            )
            self._stack.callback(self._commands.close)
        return self._commands

    # --- COPY, ADD, WORKDIR

    def _workdir(self, step: WorkdirStep, progress: _Progress) -> Layer:
        from imgbuild.build.copystep import workdir_layer

        view = self._inputs.rootfs.stack.view(progress.layers)
        with self._maker() as maker:
            try:
                workdir_layer(maker, step, view, self._inputs.clamp)
            finally:
                view.close()
            maker.finish_tar()
            return maker.finish()

    def _copy_work(self, step: CopyStep) -> "CopyWork":
        from imgbuild.build.copywork import CopyWork, Place

        source, inputs = step.source, self._inputs
        name = source.name if isinstance(source, ContextSource) else ""
        context = partial(self._context, name)
        place = Place(
            self._store,
            inputs.rootfs.stack,
            context,
            inputs.remotes,
            inputs.clamp,
            inputs.no_cache,
            inputs.archive_limits,
            self._guarded(),
        )
        return CopyWork(step, self._source_layers(step.source), place)

    def _copied(
        self, step: CopyStep, progress: _Progress, work: "CopyWork"
    ) -> tuple[StepRecord, Verdict]:
        family = self._chained(step, progress, {})[0]
        if not self._may_be_cached(step, family):
            # Whatever the files hold, no layer of them is there: they are hashed while it is made.
            work.expect_reading()
            layer = work.make(progress.layers)
            document = self._key(step, progress, {"content": work.digest()})
            return self._make(progress, document, lambda: layer, family)
        document = self._key(step, progress, {"content": work.digest()})
        return self._cached(progress) or self._make(
            progress, document, lambda: work.make(progress.layers), family
        )

    def _may_be_cached(self, step: CopyStep, family: str) -> bool:
        if not isinstance(step.source, ContextSource):
            return True
        return not self._inputs.no_cache and self._store.cache.has_family(family)

    def _source_layers(self, source: Source) -> Sequence[Layer]:
        match source:
            case StageSource(index):
                return self._done[index].layers
            case ImageSource(image):
                return image.layers
            case ContextSource():
                return ()
            case _:
                assert_never(source)

    def _linked(
        self, step: CopyStep, progress: _Progress, work: "CopyWork"
    ) -> tuple[StepRecord, Verdict]:
        """Make or find the layer of a --link: it has a key of its own, as if it stood on nothing."""
        scratch = ScratchBase()
        alone = _Progress(progress.stage, base_key(scratch, progress.stage.config.platform), [], [])
        found = self._copied(step, alone, work)
        progress.key = chain(progress.key, "link", {}, {"layer": alone.key})[0]
        return found

    def _context(self, name: str) -> "Tree":
        if name not in self._contexts:
            self._contexts[name] = self._inputs.open_context(name)
            self._stack.callback(self._contexts[name].close)
        return self._contexts[name]


def _ids(*, single: bool) -> dict[str, str]:
    """Give what the ids of a host add to the key of a RUN."""
    return {"ids": "recorded"} if single else {}
