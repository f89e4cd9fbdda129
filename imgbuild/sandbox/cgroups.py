"""Control groups for commands: limits that hold for all processes of a command together.

The caller makes a group near its own one and lends the command the file to join it by; nothing
else is moved. That needs a part of the hierarchy that is delegated to this user, or root.
https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PREFIX = "imgbuild-"
_PERIOD = 100_000  # microseconds, as the kernel and docker have it
_LAST_WAIT = 2.0  # seconds until processes that were killed are gone
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Limits:
    """`memory` in bytes (and as much swap), `cpus` in processors, `pids` in processes."""

    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None

    @property
    def controllers(self) -> frozenset[str]:
        named = {"memory": self.memory, "cpu": self.cpus, "pids": self.pids}
        return frozenset(name for name, value in named.items() if value is not None)


@dataclass(frozen=True, slots=True)
class _Place:
    """A group of the caller's where others can be made, for some controllers."""

    folder: Path
    unified: bool
    controllers: frozenset[str]


class Group:
    """The control groups of one command; close it when the command has ended."""

    def __init__(self, folders: Sequence[Path], controllers: frozenset[str]) -> None:
        self._folders = folders
        self._opened: list[int] = []
        self.controllers = controllers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lend(self) -> Mapping[str, int]:
        """Give the descriptors that `Session.run` takes."""
        if not self._opened:
            for folder in self._folders:
                self._opened.append(os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        return {f"cgroup:{number}": fd for number, fd in enumerate(self._opened)}

    @property
    def ran_out_of_memory(self) -> bool:
        """Tell whether the kernel ended a process for the limit of memory."""
        files = [
            f / name for f in self._folders for name in ("memory.events", "memory.oom_control")
        ]
        return any(_field(file, "oom_kill") > 0 for file in files)

    def close(self) -> None:
        """End what is left in the groups and remove them; a later build removes what stays."""
        while self._opened:
            os.close(self._opened.pop())
        for folder in self._folders:
            with contextlib.suppress(OSError):
                (folder / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + _LAST_WAIT
        for folder in self._folders:
            while not _remove(folder) and time.monotonic() < deadline:
                time.sleep(0.01)


def make_group(limits: Limits, *, proc: Path = Path("/proc")) -> Group | None:
    """Make a group with as many of the limits as can be had here; None where none can.

    Its `controllers` say which they are.
    """
    folders: list[Path] = []
    held: set[str] = set()
    name = f"{_PREFIX}{_owner(proc, 'self')}-{next(_numbers)}"
    for place in _places(limits.controllers, proc):
        _sweep(place.folder, proc)
        folder = place.folder / name
        try:
            folder.mkdir()
            _write_limits(folder, limits, place)
            os.close(os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            _remove(folder)
            continue
        folders.append(folder)
        held |= place.controllers
    return Group(folders, frozenset(held)) if folders else None


def _write_limits(folder: Path, limits: Limits, place: _Place) -> None:
    for name, value, must in _files(limits, unified=place.unified):
        if name.partition(".")[0] not in place.controllers:
            continue
        if must or (folder / name).exists():
            (folder / name).write_text(str(value))


def _files(limits: Limits, *, unified: bool) -> Iterable[tuple[str, str | int, bool]]:
    """Yield what to write where, and whether it has to be there."""
    if limits.memory is not None:
        memory = limits.memory
        yield ("memory.max" if unified else "memory.limit_in_bytes"), memory, True
        # As docker: as much swap as memory. The older file counts both.
        swap = (
            ("memory.swap.max", memory) if unified else ("memory.memsw.limit_in_bytes", 2 * memory)
        )
        yield *swap, False
        if unified:
            yield "memory.oom.group", 1, False
    if limits.cpus is not None:
        quota = max(1000, round(limits.cpus * _PERIOD))
        if unified:
            yield "cpu.max", f"{quota} {_PERIOD}", True
        else:
            yield "cpu.cfs_period_us", _PERIOD, True
            yield "cpu.cfs_quota_us", quota, True
    if limits.pids is not None:
        # One more: the process that waits for the command is in the group, too.
        yield "pids.max", limits.pids + 1, True


# --- where groups can be made


def _places(controllers: frozenset[str], proc: Path) -> list[_Place]:
    own = _own_groups(proc)
    found: list[_Place] = []
    for kinds, mount, root, path in _mounts(proc, own):
        missing = controllers - {name for place in found for name in place.controllers}
        relative = os.path.relpath(path, root)
        if not missing or relative.startswith(".."):
            continue
        if kinds is not None:
            if kinds & missing and os.access(mount / relative, os.W_OK):
                found.append(_Place(mount / relative, unified=False, controllers=kinds & missing))
        elif place := _unified_place(mount, mount / relative, missing):
            found.append(place)
    return found


def _unified_place(top: Path, own: Path, controllers: frozenset[str]) -> _Place | None:
    """Find the nearest group above the caller whose children have most of the controllers.

    The caller's own group is none: who has processes cannot have controlled children, unless it
    is the root of all.
    """
    best: _Place | None = None
    for folder in (own, *own.parents):
        given = controllers & set(_read(folder / "cgroup.subtree_control").split())
        writable = os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)
        if given and writable and (best is None or len(given) > len(best.controllers)):
            best = _Place(folder, unified=True, controllers=frozenset(given))
        if folder == top:
            break
    return best


def _own_groups(proc: Path) -> dict[frozenset[str], str]:
    """Give the caller's group in each hierarchy by its controllers; the unified one has none."""
    found = {}
    for line in _read(proc / "self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        found[frozenset(filter(None, kinds.split(",")))] = path
    return found


def _mounts(
    proc: Path, own: Mapping[frozenset[str], str]
) -> Iterable[tuple[frozenset[str] | None, Path, str, str]]:
    """Yield where hierarchies are mounted: controllers (None: unified), folder, root, own path."""
    for line in _read(proc / "self/mountinfo").splitlines():
        mount, _, kind = line.partition(" - ")
        fields, (fstype, _, options) = mount.split(), kind.split(" ", 2)
        root, folder = fields[3], Path(fields[4])
        if fstype == "cgroup2" and frozenset() in own:
            yield None, folder, root, own[frozenset()]
        elif fstype == "cgroup":
            words = set(options.split(","))
            for kinds, path in own.items():
                if kinds and kinds <= words:
                    yield kinds, folder, root, path


# --- what is left of builds that were killed


def _owner(proc: Path, pid: str) -> str:
    """Name a process so that no later one is called the same; empty when there is none."""
    fields = _read(proc / pid / "stat").rpartition(")")[2].split()
    own = os.getpid() if pid == "self" else pid
    return f"{own}-{fields[19]}" if len(fields) > 19 else ""


def _sweep(folder: Path, proc: Path) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            pid, _, rest = name.removeprefix(_PREFIX).partition("-")
            owner = f"{pid}-{rest.partition('-')[0]}"
            if name.startswith(_PREFIX) and pid.isdecimal() and _owner(proc, pid) != owner:
                _remove(folder / name)


def _remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _field(file: Path, name: str) -> int:
    for line in _read(file).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return 0


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
