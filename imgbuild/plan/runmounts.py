"""RUN --mount: expanded, checked, and made into what a step mounts.

Source of the rules: BuildKit's dispatchRunMounts, dispatchSecret and dispatchSSH (dockerfile2llb).
"""

import posixpath
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, assert_never

from imgbuild.dockerfile.instructions import Run
from imgbuild.dockerfile.mounts import MountText, parse_mount
from imgbuild.dockerfile.quoting import quote
from imgbuild.errors import DockerfileError
from imgbuild.plan.model import (
    ContextSource,
    PlannedBind,
    PlannedCache,
    PlannedMount,
    PlannedSecret,
    PlannedSsh,
    PlannedTmpfs,
    Source,
)
from imgbuild.plan.paths import clean, source_path
from imgbuild.plan.scope import Scope

# A build argument; it keeps the caches of one Dockerfile apart from those of others.
NAMESPACE = "BUILDKIT_CACHE_MOUNT_NS"
_SECRETS = "/run/secrets"
_AGENTS = "/run/buildkit/ssh_agent"
_AGENT_VARIABLE = "SSH_AUTH_SOCK"


class FindSource(Protocol):
    """Tells what a `from` means."""

    def __call__(self, name: str) -> Source: ...


class Place(NamedTuple):
    """Where a RUN stands: its working directory, and the namespace of cache mounts."""

    workdir: str
    namespace: str = ""


class Mounts(NamedTuple):
    """What a RUN mounts, in order, and the variables that this sets."""

    planned: tuple[PlannedMount, ...]
    env: dict[str, str]


def plan_mounts(run: Run, scope: Scope, place: Place, find_source: FindSource) -> Mounts:
    """Return the mounts of a RUN, those above others first; raise `DockerfileError`."""
    texts = [parse_mount(text, scope.expand) for text in run.mounts]
    planned = list(_planned(texts, place, find_source))
    agents = [mount.target for mount in planned if isinstance(mount, PlannedSsh)]
    env = {}
    if agents and _AGENT_VARIABLE not in scope.values:
        env[_AGENT_VARIABLE] = agents[0]
    # As BuildKit orders them: a mount below another one's target is made in that one.
    return Mounts(tuple(sorted(planned, key=lambda mount: mount.target or "")), env)


def secret_id(mount: MountText) -> str:
    """Return the name of the secret or of the agent that a mount asks for."""
    if mount.type == "ssh":
        return mount.id or "default"
    return mount.source or mount.id or posixpath.basename(mount.target)


def _planned(
    texts: Iterable[MountText], place: Place, find_source: FindSource
) -> Iterator[PlannedMount]:
    agents = 0
    for mount in texts:
        match mount.type:
            case "bind":
                source = find_source(mount.from_) if mount.from_ else ContextSource()
                path, target = source_path(mount.source), _target(mount, place)
                yield PlannedBind(source, path, target, mount.readonly is not False)
            case "cache":
                yield _cache(mount, place, find_source)
            case "tmpfs":
                target = _target(mount, place)
                yield PlannedTmpfs(target, mount.size or None, bool(mount.readonly))
            case "secret":
                yield _secret(mount, place)
            case "ssh":
                yield _ssh(mount, place, agents)
                agents += 1
            case _:
                assert_never(mount.type)


def _cache(mount: MountText, place: Place, find_source: FindSource) -> PlannedCache:
    target = _target(mount, place)
    name = mount.id or posixpath.normpath(mount.target or ".")
    return PlannedCache(
        f"{place.namespace}/{name}" if place.namespace else name,
        target,
        mount.sharing or "shared",
        find_source(mount.from_) if mount.from_ else None,
        source_path(mount.source),
        0o755 if mount.mode is None else mount.mode,
        mount.uid or 0,
        mount.gid or 0,
        bool(mount.readonly),
    )


def _secret(mount: MountText, place: Place) -> PlannedSecret:
    name = secret_id(mount)
    target: str | None = None
    if mount.target:
        target = _target(mount, place)
    elif mount.env is None:
        target = f"{_SECRETS}/{posixpath.basename(name)}"
    if mount.env is not None and ("=" in mount.env or not mount.env):
        raise DockerfileError(
            f"invalid name of a variable for the secret {name}: {quote(mount.env)}",
            hint="write env=NAME",
        )
    mode = 0o400 if mount.mode is None else mount.mode
    return PlannedSecret(
        name, target, mount.env, mount.required, mode, mount.uid or 0, mount.gid or 0
    )


def _ssh(mount: MountText, place: Place, number: int) -> PlannedSsh:
    if mount.source:
        raise DockerfileError("ssh does not support source", hint="name the agent with id=")
    target = _target(mount, place) if mount.target else f"{_AGENTS}.{number}"
    mode = 0o600 if mount.mode is None else mount.mode
    return PlannedSsh(
        secret_id(mount), target, mount.required, mode, mount.uid or 0, mount.gid or 0
    )


def _target(mount: MountText, place: Place) -> str:
    target = clean(posixpath.join("/", place.workdir, mount.target))
    if target == "/":
        raise DockerfileError(
            f"invalid mount target {quote(target)}",
            hint="name a directory below / with target=",
        )
    return target
