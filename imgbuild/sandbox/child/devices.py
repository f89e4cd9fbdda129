"""Devices of this machine in a container's /dev, as bind mounts: no node can be made in there."""

import contextlib
import os
import stat

from imgbuild import inroot
from imgbuild.sandbox.child import syscalls
from imgbuild.sandbox.child.failure import Failed
from imgbuild.sandbox.child.syscalls import NOEXEC, NOSUID

Device = tuple[int, bytes]


def clone(devices: list[list[str]]) -> list[Device]:
    """Give mounts of device nodes, attached nowhere, with their targets; this machine's root is /.

    `devices` are source, target and permissions. Raises `Failed` for what is no device.
    """
    return [(_clone(os.fsencode(source)), os.fsencode(target)) for source, target, _ in devices]


def _clone(source: bytes) -> int:
    try:
        mount = syscalls.open_tree(source)
    except OSError as problem:
        raise Failed(
            "device", f"{os.fsdecode(source)}: {problem.strerror}", problem.errno
        ) from None
    kind = os.fstat(mount).st_mode
    if not (stat.S_ISCHR(kind) or stat.S_ISBLK(kind)):
        raise Failed("device", f"{os.fsdecode(source)} is no device")
    syscalls.mount_setattr(mount, b"", NOSUID | NOEXEC)
    return mount


def attach(devices: list[Device], root_fd: int) -> None:
    """Attach devices below /dev of a root, which is the container's own file system."""
    for mount, path in devices:
        folder, _, name = path.strip(b"/").rpartition(b"/")
        parent = inroot.make_dirs(root_fd, folder, 0o755, (0, 0))
        # One of /dev's own, such as null, is there already.
        flags = os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK
        with contextlib.suppress(FileExistsError):
            os.close(os.open(name, flags | os.O_EXCL, 0o644, dir_fd=parent))
        target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        syscalls.move_mount(mount, target)
        for fd in (target, parent, mount):
            os.close(fd)
