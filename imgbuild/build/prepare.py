"""From options to a plan and what a build of it is made of."""

from collections.abc import Mapping
from typing import NamedTuple

from imgbuild.build.bases import Bases, Lookup, Pull
from imgbuild.build.checking import parse_checked, plan_checks
from imgbuild.build.contexts import Contexts
from imgbuild.build.emulation import check_runnable
from imgbuild.build.engine import BuildInputs
from imgbuild.build.places import tree_places
from imgbuild.build.platforms import host_platform
from imgbuild.build.rootfs import Rootfs
from imgbuild.events import EventSink, Notice
from imgbuild.oci.platform import parse_platform
from imgbuild.options import BuildOptions
from imgbuild.plan.epoch import NAME as SOURCE_DATE_EPOCH
from imgbuild.plan.model import BuildPlan
from imgbuild.plan.options import PlanOptions
from imgbuild.plan.planner import make_plan
from imgbuild.plan.unused import unused_arguments
from imgbuild.store.store import Store


class Prepared(NamedTuple):
    """A plan, and what the engine needs for it."""

    plan: BuildPlan
    inputs: BuildInputs


def prepare(
    options: BuildOptions,
    store: Store,
    contexts: Contexts,
    pull: Pull,
    events: EventSink,
    proxies: Mapping[str, str],
) -> Prepared:
    """Read the Dockerfile, resolve the bases that the target needs, and plan the build.

    `contexts` are what `options` tell to build from; they stay open until the build is done.
    `proxies` are the caller's settings for commands, such as `HTTP_PROXY`. Raises `ContextError`
    for a missing Dockerfile, `DockerfileError`, and what looking for bases raises.
    """
    name, data, _ = contexts.definition()
    dockerfile, linter = parse_checked(data, name, options.build_args, events)
    settled = plan_options(options, proxies)
    lookup = Lookup(store, options.build_contexts, pull, events, options.search_path, options.pull)
    bases = Bases(lookup)
    checks = plan_checks(linter, contexts.ignored)
    plan = make_plan(dockerfile, settled, bases.resolve, checks, contexts)
    linter.finish()
    if options.build_args and (unused := unused_arguments(options.build_args, dockerfile, plan)):
        events(Notice(f"no ARG declares these build arguments: {', '.join(unused)}"))
    check_runnable(plan, settled.build_platform, dockerfile.source)
    inputs = BuildInputs(
        store=store,
        rootfs=Rootfs(store, options.search_path, options.run),
        open_context=contexts.open,
        remotes=contexts.remotes,
        events=events,
        # A build argument wins, as with buildx.
        clamp=plan.source_date_epoch,
        no_cache=options.no_cache,
        fresh=frozenset(bases.fresh),
        source=dockerfile.source,
        archive_limits=options.archive_limits,
        run=options.run,
        secrets=contexts.secrets,
    )
    return Prepared(plan, inputs)


def plan_options(options: BuildOptions, proxies: Mapping[str, str]) -> PlanOptions:
    """Return what a plan depends on beside the Dockerfile; raise `UsageError` for what is malformed."""
    host = host_platform()
    clamp = options.source_date_epoch
    # As buildx: a Dockerfile sees the time by `ARG SOURCE_DATE_EPOCH`.
    epoch = {} if clamp is None else {SOURCE_DATE_EPOCH: str(clamp)}
    return PlanOptions(
        platform=parse_platform(options.platform, host) if options.platform else host,
        build_platform=host,
        build_args={**epoch, **options.build_args},
        labels=options.labels,
        target=options.target,
        network=options.network,
        allow=options.run.allow,
        contexts=frozenset(options.build_contexts),
        directory_contexts=frozenset(tree_places(options.build_contexts)),
        proxies=proxies,
    )
