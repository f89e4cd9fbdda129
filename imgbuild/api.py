"""The library's face and the composition root: it connects the parts and holds no logic of its own."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from imgbuild.build.homes import registry_options, store_path
from imgbuild.build.results import BuildResult, ImageDetails, ImageInfo, StepResult
from imgbuild.build.stored import image_info, read_manifest
from imgbuild.errors import UsageError
from imgbuild.events import BuildFinished, EventSink, Notice, ignore
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest
from imgbuild.oci.platform import Platform, parse_platform
from imgbuild.oci.reference import Reference, is_digest, parse_reference
from imgbuild.options import STANDARD_PATH, BuildOptions, NetworkMode, RegistryOptions, RunOptions
from imgbuild.store.store import Store

if TYPE_CHECKING:
    from imgbuild.build.cachemounts import CacheMounts
    from imgbuild.build.calls import Question
    from imgbuild.build.contexts import Contexts
    from imgbuild.build.engine import BuildInputs
    from imgbuild.build.fetch import Web
    from imgbuild.build.rootfs import Rootfs
    from imgbuild.build.sent import ContextEntry, ContextVerdict
    from imgbuild.dockerfile.instructions import Dockerfile
    from imgbuild.plan.calls import CheckResult, Outline, Targets
    from imgbuild.plan.model import BaseImage, BuildPlan
    from imgbuild.sandbox.probe import Report

PathLike = str | os.PathLike[str]
Context = PathLike | BinaryIO | BuildOptions


def build(
    context: Context = ".",
    *,
    events: EventSink | None = None,
    streams: tuple[int, int, int] | None = None,
    **fields: Any,
) -> BuildResult:
    """Build an image and keep it in the store.

    Give a `BuildOptions`, or a context (a folder, a URL or an open file) and fields of
    `BuildOptions` by name. Raises an
    `ImgbuildError`: `DockerfileError`, `ContextError`, `StepFailedError`, and those of bases,
    registries, the store and the sandbox. Nothing is named before the image is complete; it keeps
    its names when an output or a push fails after that, so that `push` can be tried again.
    `streams` are the descriptors of a terminal, which `RunOptions.on_fail` "shell" opens a shell
    on; without them no shell is opened.
    """
    from imgbuild.build import deliver
    from imgbuild.build.engine import build_image
    from imgbuild.build.request import check_deliveries

    options, sink = _options(context, fields), events or ignore
    started = time.monotonic()
    check_deliveries(options)
    with (
        _opened(options.store) as opened,
        opened.build_lock(),
        _contexts(options, opened, sink) as contexts,
    ):
        plan, inputs = _prepare(options, opened, contexts, sink)
        built = build_image(plan, replace(inputs, streams=streams))
        manifest, _ = read_manifest(opened, built.descriptor)
        for name in options.tags:
            opened.names.tag(name, built.descriptor)
        if not options.tags:
            opened.names.keep(built.descriptor)
        for output in options.outputs:
            deliver.write_output(output, opened.blobs, built.descriptor, options.tags)
        if options.push:
            for name in options.tags:
                _send(opened, parse_reference(name), built.descriptor, options.registry, sink)
        config = manifest.config.digest
        deliver.write_records(options, built.descriptor, config)
    sink(BuildFinished(built.descriptor.digest, options.tags, time.monotonic() - started))
    return BuildResult(
        built.descriptor.digest,
        config,
        options.tags,
        built.layers,
        tuple(StepResult(s.name, s.verdict, s.seconds, s.layer) for s in built.steps),
    )


def parse(text: str | bytes, file: str = "Dockerfile") -> "Dockerfile":
    """Parse the text of a Dockerfile into typed instructions; nothing is expanded or resolved.

    `file` is its name in errors. Raises `DockerfileError`, with the place.
    """
    from imgbuild.dockerfile.parse import parse as parse_text

    return parse_text(text, file)


def plan(
    context: Context = ".",
    *,
    events: EventSink | None = None,
    **fields: Any,
) -> "BuildPlan":
    """Return what `build` would do, without doing it; bases are resolved, and pulled where missing.

    Raises what `build` raises before its first step.
    """
    options = _options(context, fields)
    sink = events or ignore
    with (
        _opened(options.store) as opened,
        opened.build_lock(),
        _contexts(options, opened, sink) as contexts,
    ):
        return _prepare(options, opened, contexts, sink)[0]


def check(
    context: Context = ".",
    *,
    events: EventSink | None = None,
    **fields: Any,
) -> "CheckResult":
    """Run the build checks on a Dockerfile; what would stop a build is in the result.

    All stages are checked, or with `target` that one and what it needs. Of base images that are
    not in the store, only the configs are fetched. Raises `ContextError`, `StoreError` and
    `UsageError`.
    """
    from imgbuild.build import calls

    with _asked(context, fields, events) as question:
        return calls.check(question)


def outline(
    context: Context = ".",
    *,
    events: EventSink | None = None,
    **fields: Any,
) -> "Outline":
    """Return what can be given to a build of the target: arguments, secrets, SSH agents.

    Raises what `plan` raises; base images are looked at as `check` does.
    """
    from imgbuild.build import calls

    with _asked(context, fields, events) as question:
        return calls.outline(question)


def targets(
    context: Context = ".",
    *,
    events: EventSink | None = None,
    **fields: Any,
) -> "Targets":
    """Return the stages of a Dockerfile; raise `ContextError` and `DockerfileError`."""
    from imgbuild.build import calls

    with _asked(context, fields, events) as question:
        return calls.targets(question)


def list_context(context: Context = ".", **fields: Any) -> "Iterator[ContextEntry]":
    """Yield what a build can read of its context, in the order of a layer: all that is not ignored.

    Of the options only `context` and `dockerfile` count: an ignore file may stand beside that.
    Raises `UsageError` and `ContextError`, with the first item at the earliest.
    """
    from imgbuild.build.sent import list_sent, open_sent

    with open_sent(_options(context, fields)) as tree:
        yield from list_sent(tree)


def explain_context(path: PathLike, context: Context = ".", **fields: Any) -> "ContextVerdict":
    """Tell whether a build can read `path` of its context, and which line of an ignore file decides.

    `path` is relative to the context. Raises what `list_context` raises.
    """
    from imgbuild.build.sent import explain, open_sent

    with open_sent(_options(context, fields)) as tree:
        return explain(tree, os.fsencode(path))


def run(
    name: str,
    command: Sequence[str] = (),
    *,
    store: PathLike | None = None,
    streams: tuple[int, int, int] = (0, 1, 2),
    tty: bool = False,
    search_path: str | None = None,
    options: RunOptions | None = None,
    entrypoint: Sequence[str] | None = None,
    user: str | None = None,
    workdir: str | None = None,
    env: Mapping[str, str] | None = None,
    hostname: str | None = None,
    network: NetworkMode = "default",
    readonly: bool = False,
    events: EventSink = ignore,
) -> int:
    """Run an image of the store in a throw-away root and return the exit status of its command.

    `command` takes the place of the image's CMD. `streams` are the descriptors of standard
    input, output and error: output is passed on from pipes; with `tty` the command gets a terminal
    of its own where they are one.
    `entrypoint`, `user` and `workdir` take the place of the image's, `env` is added to its own;
    with `readonly`, nothing but volumes can be written to. `events` gets notices. Raises
    `NameNotFoundError`, `UsageError`, `SandboxError`, and `StepFailedError` after a timeout.
    """
    from imgbuild.build.runimage import Changed, run_image
    from imgbuild.build.runrequest import check_words, settled_network, settled_run

    check_words("command", command)
    check_words("entrypoint", entrypoint)
    mode, settled = settled_network(network), settled_run(options or RunOptions())
    changed = Changed(command, entrypoint, user, workdir, env or {}, hostname, readonly, mode)
    with _opened(store) as opened, opened.build_lock():
        full, descriptor = opened.find(name)
        rootfs = _rootfs(opened, search_path, settled)
        return run_image(
            opened, rootfs, full or name, descriptor, changed, settled, streams, events, tty=tty
        )


def pull(
    name: str,
    *,
    platform: str | None = None,
    store: PathLike | None = None,
    registry: RegistryOptions | None = None,
    events: EventSink = ignore,
) -> ImageInfo:
    """Copy the image `name` for one platform (this host's by default) into the store.

    Raises `RegistryError`, `ImageError` for a malformed image and `StoreError`.
    """
    reference = parse_reference(name)
    wanted = _platform(platform)
    with _opened(store) as opened, opened.build_lock():
        descriptor = _fetch(opened, reference, wanted, registry_options(registry), events)
        opened.names.tag(str(reference), descriptor)
        return image_info(opened, str(reference), descriptor)


def push(
    name: str,
    dest: str | None = None,
    *,
    store: PathLike | None = None,
    registry: RegistryOptions | None = None,
    events: EventSink = ignore,
) -> str:
    """Copy the image `name` of the store to its registry, or to `dest`; return its digest.

    Raises `NameNotFoundError` and `RegistryError`. What is there already is not sent again.
    """
    if dest is None and is_digest(name):
        raise UsageError(f"{name} names no repository", hint="say where to push it: DEST")
    target = parse_reference(dest or name)
    with _opened(store) as opened, opened.build_lock():
        _, descriptor = opened.find(name)
        _send(opened, target, descriptor, registry_options(registry), events)
        return descriptor.digest


def images(*, store: PathLike | None = None) -> list[ImageInfo]:
    """Return the images of the store, sorted by name; then the last builds that have none."""
    with _opened(store) as opened:
        named = [image_info(opened, *item) for item in opened.names.list().items()]
        return named + [image_info(opened, "", item) for item in opened.names.unnamed()]


def inspect(name: str, *, store: PathLike | None = None) -> ImageDetails:
    """Return the manifest and config of an image of the store; raise `NameNotFoundError`."""
    with _opened(store) as opened:
        full, descriptor = opened.find(name)
        manifest, data = read_manifest(opened, descriptor)
        config = opened.blobs.read(manifest.config.digest)
        return ImageDetails(full, descriptor.digest, data, config)


def tag(source: str, name: str, *, store: PathLike | None = None) -> None:
    """Let `name` stand for the image `source` as well; raise `NameNotFoundError`."""
    from imgbuild.build.request import taggable

    target = taggable(name)
    with _opened(store) as opened:
        _, descriptor = opened.find(source)
        opened.names.tag(str(target), descriptor)


def remove(name: str, *, store: PathLike | None = None) -> None:
    """Remove `name` from the store; its content stays for the cache.

    Raises `NameNotFoundError`, and `UsageError` for a digest of an image with several names.
    """
    with _opened(store) as opened:
        opened.remove(name)


@contextmanager
def cache_mounts(
    *, store: PathLike | None = None, search_path: str | None = None
) -> "Iterator[CacheMounts]":
    """Open what RUN --mount=type=cache keeps: to list, export, import and remove it."""
    from imgbuild.build.cachemounts import CacheMounts

    with _opened(store) as opened, opened.build_lock():
        rootfs = _rootfs(opened, search_path)
        with rootfs.open() as roots:
            key = roots.session.tier.idmap.key
            yield CacheMounts(opened.paths.cache_mounts / key, lambda: roots)


def reset(*, store: PathLike | None = None) -> None:
    """Empty the store, unpacked trees with files of mapped ids included.

    Raises `StoreLockedError` while anyone builds.
    """
    with _opened(store) as opened:

        def remove_trees() -> None:
            with _rootfs(opened, None).open() as roots:
                roots.remove_trees(opened.paths.trees, opened.paths.cache_mounts)

        opened.reset(remove_trees)


def doctor(
    *, store: PathLike | None = None, search_path: str | None = None, isolation: str = "auto"
) -> "Report":
    """Try every way to run commands that this host may allow, or `isolation` alone."""
    from imgbuild.build.surroundings import with_surroundings
    from imgbuild.sandbox.probe import probe

    place, programs = store_path(store), search_path or STANDARD_PATH
    with _opened(place):
        return with_surroundings(probe(place, programs, isolation), programs)


def _options(context: Context, fields: Mapping[str, Any]) -> BuildOptions:
    from imgbuild.build.request import asked

    return asked(context, fields)


@contextmanager
def _opened(store: PathLike | None) -> Iterator[Store]:
    with Store.open(store_path(store)) as opened:
        yield opened


def _platform(text: str | None) -> Platform:
    from imgbuild.build.platforms import host_platform

    host = host_platform()
    return host if text is None else parse_platform(text, host)


def _contexts(
    options: BuildOptions, store: Store, events: EventSink
) -> "AbstractContextManager[Contexts]":
    from imgbuild.build.contexts import open_contexts

    return open_contexts(options, store, partial(_web, options.registry, events))


def _prepare(
    options: BuildOptions, store: Store, contexts: "Contexts", events: EventSink
) -> "tuple[BuildPlan, BuildInputs]":
    from imgbuild.build.prepare import prepare

    fetch = partial(_fetch, store, options=options.registry, events=events)
    return prepare(options, store, contexts, fetch, events, _build_proxies(options, events))


def _web(options: RegistryOptions, events: EventSink) -> "Web":
    from imgbuild.registry.urls import UrlClient

    return UrlClient(options, events)


@contextmanager
def _asked(
    context: Context, fields: Mapping[str, Any], events: EventSink | None
) -> "Iterator[Question]":
    """Open what a call needs; no layer of a base is fetched."""
    from imgbuild.build.bases import Lookup
    from imgbuild.build.calls import ask

    options, sink = _options(context, fields), events or ignore
    with (
        _opened(options.store) as opened,
        opened.build_lock(),
        _contexts(options, opened, sink) as found,
    ):
        fetch = partial(_fetch, opened, options=options.registry, events=sink)
        describe = partial(_describe, options=options.registry, events=sink)
        contexts, path = options.build_contexts, options.search_path
        lookup = Lookup(opened, contexts, fetch, sink, path, options.pull, describe)
        yield ask(options, lookup, _build_proxies(options, sink), found)


def _describe(
    name: str,
    reference: Reference,
    platform: Platform,
    options: RegistryOptions,
    events: EventSink,
) -> "BaseImage":
    """Read an image's manifest and config from its registry."""
    from imgbuild.build.images import load_image
    from imgbuild.registry.client import Registry

    with Registry(reference, options, events=events) as registry:
        root = registry.resolve(reference.digest or reference.tag)
        return load_image(registry, name, root, platform)


def _build_proxies(options: BuildOptions, events: EventSink) -> Mapping[str, str]:
    from imgbuild.registry.docker_config import build_proxies

    return build_proxies(
        options.registry.docker_config,
        options.registry.docker_host,
        lambda message: events(Notice(message)),
    )


def _rootfs(store: Store, search_path: str | None, options: RunOptions | None = None) -> "Rootfs":
    from imgbuild.build.rootfs import Rootfs

    return Rootfs(store, search_path or STANDARD_PATH, options)


def _fetch(
    store: Store,
    reference: Reference,
    platform: Platform,
    options: RegistryOptions,
    events: EventSink,
) -> Descriptor:
    """Copy an image for one platform from its registry into the store, unnamed."""
    from imgbuild.build.images import for_platform
    from imgbuild.registry.client import Registry
    from imgbuild.transfer import copy_image

    with Registry(reference, options, events=events) as registry:
        root = registry.resolve(reference.digest or reference.tag)
        descriptor, _ = for_platform(registry, root, platform)
        copy_image(
            registry, store.blobs, descriptor, events=events, jobs=options.jobs, doing="pulling"
        )
    store.note_origin(descriptor, f"{reference.domain}/{reference.path}")
    return descriptor


def _send(
    store: Store,
    target: Reference,
    descriptor: Descriptor,
    options: RegistryOptions,
    events: EventSink,
) -> None:
    from imgbuild.registry.client import Registry
    from imgbuild.transfer import copy_image

    if target.digest:
        raise UsageError(f"{target}: an image is pushed to a tag", hint="leave @sha256:… out")

    def origin(digest: Digest) -> str | None:
        return store.cache.origin(digest, target.domain)

    with Registry(target, options, events=events) as registry:
        copy_image(
            store.blobs,
            registry,
            descriptor,
            events=events,
            jobs=options.jobs,
            doing="pushing",
            origin=origin,
        )
        registry.tag(target.tag, descriptor)
    store.note_origin(descriptor, f"{target.domain}/{target.path}")
