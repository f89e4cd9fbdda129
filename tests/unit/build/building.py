"""Build a Dockerfile into a store of its own: what the unit tests of the engine share."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from imgbuild.build.bases import Bases, Lookup
from imgbuild.build.context import open_context
from imgbuild.build.contexts import Contexts, Tree
from imgbuild.build.engine import BuildInputs, Built, build_image
from imgbuild.build.places import tree_places
from imgbuild.build.platforms import host_platform
from imgbuild.build.remotes import Remotes
from imgbuild.build.rootfs import Rootfs
from imgbuild.build.secrets import Secrets
from imgbuild.dockerfile.parse import parse
from imgbuild.errors import UnreachableError
from imgbuild.events import Event
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest
from imgbuild.oci.platform import Platform
from imgbuild.oci.reference import Reference
from imgbuild.options import ArchiveLimits, BuildOptions, RunOptions, Secret, SshAgent
from imgbuild.plan.planner import PlanOptions, make_plan
from imgbuild.store.store import Store

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def no_pull(reference: Reference, _platform: Platform) -> Descriptor:
    raise UnreachableError(f"no registry in this test: {reference}")


def no_network() -> Any:
    raise AssertionError("nothing is fetched in this test")


def no_remotes() -> Remotes:
    return Remotes(no_network, no_network)


def build(
    store: Store,
    context: Path | BinaryIO | str,
    dockerfile: str,
    *,
    contexts: Mapping[str, str] | None = None,
    clamp: int | None = None,
    no_cache: bool = False,
    events: Callable[[Event], None] = lambda _event: None,
    pull: Callable[[Reference, Platform], Descriptor] = no_pull,
    dockerfile_path: Path | None = None,
    platform: Platform | None = None,
    open_remotes: Callable[[], Remotes] = no_remotes,
    archive_limits: ArchiveLimits | None = None,
    secrets: Sequence[Secret] = (),
    ssh: Sequence[SshAgent] = (),
    run: RunOptions | None = None,
    **options: Any,
) -> Built:
    named = dict(contexts or {})
    bases = Bases(Lookup(store, named, pull, events, SEARCH_PATH))
    target = platform or host_platform()
    text = io.BytesIO(dockerfile.encode())
    run = run or RunOptions()
    given = BuildOptions(context, text, build_contexts=named)
    with (
        open_remotes() as remotes,
        Secrets(secrets, ssh) as lent,
        Contexts(given, store.paths.staging, remotes, lent) as found,
    ):
        plan = make_plan(
            parse(dockerfile),
            PlanOptions(
                platform=target,
                build_platform=host_platform(),
                contexts=frozenset(named),
                directory_contexts=frozenset(tree_places(named)),
                allow=run.allow,
                **options,
            ),
            bases.resolve,
            times=found,
        )

        def opener(name: str) -> Tree:
            if not name and isinstance(context, Path):
                return open_context(context, dockerfile_path)
            return found.open(name)

        rootfs = Rootfs(store, SEARCH_PATH, run)
        fresh = frozenset(bases.fresh)
        time = plan.source_date_epoch if clamp is None else clamp
        inputs = BuildInputs(
            store,
            rootfs,
            opener,
            remotes,
            found.secrets,
            events,
            time,
            no_cache,
            fresh,
            dockerfile,
            run=run,
        )
        if archive_limits is not None:
            inputs = replace(inputs, archive_limits=archive_limits)
        return build_image(plan, inputs)


def config(store: Store, built: Built) -> dict[str, Any]:
    digest = Digest(manifest(store, built)["config"]["digest"])
    document: dict[str, Any] = json.loads(store.blobs.read(digest))
    return document


def manifest(store: Store, built: Built) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(store.blobs.read(built.descriptor.digest))
    return document


def members(store: Store, built: Built, number: int = -1) -> list[tarfile.TarInfo]:
    """Return the members of a layer, as Python's own tar reader sees them."""
    return tarfile.open(fileobj=io.BytesIO(uncompressed(store, built, number))).getmembers()


def uncompressed(store: Store, built: Built, number: int = -1) -> bytes:
    """Return the tar of a layer."""
    with store.blobs.open(built.layers[number].descriptor) as stream:
        return gzip.decompress(stream.read())


def names(store: Store, built: Built, number: int = -1) -> list[str]:
    return [member.name for member in members(store, built, number)]


def content(store: Store, built: Built, name: str, number: int = -1) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(uncompressed(store, built, number))) as archive:
        found = archive.extractfile(name)
        assert found is not None
        return found.read()
