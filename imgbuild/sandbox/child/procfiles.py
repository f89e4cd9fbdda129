"""What a command may know of /proc and /dev where it has none: which paths are answered, by what.

Nothing here is about any process but the one that asks, or can be written to.
"""

from typing import Literal, NamedTuple

from imgbuild.sandbox.child.standins import DEVICES, MOUNT_INFO, MOUNTS

_GLOBAL = frozenset(
    b"cpuinfo devices diskstats filesystems loadavg meminfo misc modules partitions stat swaps "
    b"uptime version vmstat zoneinfo".split()
)
_SYSCTL = frozenset(
    b"fs/file-max fs/file-nr fs/inotify/max_queued_events fs/inotify/max_user_instances "
    b"fs/inotify/max_user_watches fs/nr_open fs/pipe-max-size fs/protected_hardlinks "
    b"fs/protected_symlinks kernel/cap_last_cap kernel/domainname kernel/hostname "
    b"kernel/msgmax kernel/msgmnb kernel/msgmni kernel/ngroups_max kernel/osrelease kernel/ostype "
    b"kernel/overflowgid kernel/overflowuid kernel/pid_max kernel/random/boot_id "
    b"kernel/random/entropy_avail kernel/random/uuid kernel/sem kernel/shmall kernel/shmmax "
    b"kernel/shmmni kernel/threads-max kernel/version kernel/seccomp/actions_avail "
    b"net/core/somaxconn net/ipv4/ip_local_port_range net/ipv6/conf/all/disable_ipv6 "
    b"vm/max_map_count vm/mmap_min_addr vm/overcommit_memory vm/overcommit_ratio "
    b"vm/swappiness".split()
)
_OWN = frozenset(
    b"auxv cmdline comm coredump_filter environ gid_map io limits maps oom_adj oom_score "
    b"oom_score_adj personality sched schedstat sessionid setgroups smaps smaps_rollup stat "
    b"statm status timers uid_map".split()
)
_OF_THREAD = frozenset(b"comm sched schedstat stat statm status".split())
_TEXTS = {
    b"mounts": MOUNTS,
    b"mountinfo": MOUNT_INFO,
    b"cgroup": b"0::/\n",
    b"loginuid": b"4294967295",
}
_LINKS = frozenset({b"exe", b"cwd", b"root"})
_STREAMS = {b"stdin": b"0", b"stdout": b"1", b"stderr": b"2"}


class Target(NamedTuple):
    """What a path stands for.

    "device" and "global": a file of this machine, `name` is its path. "own": a file, and "link" a
    link, of the process's folder in /proc. "text": `name` is the content. "self": the link that
    names that folder. "listing": a directory of the folder.
    """

    kind: Literal["device", "global", "own", "link", "text", "self", "listing"]
    name: bytes


def find(path: bytes, pid: bytes) -> Target | None:
    """Tell what a path stands for; `pid` is the number that the process knows itself by.

    None is for everything that the command's root can answer itself.
    """
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if not path.startswith(b"/") or b".." in parts or len(parts) < 2:
        return None
    if parts[0] == b"dev":
        return _find_device(parts[1:])
    return _find_in_proc(parts[1:], pid) if parts[0] == b"proc" else None


def _find_device(parts: list[bytes]) -> Target | None:
    name = parts[0]
    if len(parts) == 1 and name in DEVICES:
        return Target("device", b"/dev/" + name)
    if len(parts) == 1 and name in _STREAMS:
        return Target("link", b"fd/" + _STREAMS[name])
    return _find_own(parts) if name == b"fd" else None


def _find_in_proc(parts: list[bytes], pid: bytes) -> Target | None:
    name, path = parts[0], b"/".join(parts)
    if len(parts) == 1 and name in _GLOBAL:
        return Target("global", b"/proc/" + name)
    if name == b"sys" and path[4:] in _SYSCTL:
        return Target("global", b"/proc/" + path)
    if path == b"mounts":
        return Target("text", MOUNTS)
    if path == b"self":
        return Target("self", b"")
    if name == b"thread-self" and len(parts) == 2 and parts[1] in _OF_THREAD:
        return Target("own", parts[1])
    if name in {b"self", b"thread-self", pid}:
        return _find_own(parts[1:])
    return None


def _find_own(parts: list[bytes]) -> Target | None:
    match parts:
        case []:
            return Target("listing", b"")
        case [(b"fd" | b"task") as name]:
            return Target("listing", name)
        case [name] if name in _OWN:
            return Target("own", name)
        case [name] if name in _TEXTS:
            return Target("text", _TEXTS[name])
        case [name] if name in _LINKS:
            return Target("link", name)
        case [b"fd", number] if _is_number(number):
            return Target("link", b"fd/" + number)
        case [b"fdinfo", number] if _is_number(number):
            return Target("own", b"fdinfo/" + number)
        case [b"task", number, name] if _is_number(number) and name in _OF_THREAD:
            return Target("own", b"task/%s/%s" % (number, name))
        case _:
            return None


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) < 10
