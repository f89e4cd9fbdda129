"""What a failed operation of the sandbox means, and what to do about it."""

import errno
import os
import sys
from pathlib import Path
from typing import Any

from imgbuild.errors import DiskFullError, ImgbuildError, SandboxError, StepFailedError

_NOT_EXECUTABLE = 126  # as a shell has it

IN_CONTAINERS = (
    "In a container, start it with --security-opt seccomp=unconfined --security-opt "
    "apparmor=unconfined --security-opt systempaths=unconfined; in Kubernetes set "
    "`hostUsers: false` and `procMount: Unmasked`."
)
_USER_NAMESPACES = (
    "Allow user namespaces: sysctl user.max_user_namespaces=15000, on Debian also "
    "kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0 "
    f"or an AppArmor profile for this Python. {IN_CONTAINERS}"
)
_MOUNTS = (
    "The host's security module may forbid mounts: start the container with --security-opt "
    "apparmor=unconfined --security-opt seccomp=unconfined; in Kubernetes set "
    "`appArmorProfile: {type: Unconfined}` and `seccompProfile: {type: Unconfined}`."
)
_NEWUIDMAP = (
    "newuidmap and newgidmap must be setuid root (as the package uidmap installs them). In a "
    "container give them file capabilities instead: setcap cap_setuid=ep newuidmap; "
    "setcap cap_setgid=ep newgidmap; chmod u-s on both."
)
_STORE = (
    "The store must be on a local filesystem such as ext4, xfs, btrfs or tmpfs, not on overlayfs, "
    "NFS or FUSE. In a container put it on a volume (Kubernetes: an emptyDir) and name it with "
    "--store."
)
SUBIDS = (
    "Give this user ids of its own: usermod --add-subuids 100000-165535 --add-subgids "
    "100000-165535 USER, and install newuidmap (package uidmap). Then build again."
)
_SUPERVISION = (
    "kernel.yama.ptrace_scope must not be 3, and this must not run inside another supervised "
    f"sandbox. With more than one user id nothing has to be supervised. {SUBIDS}"
)
_KERNEL = "imgbuild needs Linux 5.12 or later with overlayfs in user namespaces."


class RefusedError(SandboxError):
    """This host refuses an operation that a way to run commands needs."""

    def __init__(self, message: str, *, hint: str | None, operation: str) -> None:
        super().__init__(message, hint=hint)
        self.operation = operation


# operation -> (what could not be done, what to do)
_MEANINGS = {
    "unshare": ("this host does not allow user namespaces", _USER_NAMESPACES),
    "map": ("ids cannot be mapped into a user namespace", _USER_NAMESPACES),
    "newuidmap": ("newuidmap could not map ids", _NEWUIDMAP),
    "setid": ("the ids of the user namespace cannot be used", _USER_NAMESPACES),
    "mount": ("this host does not allow mounts in a user namespace", _MOUNTS),
    "read-only": ("the view of this host cannot be made read-only", _KERNEL),
    "overlay": ("the layers cannot be mounted", _STORE),
    "memory": ("the changes of steps can be kept neither in the store nor in memory", _STORE),
    "proc": ("/proc cannot be mounted in a container here", IN_CONTAINERS),
    "sys": ("/sys cannot be mounted in a container here", IN_CONTAINERS),
    "dev": ("/dev cannot be set up in a container here", IN_CONTAINERS),
    "mask": ("parts of /proc and /sys cannot be hidden", _KERNEL),
    "pivot": ("the root cannot be changed", IN_CONTAINERS),
    "seccomp": (
        "the system call filter cannot be installed",
        "imgbuild has filters for x86_64 and aarch64; the kernel needs CONFIG_SECCOMP_FILTER.",
    ),
    "supervise": ("the command's changes of owners cannot be supervised", _SUPERVISION),
    "user": ("the user of the command cannot be taken on", SUBIDS),
    "capabilities": ("the capabilities of the command cannot be set", IN_CONTAINERS),
    "nested": ("this host does not allow a user namespace for each step", _USER_NAMESPACES),
    "isolation": (
        "--security=insecure and SYS_ADMIN or SYS_PTRACE cannot be allowed here",
        f"These capabilities would lead out of the container. {IN_CONTAINERS}",
    ),
    "tier": (
        "this host cannot give a step what it asks for",
        f"It needs namespaces and mounts, see `imgbuild doctor`. {IN_CONTAINERS}",
    ),
    "streams": ("the standard streams of the command cannot be set", None),
    "workdir": (
        "the working directory cannot be entered",
        "Check WORKDIR: a parent may be a file or a link into /proc.",
    ),
    "network": ("the network of the container cannot be set up", IN_CONTAINERS),
    "bind": ("something cannot be mounted in the container", None),
    "limits": (
        "a limit of the command cannot be set",
        (
            "No process here may have more than imgbuild itself: give less, or raise the hard limit of "
            "the shell that starts imgbuild (ulimit -H, /etc/security/limits.conf)."
        ),
    ),
    "landlock": ("the build cannot be kept to its store by Landlock", None),
    "device": ("a device cannot be given to the command", None),
    "cgroup": ("the command cannot join its control group", "Leave the limits out."),
    "stub": ("a mount point cannot be made in the image", None),
    "bundle": ("what an OCI runtime needs cannot be set up", None),
    "runtime": (
        "no OCI runtime can make the container",
        "Name another one with --runtime, or leave --isolation=oci out: imgbuild needs none.",
    ),
    "start": ("the sandbox could not start", None),
}

# What AppArmor's restriction lets fail, since a user namespace itself is still given.
_RESTRICTED = frozenset({"map", "newuidmap", "setid", "mount", "read-only"})
_RESTRICTION = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
# Programs that distributions have profiles for, and that start others in a user namespace.
_LAUNCHERS = {
    "buildah": "buildah unshare",
    "podman": "podman unshare",
    "rootlesskit": "rootlesskit",
}


def explain(error: dict[str, Any]) -> ImgbuildError:
    """Turn the error of a sandbox process into one with a remedy."""
    op = error.get("op", "")
    full = error.get("errno") in {errno.ENOSPC, errno.EDQUOT}
    if full and op not in {"unshare", "nested"}:  # there it is the limit of namespaces
        return disk_full(error["message"])
    what, hint = _MEANINGS.get(op, ("the sandbox broke", None))
    message = f"{what}: {error['message']}"
    if op == "workdir":  # the image's fault, not this host's
        return StepFailedError(message, status=_NOT_EXECUTABLE, hint=hint)
    if op in _RESTRICTED and error.get("errno") in {errno.EPERM, errno.EACCES, None}:
        hint = _of_apparmor() or hint
    if op in _MEANINGS and op != "start":
        return RefusedError(message, hint=hint, operation=op)
    return SandboxError(message, hint=hint)


def disk_full(message: str) -> DiskFullError:
    return DiskFullError(
        f"no space left: {message}", hint="Free some space, or name another store with --store."
    )


def _of_apparmor() -> str | None:
    """Say what to do about AppArmor's restriction of user namespaces (Ubuntu 23.10), where it is on."""
    try:
        if _RESTRICTION.read_text().strip() != "1":
            return None
    except OSError:
        return None
    python = os.path.realpath(sys.executable)
    profile = f"profile imgbuild {python} flags=(unconfined) {{ userns, }}"
    ways = [
        "switch it off: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        f"give this Python a profile in /etc/apparmor.d: {profile}",
    ]
    installed = [how for name, how in _LAUNCHERS.items() if _is_installed(name)]
    ways += [f"let a program that has one start it: {how} imgbuild ..." for how in installed[:1]]
    return (
        "AppArmor restricts user namespaces of programs without a profile. Either "
        + "; or ".join(ways)
    )


def _is_installed(program: str) -> bool:
    folders = ("/usr/local/bin", "/usr/bin", "/bin")
    return any(os.access(f"{folder}/{program}", os.X_OK) for folder in folders)
