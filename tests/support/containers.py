"""Containers as docker, podman and Kubernetes start them, to see what imgbuild does inside.

An installed OCI runtime (crun, else runc) runs bundles with their seccomp profiles, capabilities,
masked paths and users. The root is a Debian made by debootstrap with python3 and newuidmap; this
project is mounted into it read-only. Needs root. The network is the host's, so that a registry
on 127.0.0.1 can be reached.
"""

import importlib.metadata
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest

from imgbuild.sandbox.child import capabilities
from tests.support import debian
from tests.support.seccomp_profiles import Profile, seccomp

_PROJECT = Path(__file__).parents[2]
DOCKER_CAPABILITIES = [
    "chown",
    "dac_override",
    "fsetid",
    "fowner",
    "mknod",
    "net_raw",
    "setgid",
    "setuid",
    "setfcap",
    "setpcap",
    "net_bind_service",
    "sys_chroot",
    "kill",
    "audit_write",
]
PODMAN_CAPABILITIES = [
    name for name in DOCKER_CAPABILITIES if name not in {"audit_write", "mknod", "net_raw"}
]
# What AppArmor's `deny mount` of docker's profile refuses.
MOUNT_CALLS = [
    "mount",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "open_tree",
    "mount_setattr",
    "pivot_root",
]
_MASKED = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
]
_READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_PACKAGES = ["python3", "uidmap"]
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHIFTED = 0x20000000  # where a container with a user namespace of its own gets its ids
_SHIFTED_COUNT = 65536
USER = 1000


def _all_capabilities() -> list[str]:
    """Give what root has here: not everything where that is a guest of somebody's."""
    status = Path("/proc/self/status").read_text()
    held = int(re.findall(r"^CapBnd:\s*(\w+)", status, re.MULTILINE)[0], 16)
    return [name for number, name in enumerate(capabilities.NAMES) if held >> number & 1]


ALL_CAPABILITIES = _all_capabilities()


@dataclass(frozen=True)
class Container:
    """How a container is started.

    `newuidmap` says how the image has that program: set-uid root as Debian does, with file
    capabilities, or not at all, which leaves its user without subordinate ids. `own_ids` gives
    it a user namespace of 64 k ids, as Kubernetes' `hostUsers: false`. Without a `volume` there is
    only the overlay of the root to write to. `prelude` is shell code that goes before a command.
    """

    seccomp: Profile = "docker"
    refused: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = tuple(DOCKER_CAPABILITIES)
    uid: int = 0
    no_new_privs: bool = False
    masked: bool = True
    newuidmap: Literal["set-uid", "file-capabilities", "none"] = "none"
    own_ids: bool = False
    volume: bool = True
    prelude: str = ""

    @property
    def home(self) -> str:
        return "/home/ci" if self.uid else "/root"


@dataclass(frozen=True)
class Started:
    """A root that commands can be run in; `place` is where its bundle is."""

    container: Container
    place: Path

    @property
    def root(self) -> Path:
        return self.place / "root"

    def run(
        self,
        *argv: str,
        binds: Mapping[Path, str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run one command; `binds` are files of this machine and where they are shown read-only."""
        name = f"imgbuild-test-{os.getpid()}-{self.place.name}"
        command = ["/bin/sh", "-c", f'{self.container.prelude}\nexec "$@"', "sh", *argv]
        config = _config(self, command, dict(binds or {}), dict(env or {}))
        (self.place / "config.json").write_text(json.dumps(config))
        words = [*_runtime(), "--root", str(self.place / "state")]
        try:
            return subprocess.run(
                [*words, "run", "--bundle", str(self.place), name],
                capture_output=True,
                text=True,
                errors="replace",
                input="",  # crun gives its standard input, /dev/null too, to the container's user
                timeout=timeout,
            )
        finally:
            subprocess.run([*words, "delete", "--force", name], capture_output=True)


@contextmanager
def started(container: Container, template: Path | None = None) -> Iterator[Started]:
    """Give a container with a fresh root; everything is removed afterwards."""
    lower = template or tree()
    _runtime()
    place = Path(tempfile.mkdtemp(prefix="imgbuild-container-"))
    place.chmod(0o755)
    owner = _SHIFTED if container.own_ids else 0
    try:
        for name in ("upper", "work", "root", "volume"):
            (place / name).mkdir(mode=0o755)
            os.chown(place / name, owner, owner)
        os.chown(place / "volume", owner + container.uid, owner + container.uid)
        options = f"lowerdir={lower},upperdir={place}/upper,workdir={place}/work"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(place / "root")]
        if container.own_ids:
            options = f"lowerdir={_shifted(lower)},upperdir={place}/upper,workdir={place}/work"
            mount[-2] = options
        subprocess.run(mount, check=True)
        try:
            _furnish(place / "root", container)
            yield Started(container, place)
        finally:
            subprocess.run(["umount", str(place / "root")], check=True)
    finally:
        shutil.rmtree(place)


@cache
def tree(*packages: str) -> Path:
    """Return a Debian root with Python and newuidmap, and `packages`; skip where there is none."""
    base = debian.tree()
    kept = base.parent.with_name("-".join(["imgbuild-test-container", *packages]))
    if not (kept / "done").exists():
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(mode=0o755)
        subprocess.run(["cp", "-a", str(base), str(kept / "root")], check=True)
        shutil.copy("/etc/resolv.conf", kept / "root/etc/resolv.conf")
        wanted = " ".join([*_PACKAGES, *packages])
        install = f"apt-get update -q && apt-get install -y -q --no-install-recommends {wanted}"
        made = subprocess.run(
            ["chroot", str(kept / "root"), "/bin/sh", "-c", install],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": _PATH, "DEBIAN_FRONTEND": "noninteractive"},
        )
        if made.returncode:
            pytest.skip(f"no Debian mirror can be had: {made.stdout[-300:]}{made.stderr[-300:]}")
        (kept / "done").touch()
    return kept / "root"


@cache
def installation() -> Path:
    """Return a folder with this project and what it needs, for the Python of the container."""
    kept = Path(tempfile.mkdtemp(prefix="imgbuild-installed-"))
    kept.chmod(0o755)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_PROJECT / "imgbuild", kept / "imgbuild", ignore=ignore)
    here = "{}.{}".format(*sys.version_info)
    # Debian 12's; compiled libraries are made for one version.
    if here == "3.11":
        for name in _needed("imgbuild", set()):
            _copy_distribution(name, kept)
    else:
        needed = importlib.metadata.requires("imgbuild") or []
        plain = [line for line in needed if "extra ==" not in line]
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(kept), *plain]
        subprocess.run([*pip, "--python-version", "3.11", "--only-binary", ":all:"], check=True)
    return kept


def _needed(name: str, seen: set[str]) -> Iterator[str]:
    for line in importlib.metadata.requires(name) or []:
        found = re.match(r"[\w.-]+", line)
        if found is None or "extra ==" in line or found[0].lower() in seen:
            continue
        seen.add(found[0].lower())
        try:
            importlib.metadata.distribution(found[0])
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or version
        yield found[0]
        yield from _needed(found[0], seen)


def _copy_distribution(name: str, target: Path) -> None:
    for file in importlib.metadata.distribution(name).files or []:
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(file.locate()), target / file)


@cache
def _shifted(template: Path) -> Path:
    """Return a copy of a template for a container with ids of its own."""
    copy = template.parent / "shifted"
    if not (copy / ".done").exists():
        shutil.rmtree(copy, ignore_errors=True)
        subprocess.run(["cp", "-a", str(template), str(copy)], check=True)
        for folder, folders, files in os.walk(copy):
            for name in (".", *folders, *files):
                path = os.path.join(folder, name)
                if name != "." or folder == str(copy):
                    _shift(path)
        (copy / ".done").touch()
    return copy


def _shift(path: str) -> None:
    found = os.lstat(path)
    os.lchown(path, found.st_uid + _SHIFTED, found.st_gid + _SHIFTED)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(path, stat.S_IMODE(found.st_mode))  # the change of owner took set-uid away


def _furnish(root: Path, container: Container) -> None:
    """Make the user ci, with what newuidmap needs or without it."""
    base = _SHIFTED if container.own_ids else 0
    for file, line in (
        ("passwd", f"ci:x:{USER}:{USER}::/home/ci:/bin/sh\n"),
        ("group", f"ci:x:{USER}:\n"),
    ):
        with (root / "etc" / file).open("a") as out:
            out.write(line)
    ids = "" if container.newuidmap == "none" else "ci:100000:65536\n"
    for name in ("subuid", "subgid"):
        (root / "etc" / name).write_text(ids)
    (root / "home/ci").mkdir()
    os.chown(root / "home/ci", base + USER, base + USER)
    if container.newuidmap == "file-capabilities":
        for name, number in (("newuidmap", 7), ("newgidmap", 6)):
            path = root / "usr/bin" / name
            path.chmod(0o755)
            # struct vfs_cap_data, revision 2, effective; CAP_SETUID is 7, CAP_SETGID 6
            data = struct.pack("<IIIII", 0x02000001, 1 << number, 0, 0, 0)
            os.setxattr(path, "security.capability", data)


@cache
def _runtime() -> tuple[str, ...]:
    """Return the command of a runtime that works here; skip where there is none."""
    if os.geteuid() != 0:
        pytest.skip("needs root to start containers")
    # crun wants one kind of cgroups: it sees an empty hierarchy of the second.
    alone = 'mount -t cgroup2 -o ro none /sys/fs/cgroup && exec crun --cgroup-manager=disabled "$@"'
    crun = ("unshare", "-m", "--propagation", "private", "sh", "-c", alone, "crun")
    tried = []
    for program, command in (("crun", crun), ("runc", ("runc",))):
        if shutil.which(program) is None:
            tried.append(f"{program} is not installed")
            continue
        problem = _try_runtime(command)
        if not problem:
            return command
        tried.append(problem)
    pytest.skip(f"no OCI runtime works: {'; '.join(tried)}")


def _try_runtime(command: Sequence[str]) -> str:
    with tempfile.TemporaryDirectory(prefix="imgbuild-bundle-") as folder:
        place = Path(folder)
        config = _config(Started(Container(seccomp="unconfined"), place), ["true"], {}, {})
        config["root"] = {"path": str(tree()), "readonly": True}
        config["mounts"] = config["mounts"][:2]
        (place / "config.json").write_text(json.dumps(config))
        words = [*command, "--root", str(place / "state"), "run", "--bundle", folder]
        done = subprocess.run(
            [*words, f"imgbuild-try-{os.getpid()}"],
            capture_output=True,
            text=True,
            input="",
        )
        return f"{done.stderr.strip()[-300:]} ({done.returncode})" if done.returncode else ""


def _config(
    started: Started, argv: list[str], binds: dict[Path, str], env: dict[str, str]
) -> dict[str, Any]:
    container = started.container
    held = [f"CAP_{name.upper()}" for name in container.capabilities]
    # As docker has it: a user other than root holds none, but may get them by executing programs.
    sets = {"bounding": held}
    sets |= {name: held if container.uid == 0 else [] for name in ("effective", "permitted")}
    variables = {"PATH": _PATH, "HOME": container.home, "PYTHONPATH": "/opt/imgbuild"} | env
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": container.uid, "gid": container.uid},
            "args": argv,
            "env": [f"{name}={value}" for name, value in variables.items()],
            "cwd": "/",
            "capabilities": sets,
            "noNewPrivileges": container.no_new_privs,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
        },
        "root": {"path": str(started.root), "readonly": False},
        "hostname": "container",
        "mounts": [*_MOUNTS, *_binds(started, binds)],
        "linux": _linux(container),
    }


def _linux(container: Container) -> dict[str, Any]:
    spaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
    linux: dict[str, Any] = {"namespaces": spaces}
    if container.own_ids:
        spaces.append({"type": "user"})
        mapping = [{"containerID": 0, "hostID": _SHIFTED, "size": _SHIFTED_COUNT}]
        linux |= {"uidMappings": mapping, "gidMappings": mapping}
    if container.masked:
        linux |= {"maskedPaths": _MASKED, "readonlyPaths": _READONLY}
    held = set(container.capabilities)
    if filters := seccomp(container.seccomp, held, container.refused):
        linux["seccomp"] = filters
    return linux


def _mount(target: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    return {
        "destination": target,
        "type": kind,
        "source": source or kind,
        "options": list(options),
    }


# https://github.com/moby/moby/blob/master/oci/defaults.go; /sys is bound since the network is the host's
_MOUNTS = [
    _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
    _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    _mount(
        *("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")
    ),
    _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
    _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    _mount("/sys", "none", "rbind", "nosuid", "noexec", "nodev", "ro", source="/sys"),
]


def _binds(started: Started, binds: dict[Path, str]) -> Iterator[dict[str, Any]]:
    shown = {installation(): "/opt/imgbuild", Path("/etc/resolv.conf"): "/etc/resolv.conf", **binds}
    for source, target in shown.items():
        yield _mount(target, "none", "rbind", "ro", source=str(source))
    if started.container.volume:
        yield _mount("/work", "none", "bind", source=str(started.place / "volume"))
