"""What a failed operation of the sandbox means, and what to do about it."""

import errno
from typing import Any

from imgbuild.errors import DiskFullError, ImgbuildError, SandboxError, StepFailedError

_NOT_EXECUTABLE = 126  # as a shell has it

_IN_CONTAINERS = (
    "In a container, start it with --security-opt seccomp=unconfined --security-opt "
    "apparmor=unconfined --security-opt systempaths=unconfined; in Kubernetes set "
    "`hostUsers: false` and `procMount: Unmasked`."
)
_USER_NAMESPACES = (
    "Allow user namespaces: sysctl user.max_user_namespaces=15000, on Debian also "
    "kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0 "
    f"or an AppArmor profile for this Python. {_IN_CONTAINERS}"
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
_KERNEL = "imgbuild needs Linux 5.12 or later with overlayfs in user namespaces."

# operation -> (what could not be done, what to do)
_MEANINGS = {
    "unshare": ("this host does not allow user namespaces", _USER_NAMESPACES),
    "map": ("ids cannot be mapped into a user namespace", _USER_NAMESPACES),
    "newuidmap": ("newuidmap could not map ids", _NEWUIDMAP),
    "setid": ("the ids of the user namespace cannot be used", _USER_NAMESPACES),
    "mount": ("this host does not allow mounts in a user namespace", _USER_NAMESPACES),
    "read-only": ("the view of this host cannot be made read-only", _KERNEL),
    "overlay": ("the layers cannot be mounted", _STORE),
    "proc": ("/proc cannot be mounted in a container here", _IN_CONTAINERS),
    "sys": ("/sys cannot be mounted in a container here", _IN_CONTAINERS),
    "dev": ("/dev cannot be set up in a container here", _IN_CONTAINERS),
    "mask": ("parts of /proc and /sys cannot be hidden", _KERNEL),
    "pivot": ("the root cannot be changed", _IN_CONTAINERS),
    "seccomp": (
        "the system call filter cannot be installed",
        "imgbuild has filters for x86_64 and aarch64; the kernel needs CONFIG_SECCOMP_FILTER.",
    ),
    "user": ("the user of the command cannot be taken on", SUBIDS),
    "capabilities": ("the capabilities of the command cannot be set", _IN_CONTAINERS),
    "streams": ("the standard streams of the command cannot be set", None),
    "workdir": (
        "the working directory cannot be entered",
        "Check WORKDIR: a parent may be a file or a link into /proc.",
    ),
    "network": ("the network of the container cannot be set up", _IN_CONTAINERS),
    "bind": ("something cannot be mounted in the container", None),
    "limits": (
        "a limit of the command cannot be set",
        (
            "No process here may have more than imgbuild itself: give less, or raise the hard limit of "
            "the shell that starts imgbuild (ulimit -H, /etc/security/limits.conf)."
        ),
    ),
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


def explain(error: dict[str, Any]) -> ImgbuildError:
    """Turn the error of a sandbox process into one with a remedy."""
    op = error.get("op", "")
    if error.get("errno") in {errno.ENOSPC, errno.EDQUOT}:
        if op == "unshare":  # ENOSPC: the limit of namespaces is reached
            return _error(*_MEANINGS["unshare"], error)
        return disk_full(error["message"])
    what, hint = _MEANINGS.get(op, ("the sandbox broke", None))
    if op == "workdir":  # the image's fault, not this host's
        return StepFailedError(f"{what}: {error['message']}", status=_NOT_EXECUTABLE, hint=hint)
    return _error(what, hint, error)


def disk_full(message: str) -> DiskFullError:
    return DiskFullError(
        f"no space left: {message}", hint="Free some space, or name another store with --store."
    )


def _error(what: str, hint: str | None, error: dict[str, Any]) -> SandboxError:
    return SandboxError(f"{what}: {error['message']}", hint=hint)
