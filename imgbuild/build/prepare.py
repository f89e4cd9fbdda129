"""From options to a plan and what a build of it is made of."""

import errno
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from imgbuild.build.bases import Bases, Lookup, Pull, directory_contexts
from imgbuild.build.checking import parse_checked, plan_checks
from imgbuild.build.context import ContextTree, open_context
from imgbuild.build.emulation import check_runnable
from imgbuild.build.engine import BuildInputs, open_contexts
from imgbuild.build.places import check_context, no_dockerfile, unreadable
from imgbuild.build.platforms import host_platform
from imgbuild.build.rootfs import Rootfs
from imgbuild.build.secrets import Secrets
from imgbuild.errors import ContextError
from imgbuild.events import EventSink, Notice
from imgbuild.oci.platform import parse_platform
from imgbuild.options import BuildOptions
from imgbuild.plan.epoch import NAME as SOURCE_DATE_EPOCH
from imgbuild.plan.model import BuildPlan
from imgbuild.plan.options import PlanOptions
from imgbuild.plan.planner import make_plan
from imgbuild.plan.unused import unused_arguments
from imgbuild.store.store import Store

if TYPE_CHECKING:
    from imgbuild.build.fetch import UrlFetcher, Web
    from imgbuild.build.git import GitFetcher
    from imgbuild.build.remotes import Remotes

# BuildKit refuses a larger one as well (frontend/dockerui, maxDockerfileSize is not documented).
_MAX_DOCKERFILE = 16 << 20
_STDIN = Path("-")
_NAMES = ("Dockerfile", "dockerfile")


class Lent(NamedTuple):
    """What a build is lent for its time: secrets, and the network."""

    secrets: Secrets
    open_web: Callable[[], "Web"]


class Prepared(NamedTuple):
    """A plan, and what the engine needs for it."""

    plan: BuildPlan
    inputs: BuildInputs


def prepare(
    options: BuildOptions,
    store: Store,
    pull: Pull,
    events: EventSink,
    proxies: Mapping[str, str],
    lent: Lent,
) -> Prepared:
    """Read the Dockerfile, resolve the bases that the target needs, and plan the build.

    `proxies` are the caller's settings for commands, such as `HTTP_PROXY`; `lent` is what ADD
    fetches with. Raises `ContextError`
    for a missing context or Dockerfile, `DockerfileError`, and what looking for bases raises.
    """
    check_context(options.context)
    name, data, place = read_dockerfile(options)
    dockerfile, linter = parse_checked(data, name, options.build_args, events)
    directories = directory_contexts(options.build_contexts)
    settled = plan_options(options, proxies)
    lookup = Lookup(store, options.build_contexts, pull, events, options.search_path, options.pull)
    bases = Bases(lookup)
    checks = plan_checks(linter, options.context, place)
    plan = make_plan(dockerfile, settled, bases.resolve, checks)
    linter.finish()
    if options.build_args and (unused := unused_arguments(options.build_args, dockerfile, plan)):
        events(Notice(f"no ARG declares these build arguments: {', '.join(unused)}"))
    check_runnable(plan, settled.build_platform, dockerfile.source)
    named: dict[str, Callable[[], ContextTree]] = {
        key: partial(open_context, path) for key, path in directories.items()
    }
    inputs = BuildInputs(
        store=store,
        rootfs=Rootfs(store, options.search_path),
        open_context=open_contexts(lambda: open_context(options.context, place), named),
        open_remotes=partial(_open_remotes, options, store, lent),
        events=events,
        # A build argument wins, as with buildx.
        clamp=plan.source_date_epoch,
        no_cache=options.no_cache,
        fresh=frozenset(bases.fresh),
        source=dockerfile.source,
        archive_limits=options.archive_limits,
    )
    return Prepared(plan, inputs)


def _open_remotes(options: BuildOptions, store: Store, lent: Lent) -> "Remotes":
    from imgbuild.build.remotes import Remotes

    def files() -> "UrlFetcher":
        from imgbuild.build.fetch import UrlFetcher

        return UrlFetcher(store, lent.open_web, lent.secrets, options.download_limit)

    def repositories() -> "GitFetcher":
        from imgbuild.build.git import GitFetcher

        return GitFetcher(
            store, lent.secrets, registry=options.registry, search_path=options.search_path
        )

    return Remotes(files, repositories)


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
        contexts=frozenset(options.build_contexts),
        directory_contexts=frozenset(directory_contexts(options.build_contexts)),
        proxies=proxies,
    )


def read_dockerfile(options: BuildOptions) -> tuple[str, bytes, Path | None]:
    """Return the Dockerfile's name for messages, its bytes, and where it is (None: standard input)."""
    if options.dockerfile == _STDIN:
        return "Dockerfile", _limited(sys.stdin.buffer.read(_MAX_DOCKERFILE + 1), "stdin"), None
    for path in _candidates(options):
        try:
            with path.open("rb") as file:
                return path.name, _limited(file.read(_MAX_DOCKERFILE + 1), str(path)), path
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
                raise unreadable(path, error) from None
    raise no_dockerfile(options.context, options.dockerfile)


def dockerfile_place(options: BuildOptions) -> Path | None:
    """Return where the Dockerfile is; None for standard input, and where none is needed or there.

    Raises `ContextError` for one that was named and is not there.
    """
    if options.dockerfile == _STDIN:
        return None
    for path in _candidates(options):
        if path.exists():
            return path
    if options.dockerfile is not None:
        raise no_dockerfile(options.context, options.dockerfile)
    return None


def _candidates(options: BuildOptions) -> list[Path]:
    if options.dockerfile is None:
        return [options.context / name for name in _NAMES]
    # As docker: relative to the current folder, else to the context.
    if options.dockerfile.is_absolute():
        return [options.dockerfile]
    return [options.dockerfile, options.context / options.dockerfile]


def _limited(data: bytes, what: str) -> bytes:
    if len(data) > _MAX_DOCKERFILE:
        raise ContextError(f"the Dockerfile {what} is larger than {_MAX_DOCKERFILE} bytes")
    return data
