"""The mounts of a RUN, made when it runs."""

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, assert_never

from imgbuild.build.cachemounts import CacheMounts, Wanted
from imgbuild.build.mountsources import CONTENT, MountSources
from imgbuild.build.secrets import Secrets
from imgbuild.errors import ContextError
from imgbuild.plan.model import (
    ContextSource,
    PlannedBind,
    PlannedCache,
    PlannedSecret,
    PlannedSsh,
    PlannedTmpfs,
    RunStep,
)
from imgbuild.sandbox.spec import BindMount, LayersMount, Mount, SecretMount, TmpfsMount

if TYPE_CHECKING:
    from imgbuild.snapshot.roots import Roots
    from imgbuild.snapshot.workspace import Workspace


class Brought(NamedTuple):
    """What the mounts of a step are, and the variables that they set."""

    mounts: tuple[Mount, ...]
    env: tuple[tuple[str, str], ...]


class MountMaker:
    """Makes what the mounts of a step need; `stack` undoes it when the command has ended."""

    def __init__(
        self,
        sources: MountSources,
        secrets: Secrets,
        caches: CacheMounts,
        roots: "Roots",
        workspace: "Workspace",
        stack: ExitStack,
    ) -> None:
        self._sources = sources
        self._secrets = secrets
        self._caches = caches
        self._roots = roots
        self._workspace = workspace
        self._stack = stack

    def make(self, step: RunStep) -> Brought:
        """Return the mounts of `step`; raise `ContextError` for a secret or an agent that nobody gave."""
        # Secrets first: nothing has to be made where one is missing.
        values = self._values(step)
        caches = iter(self._cache_places(step))
        mounts: list[Mount] = []
        for number, mount in enumerate(step.mounts):
            match mount:
                case PlannedBind():
                    mounts.append(self._bind(number, mount))
                case PlannedCache():
                    place = next(caches)
                    mounts.append(BindMount(place, mount.target, mount.readonly, mount.path))
                case PlannedTmpfs():
                    mounts.append(TmpfsMount(mount.target, mount.size, readonly=mount.readonly))
                case PlannedSecret():
                    mounts += _secret(mount, values.get(mount.id))
                case PlannedSsh():
                    mounts += self._ssh(mount)
                case _:
                    assert_never(mount)
        return Brought(tuple(mounts), tuple(_variables(step, values)))

    def _values(self, step: RunStep) -> dict[str, bytes]:
        values: dict[str, bytes] = {}
        for mount in step.mounts:
            if not isinstance(mount, PlannedSecret):
                continue
            value = self._secrets.get(mount.id)
            if value is not None:
                values[mount.id] = value
            elif mount.required:
                raise ContextError(
                    f"secret {mount.id}: not found",
                    hint=f"give it with --secret id={mount.id},src=FILE",
                )
        return values

    def _bind(self, number: int, mount: PlannedBind) -> Mount:
        work = self._sources.work(number)
        assert work is not None  # noqa: S101  every bind has one
        if isinstance(mount.source, ContextSource):
            # A copy that belongs to the container's root, never the caller's own directory.
            tree = self._roots.grow(f"tree-{work.digest().encoded}", work.write_tar)
            lowers, path = [str(tree)], CONTENT
        else:
            layers = self._sources.layers(mount.source)
            lowers, path = [str(tree) for tree in self._roots.stacked(layers)], mount.path
        if not lowers:
            return TmpfsMount(mount.target, mode=0o755, readonly=mount.readonly)
        upper, work_directory = ("", "") if mount.readonly else self._workspace.overlay()
        return LayersMount(tuple(lowers), path, mount.target, upper, work_directory)

    def _cache_places(self, step: RunStep) -> list[str]:
        wanted = [
            self._wanted(number, mount)
            for number, mount in enumerate(step.mounts)
            if isinstance(mount, PlannedCache)
        ]
        if not wanted:
            return []
        return [str(place) for place in self._stack.enter_context(self._caches.using(wanted))]

    def _wanted(self, number: int, mount: PlannedCache) -> Wanted:
        work = self._sources.work(number)
        seed = "" if work is None else f"{mount.path}@{work.digest()}"
        fill = None if work is None else work.write_tar
        return Wanted(mount.id, mount.sharing, seed, fill, mount.mode, mount.uid, mount.gid)

    def _ssh(self, mount: PlannedSsh) -> Iterator[Mount]:
        agent = self._secrets.ssh(mount.id)
        if agent is None:
            if mount.required:
                raise ContextError(
                    f"unset ssh forward key {mount.id}"
                    if self._secrets.has_agents
                    else f'no SSH key "{mount.id}" forwarded from the client',
                    hint=f"give it with --ssh {mount.id}=SOCKET|KEY",
                )
            return
        from imgbuild.build.agentrelay import AgentRelay

        path, listener = self._workspace.listen(mount.uid, mount.gid, mount.mode)
        self._stack.callback(AgentRelay(listener, agent).close)
        yield BindMount(path, mount.target)


def _secret(mount: PlannedSecret, value: bytes | None) -> Iterator[Mount]:
    if value is not None and mount.target is not None:
        text = base64.b64encode(value).decode("ascii")
        yield SecretMount(mount.target, text, mount.mode, mount.uid, mount.gid)


def _variables(step: RunStep, values: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    for mount in step.mounts:
        if isinstance(mount, PlannedSecret) and mount.env is not None and mount.id in values:
            yield mount.env, os.fsdecode(values[mount.id])
