"""The config.json of an OCI runtime for a step: the same container as the one made here.

https://github.com/opencontainers/runtime-spec/blob/v1.0.2/config.md
"""

from typing import Any

from imgbuild.sandbox.child import capability_names, filesystems, seccomp_rules, wire

_NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup")
_UMASK = 0o022
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STRICT = ("nosuid", "noexec", "nodev")


def config(
    spec: wire.Message,
    mounts: list[tuple[str, str]],
    *,
    root: str,
    terminal: bool,
    machine: str,
) -> dict[str, Any]:
    """Give the document for a spec whose root is mounted at `root`.

    `mounts` are directories and files of this mount namespace with their targets in the root.
    """
    binds = [_mount(target, "bind", "rbind", source=source) for source, target in mounts]
    return {
        "ociVersion": "1.0.2",
        "process": _process(spec, terminal=terminal),
        "root": {"path": root, "readonly": spec["readonly"]},
        "hostname": spec["hostname"],
        # /sys is among the binds: a runtime may not mount that of a network it does not own.
        "mounts": [*_filesystems(spec), *binds, _NO_CGROUPS],
        "linux": _linux(spec, machine),
    }


def held_capabilities(spec: wire.Message) -> list[str]:
    """Name what the process may ever hold."""
    return capability_names.NAMES if spec["insecure"] else spec["capabilities"]


def _process(spec: wire.Message, *, terminal: bool) -> dict[str, Any]:
    bounding = [f"CAP_{name.upper()}" for name in held_capabilities(spec)]
    held = bounding if spec["uid"] == 0 else []
    env = {"PATH": _PATH, **dict(spec["env"])}  # runtimes look programs up in it
    user = {"uid": spec["uid"], "gid": spec["gid"], "umask": _UMASK}
    if spec["groups"] and spec["count"] > 1:
        user["additionalGids"] = list(spec["groups"])
    return {
        "terminal": terminal,
        "user": user,
        "args": list(spec["argv"]),
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": spec["cwd"],
        "capabilities": {
            "bounding": bounding,
            "effective": held,
            "permitted": held,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": [
            {"type": f"RLIMIT_{name.upper()}", "soft": _limit(soft), "hard": _limit(hard)}
            for name, soft, hard in spec["rlimits"]
        ],
        "noNewPrivileges": False,
    }


def _limit(value: int) -> int:
    return (1 << 64) - 1 if value == -1 else value  # RLIM_INFINITY


def _linux(spec: wire.Message, machine: str) -> dict[str, Any]:
    linux: dict[str, Any] = {"namespaces": [{"type": kind} for kind in _NAMESPACES]}
    if spec["nested"]:
        linux["namespaces"].append({"type": "user"})
        there = {"hostID": spec["shift"], "size": spec["count"]}
        for name, first in zip(("uidMappings", "gidMappings"), spec["first"], strict=True):
            linux[name] = [{"containerID": first, **there}]
    if not spec["insecure"]:
        linux |= {
            "maskedPaths": [f"/{path.decode()}" for path in filesystems.MASKED],
            "readonlyPaths": [f"/{path.decode()}" for path in filesystems.PROTECTED],
            "seccomp": seccomp_rules.rules(frozenset(held_capabilities(spec)), machine),
        }
    return linux


def _filesystems(spec: wire.Message) -> list[dict[str, Any]]:
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if spec["count"] > 5:
        terminals.append("gid=5")  # tty, everywhere
    return [
        _mount("/proc", "proc", *_STRICT),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=64m"),
        _mount("/dev/pts", "devpts", *terminals),
        _mount("/dev/shm", "tmpfs", *_STRICT, "mode=1777", f"size={spec['shm_size']}"),  # noqa: S108
        _mount("/dev/mqueue", "mqueue", *_STRICT),
    ]


def _mount(target: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    found = {"destination": target, "type": kind, "source": source or kind}
    return {**found, "options": list(options)}


_NO_CGROUPS = _mount("/sys/fs/cgroup", "tmpfs", *_STRICT, "ro", "mode=755", "size=4k")
