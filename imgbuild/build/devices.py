"""Devices for commands: paths of this machine, and names of the Container Device Interface.

https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgbuild.errors import SandboxError, UsageError
from imgbuild.sandbox.spec import BindMount

CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))

_CDI_NAME = re.compile(
    r"[A-Za-z][A-Za-z0-9_.-]*/[A-Za-z][A-Za-z0-9_-]*=[A-Za-z0-9][A-Za-z0-9_.:-]*"
)
_LARGEST = 4 << 20  # bytes of a CDI file


@dataclass(frozen=True, slots=True)
class Devices:
    """What some devices take: nodes as `SandboxSpec.devices` has them, mounts, variables."""

    nodes: tuple[tuple[str, str, str], ...] = ()
    mounts: tuple[BindMount, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


def find_devices(
    names: Sequence[str], *, own_files: bool, folders: Sequence[Path] = CDI_FOLDERS
) -> Devices:
    """Find out what devices take, written HOST[:TARGET[:rwm]] or as CDI names.

    `own_files` tells whether commands have the ids of this process. Raises `UsageError` for what
    is no device, `SandboxError` for one that commands could not open.
    """
    nodes: dict[str, tuple[str, str, str]] = {}
    mounts: list[BindMount] = []
    env: dict[str, str] = {}
    for name in names:
        edits = _cdi_edits(name, folders) if _CDI_NAME.fullmatch(name) else [_path_edits(name)]
        for edit in edits:
            nodes |= {node[1]: node for node in edit.nodes}
            mounts += edit.mounts
            env |= dict(edit.env)
    for source, _, permissions in nodes.values():
        _check_node(source, permissions, own_files=own_files)
    return Devices(tuple(nodes.values()), tuple(mounts), tuple(env.items()))


def of_step(
    texts: Sequence[str],
    notice: Callable[[str], object],
    folders: Sequence[Path] = CDI_FOLDERS,
) -> tuple[str, ...]:
    """Return the names of `RUN --device=NAME[,required]`; one that is missing is told, or refused.

    Raises `UsageError` for what is no CDI name: which path is which device is not the
    Dockerfile's to say.
    """
    found = []
    for text in texts:
        first, *rest = text.split(",")
        name = first.removeprefix("name=")
        if not _CDI_NAME.fullmatch(name):
            hint = (
                "name it in the Container Device Interface, or give it to the build with --device"
            )
            raise UsageError(f"the device {name!r} of RUN is no CDI name", hint=hint)
        try:
            list(_cdi_edits(name, folders))
        except UsageError as problem:
            if {"required", "required=true"} & set(rest):
                raise
            notice(f"RUN goes without the device {name}: {problem.message}")
        else:
            found.append(name)
    return tuple(found)


def _path_edits(text: str) -> Devices:
    source, *rest = text.split(":")
    if not source.startswith("/") or len(rest) > 2:
        raise UsageError(
            f"invalid device: {text!r}", hint="write it as /dev/NAME[:/dev/NAME], or a CDI name"
        )
    # As docker: one word behind the source may be permissions already.
    if len(rest) == 1 and not rest[0].startswith("/"):
        rest = [source, *rest]
    target = (rest[0] if rest else source) or source
    return Devices((_node(source, target, rest[1] if len(rest) == 2 else "rwm"),))


def _node(source: str, target: str, permissions: str) -> tuple[str, str, str]:
    path = os.path.normpath(target)
    if not path.startswith("/dev/"):
        raise UsageError(
            f"the device {target} is not in /dev", hint="give a path such as /dev/NAME"
        )
    if not set(permissions) <= set("rwm"):
        raise UsageError(
            f"invalid device permissions: {permissions!r}", hint="the usual ones are rwm"
        )
    if not set("rw") <= set(permissions):
        raise UsageError(
            f"the device {source} cannot be given with {permissions!r} alone",
            hint="a device can be read and written, or is not there: leave the permissions out",
        )
    return source, path, permissions


def _check_node(source: str, permissions: str, *, own_files: bool) -> None:
    try:
        found = os.stat(source)
    except OSError as error:
        raise UsageError(
            f"error gathering device information: {source}: {error.strerror}",
            hint="name a device of this machine",
        ) from None
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise UsageError(f"{source} is no device", hint="--volume shows directories and files")
    others = stat.S_IROTH | stat.S_IWOTH
    may = os.access(source, os.R_OK | os.W_OK) if own_files else found.st_mode & others == others
    if "w" in permissions and not may:
        raise SandboxError(
            f"commands could not open {source}: its mode is {stat.S_IMODE(found.st_mode):04o}",
            hint="commands have ids of their own and are in no group of this machine: "
            f"let all users have the device (chmod a+rw {source})",
        )


# --- the Container Device Interface


def _cdi_edits(name: str, folders: Sequence[Path]) -> Iterator[Devices]:
    kind, _, wanted = name.partition("=")
    unread: list[Path] = []
    for file in _cdi_files(folders):
        if file.suffix != ".json":
            unread.append(file)
            continue
        spec = _read_cdi(file)
        devices = {device.get("name"): device for device in spec.get("devices", ())}
        if spec.get("kind") == kind and wanted in devices:
            yield _edits(name, spec.get("containerEdits", {}))
            yield _edits(name, devices[wanted].get("containerEdits", {}))
            return
    raise _unresolvable(name, unread)


def _unresolvable(name: str, unread: list[Path]) -> UsageError:
    hint = f"there has to be a file about it in {' or '.join(map(str, CDI_FOLDERS))}"
    if unread:
        hint = (
            f"{unread[0]} is YAML, which is not read: write it as JSON beside it "
            "(nvidia-ctk cdi generate --format=json)"
        )
    return UsageError(f"unresolvable CDI devices {name}", hint=hint)


def _cdi_files(folders: Sequence[Path]) -> list[Path]:
    """List the files about devices; the folder named last comes first, as its files win."""
    found: list[Path] = []
    for folder in reversed(folders):
        if folder.is_dir():
            found += sorted(p for p in folder.iterdir() if p.suffix in {".json", ".yaml", ".yml"})
    return found


def _read_cdi(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            spec = json.loads(stream.read(_LARGEST))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {file}: {error}", hint="it has to be a CDI spec") from None
    if not isinstance(spec, dict):
        raise UsageError(f"{file} is no CDI spec", hint="it has to hold an object")
    return spec


def _edits(name: str, edits: dict[str, Any]) -> Devices:
    done = {"env", "deviceNodes", "mounts"}
    if more := sorted(key for key, value in edits.items() if value and key not in done):
        raise SandboxError(
            f"the device {name} needs {', '.join(more)}, which commands cannot be given",
            hint="devices are nodes, mounts and variables here",
        )
    nodes = [
        _node(node.get("hostPath") or node["path"], node["path"], node.get("permissions") or "rwm")
        for node in edits.get("deviceNodes", ())
    ]
    mounts = [BindMount(m["hostPath"], m["containerPath"]) for m in edits.get("mounts", ())]
    pairs = [text.partition("=") for text in edits.get("env", ())]
    return Devices(tuple(nodes), tuple(mounts), tuple((key, value) for key, _, value in pairs))
