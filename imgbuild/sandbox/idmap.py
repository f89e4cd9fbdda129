"""Which ids of this machine stand for which ids of a container.

Three kinds: `subids` (the ranges of /etc/subuid and /etc/subgid, through newuidmap), `root` (a
process that may map ids itself), `single` (one id, for users without ranges).
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imgbuild.errors import SandboxError

# (first id in the namespace, first id outside, how many)
Ranges = tuple[tuple[int, int, int], ...]

_FULL = ((0, 0, 4294967295),)
# Bases for containers of real root: behind systemd-nspawn's ranges, before its foreign ids.
# https://systemd.io/UIDS-GIDS/
_ROOT_BASES = (0x70000000, 0x60000000, 0x50000000, 0x40000000)
_ROOT_COUNT = 0x0F000000
# As useradd gives them (login.defs: SUB_UID_MIN, SUB_UID_COUNT).
_FIRST_SUBID, _SUBIDS = 100_000, 65_536
_CAP_SETGID, _CAP_SETUID, _CAP_SYS_CHROOT, _CAP_SYS_ADMIN, _CAP_SETFCAP = 6, 7, 18, 21, 31
FILE_CAPABILITIES = (
    "In a container, newuidmap and newgidmap need file capabilities: setcap cap_setuid=ep newuidmap; "
    "setcap cap_setgid=ep newgidmap; chmod u-s on both."
)


@dataclass(frozen=True, slots=True)
class IdMap:
    """The user namespace of a session, and the shift of its containers inside that.

    A file of container id N has id `shift` + N in the session's namespace; `count` ids exist.
    `helpers` are the paths of newuidmap and newgidmap where they do the mapping. `reason` says
    why nothing better was chosen, `remedy` what to do for that. `doubt` says why a session will
    probably not get this map.
    """

    kind: Literal["subids", "root", "single"]
    uid_map: Ranges
    gid_map: Ranges
    shift: int
    count: int
    helpers: tuple[str, str] | None = None
    reason: str = ""
    remedy: str = ""
    doubt: str = ""

    @property
    def key(self) -> str:
        """A name for the mapping: equal where unpacked files have equal owners on disk."""
        from hashlib import sha256

        records = "with records" if self.kind == "single" else ""
        owners = repr((self.uid_map, self.gid_map, self.shift, self.count)) + records
        return f"{self.kind}-{sha256(owners.encode()).hexdigest()[:12]}"

    def describe(self) -> str:
        """Say it in words."""
        if self.kind == "single":
            return "one user id"
        inside = self.shift  # where container id 0 is
        ranges = (first + inside - at for at, first, n in self.uid_map if at <= inside < at + n)
        return f"{self.count} ids from {next(ranges)} on"


def choose_idmap(
    search_path: str, *, proc: Path = Path("/proc/self"), etc: Path = Path("/etc")
) -> IdMap:
    """Choose the best mapping that this process should be able to get.

    `search_path` is where newuidmap is looked for. SandboxError only when real root has no free
    range of ids.
    """
    status = _status(proc / "status")
    # The effective ids; a user namespace is entered with these.
    uid, gid = int(status["Uid"].split()[1]), int(status["Gid"].split()[1])
    if _has(status["CapEff"], _CAP_SETGID, _CAP_SETUID, _CAP_SETFCAP):
        return _as_root(_map_of(proc / "uid_map"), _map_of(proc / "gid_map"), etc)
    name = _user_name(etc / "passwd", uid)
    uids = _subids(etc / "subuid", name, uid)
    gids = _subids(etc / "subgid", name, uid)
    helpers = _find("newuidmap", search_path), _find("newgidmap", search_path)
    # What a program may have at most, whatever its owner or file says.
    bound = status.get("CapBnd", "f" * 16)
    if not uids or not gids:
        reason = f"/etc/subuid and /etc/subgid give {name or uid} no ids"
        remedy = _give_ids(etc, name or str(uid))
    elif helpers[0] is None or helpers[1] is None:
        reason = "newuidmap and newgidmap are not installed"
        remedy = "Install newuidmap (package uidmap, shadow-utils or shadow). Then build again."
    elif status.get("NoNewPrivs") == "1":
        reason = "newuidmap cannot work with no_new_privs set"
        remedy = "Start imgbuild without no_new_privs; in Kubernetes: allowPrivilegeEscalation."
    elif not _has(bound, _CAP_SETGID, _CAP_SETUID):
        reason = "newuidmap cannot get CAP_SETUID and CAP_SETGID here"
        remedy = "Let the container have the capabilities SETUID and SETGID."
    else:
        return _through_helpers((uid, uids), (gid, gids), (helpers[0], helpers[1]), bound)
    return _single((uid, gid), reason, remedy)


def single_idmap(reason: str, remedy: str) -> IdMap:
    """Give the mapping that needs nothing: this process's own ids."""
    return _single((os.geteuid(), os.getegid()), reason, remedy)


def own_ids(*, proc: Path = Path("/proc/self")) -> IdMap | None:
    """Give the ids of the user namespace that this process is the root of, if it is in one."""
    uids, gids = _map_of(proc / "uid_map"), _map_of(proc / "gid_map")
    status = _status(proc / "status")
    # In the first namespace of all a step would be the machine's own root.
    if _FULL in (uids, gids) or not _has(status["CapEff"], _CAP_SYS_ADMIN):
        return None
    return _as_root(uids, gids, Path("/etc"))


def kept_ids(*, proc: Path = Path("/proc/self")) -> IdMap:
    """Give the ids of this process as they are, for commands without a user namespace."""
    uids, gids = _map_of(proc / "uid_map"), _map_of(proc / "gid_map")
    own = tuple((inside, inside, count) for inside, _, count in uids)
    own_groups = tuple((inside, inside, count) for inside, _, count in gids)
    count = min(_from_zero(own), _from_zero(own_groups))
    return IdMap("root", own, own_groups, shift=0, count=count)


def can_chroot(*, proc: Path = Path("/proc/self")) -> bool:
    """Tell whether this process may change its root as it is."""
    return _has(_status(proc / "status")["CapEff"], _CAP_SYS_CHROOT)


def _through_helpers(
    user: tuple[int, list[tuple[int, int]]],
    group: tuple[int, list[tuple[int, int]]],
    helpers: tuple[str, str],
    bound: str,
) -> IdMap:
    count = min(sum(n for _, n in user[1]), sum(n for _, n in group[1]))
    doubt = remedy = ""
    if not _has(bound, _CAP_SYS_ADMIN) and all(map(_is_setuid, helpers)):
        # Who writes a map needs CAP_SYS_ADMIN over the namespace: its owner's user id gives that,
        # and the user id of set-uid programs is another, unless they go back to it.
        doubt = "newuidmap is set-uid root, and this container has no CAP_SYS_ADMIN"
        remedy = FILE_CAPABILITIES
    return IdMap(
        "subids",
        _behind_own(*user),
        _behind_own(*group),
        shift=1,
        count=count,
        helpers=helpers,
        remedy=remedy,
        doubt=doubt,
    )


def _single(own: tuple[int, int], reason: str, remedy: str) -> IdMap:
    uids, gids = (((0, number, 1),) for number in own)
    return IdMap("single", uids, gids, shift=0, count=1, reason=reason, remedy=remedy)


def _give_ids(etc: Path, user: str) -> str:
    """Say how root gives a user ids: behind all ranges that others have."""
    ranges = (_fields(etc / file, 3) for file in ("subuid", "subgid"))
    taken = [int(first) + int(n) for lines in ranges for _, first, n in lines if first.isdecimal()]
    first = max([_FIRST_SUBID, *taken])
    ids = f"{first}-{first + _SUBIDS - 1}"
    return (
        f"Give this user ids of its own: sudo usermod --add-subuids {ids} --add-subgids {ids} {user}"
        ", and install newuidmap (package uidmap). Then build again."
    )


def _as_root(uids: Ranges, gids: Ranges, etc: Path) -> IdMap:
    if uids == _FULL and gids == _FULL:
        shift = _free_base(etc)
        return IdMap("root", uids, gids, shift=shift, count=_ROOT_COUNT)
    own = tuple((inside, inside, count) for inside, _, count in uids)
    own_groups = tuple((inside, inside, count) for inside, _, count in gids)
    count = min(_from_zero(own), _from_zero(own_groups))
    if count <= 1:
        reason = "the user namespace around has only one id"
        return _single(
            (0, 0), reason, "Start imgbuild in a user namespace with more ids, or in none."
        )
    return IdMap("root", own, own_groups, shift=0, count=count)


def _free_base(etc: Path) -> int:
    """Find ids for containers that no user and no other range has."""
    taken = []
    for file in ("subuid", "subgid"):
        found = _fields(etc / file, 3)
        taken += [(int(first), int(count)) for _, first, count in found if first.isdecimal()]
    for file in ("passwd", "group"):
        taken += [(int(fields[2]), 1) for fields in _fields(etc / file, 3)]
    for base in _ROOT_BASES:
        if all(first + n <= base or first >= base + _ROOT_COUNT for first, n in taken):
            return base
    raise SandboxError(
        "no range of ids is free for containers",
        hint="Build as a user with ranges in /etc/subuid and /etc/subgid.",
    )


def _behind_own(own: int, ranges: Iterable[tuple[int, int]]) -> Ranges:
    mapped = [(0, own, 1)]
    following = 1
    for first, count in ranges:
        mapped.append((following, first, count))
        following += count
    return tuple(mapped)


def _from_zero(ranges: Ranges) -> int:
    """Count the ids that are mapped without a gap from 0 on."""
    end = 0
    for inside, _, count in sorted(ranges):
        if inside != end:
            break
        end += count
    return end


def _subids(file: Path, name: str | None, uid: int) -> list[tuple[int, int]]:
    """Read the ranges of a user, who stands there by name or by number."""
    wanted = {name, str(uid)}
    ranges = [(int(first), int(n)) for user, first, n in _fields(file, 3) if user in wanted]
    return [(first, count) for first, count in dict.fromkeys(ranges) if count > 0]


def _user_name(file: Path, uid: int) -> str | None:
    for fields in _fields(file, 3):
        if fields[2] == str(uid):
            return fields[0]
    return None


def _fields(file: Path, count: int) -> list[list[str]]:
    """Read lines of fields between colons; lines that are not such are left out."""
    try:
        text = file.read_text(errors="surrogateescape")
    except OSError:
        return []
    lines = [line.split(":") for line in text.splitlines()]
    return [f[:count] for f in lines if len(f) >= count and f[2].strip().isdecimal() and f[0]]


def _map_of(file: Path) -> Ranges:
    ranges = []
    for line in file.read_text().splitlines():
        inside, outside, count = (int(word) for word in line.split())
        ranges.append((inside, outside, count))
    return tuple(ranges)


def _has(mask: str, *capabilities: int) -> bool:
    """Tell whether a hexadecimal mask of /proc/self/status has capabilities."""
    held = int(mask, 16)
    return all(held >> number & 1 for number in capabilities)


def _is_setuid(program: str) -> bool:
    found = os.stat(program)
    return bool(found.st_mode & stat.S_ISUID) and found.st_uid == 0


def _status(file: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in file.read_text(errors="replace").splitlines())
    return {name: value.strip() for name, _, value in lines}


def _find(program: str, search_path: str) -> str | None:
    """Find a program that runs with more privileges than its caller."""
    for folder in search_path.split(":"):
        path = os.path.join(folder, program)
        try:
            found = os.stat(path)
        except OSError:
            continue
        if folder.startswith("/") and stat.S_ISREG(found.st_mode) and os.access(path, os.X_OK):
            return path
    return None
