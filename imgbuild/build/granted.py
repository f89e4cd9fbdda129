"""What the options about commands mean for the sandbox: capabilities, limits, devices, volumes."""

import os
import stat
from collections.abc import Collection, Sequence
from dataclasses import replace

from imgbuild.build.devices import find_devices
from imgbuild.build.runrequest import ALL
from imgbuild.errors import SandboxError
from imgbuild.options import RunOptions, Volume
from imgbuild.sandbox.child.capability_names import NAMES
from imgbuild.sandbox.idmap import IdMap
from imgbuild.sandbox.spec import DEFAULT_CAPABILITIES, BindMount, SandboxSpec


def with_options(
    spec: SandboxSpec,
    options: RunOptions,
    ids: IdMap,
    devices: Sequence[str] = (),
    mapped: Collection[str] = (),
) -> SandboxSpec:
    """Give a spec what `options` give every command, and some more `devices`.

    `mapped` are the targets of volumes whose owners are translated. Raises `UsageError` and `SandboxError` for what this host cannot give.
    """
    found = find_devices((*options.devices, *devices), own_files=ids.shift == 0)
    env = dict(found.env) | dict(spec.env)
    return replace(
        spec,
        env=tuple(env.items()),
        capabilities=tuple(NAMES) if spec.insecure else capabilities(options),
        shm_size=options.shm_size,
        rlimits=options.ulimits,
        devices=found.nodes,
        mounts=(*spec.mounts, *found.mounts, *(_mounted(v, ids, mapped) for v in options.volumes)),
    )


def capabilities(options: RunOptions) -> tuple[str, ...]:
    """Return docker's capabilities with --cap-add and --cap-drop, as docker counts them."""
    add, drop = set(options.cap_add), set(options.cap_drop)
    if ALL in add:
        kept = set(NAMES) - drop
    else:
        kept = add if ALL in drop else {*DEFAULT_CAPABILITIES} - drop | add
    return tuple(name for name in NAMES if name in kept)


def _mounted(volume: Volume, ids: IdMap, mapped: Collection[str]) -> BindMount:
    """Give the mount of a volume; raise `SandboxError` where commands could not use it."""
    if str(volume.source) == "/" and not volume.readonly and volume.target not in mapped:
        raise SandboxError(  # a session sees this machine read-only but for some directories
            "commands could not write to the volume /", hint="add :ro, or name a folder"
        )
    if ids.shift and volume.target not in mapped:
        _check_others(volume)
    return BindMount(str(volume.source), volume.target, volume.readonly, straight=True)


def _check_others(volume: Volume) -> None:
    # Root in the container is somebody whom no file of this machine belongs to.
    mode = os.stat(volume.source).st_mode
    read = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
    if mode & read != read:
        raise SandboxError(
            f"commands could not read the volume {volume.source}: its mode is "
            f"{stat.S_IMODE(mode):04o}",
            hint="commands have ids of their own: let others read it (chmod -R o+rX), or COPY it",
        )
    if not volume.readonly and not mode & stat.S_IWOTH:
        raise SandboxError(
            f"commands could not write to the volume {volume.source}: its mode is "
            f"{stat.S_IMODE(mode):04o}, and commands have ids of their own",
            hint=f"add :ro, let others write to it (chmod o+w {volume.source}), or keep files "
            "between builds with RUN --mount=type=cache",
        )
