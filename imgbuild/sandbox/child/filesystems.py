"""What a container sees at /proc, /sys and /dev, and what of it is hidden, as docker has it.

All mounts are made detached and attached by descriptor to targets that are looked up inside the
root, so no link in an image can put one anywhere else.
"""

import contextlib
import os
import stat

from imgbuild import inroot
from imgbuild.sandbox.child import syscalls
from imgbuild.sandbox.child.failure import naming
from imgbuild.sandbox.child.syscalls import NODEV, NOEXEC, NOSUID, READONLY

DIRECTORIES = (b"proc", b"sys", b"dev")

STRICT = NOSUID | NODEV | NOEXEC
_DEVICES = (b"null", b"zero", b"full", b"random", b"urandom", b"tty")
_LINKS = (
    (b"pts/ptmx", b"ptmx"),
    (b"/proc/self/fd", b"fd"),
    (b"/proc/self/fd/0", b"stdin"),
    (b"/proc/self/fd/1", b"stdout"),
    (b"/proc/self/fd/2", b"stderr"),
    (b"/proc/kcore", b"core"),
)
# https://github.com/moby/moby/blob/master/oci/defaults.go
MASKED = (
    b"proc/acpi",
    b"proc/asound",
    b"proc/interrupts",
    b"proc/kcore",
    b"proc/keys",
    b"proc/latency_stats",
    b"proc/sched_debug",
    b"proc/scsi",
    b"proc/timer_list",
    b"proc/timer_stats",
    b"sys/devices/virtual/powercap",
    b"sys/firmware",
)
PROTECTED = (b"proc/bus", b"proc/fs", b"proc/irq", b"proc/sys", b"proc/sysrq-trigger")


def set_up(
    root_fd: int,
    *,
    own_network: bool,
    own_proc: bool,
    sysfs: int | None,
    shm_size: int,
    masked: bool,
) -> None:
    """Mount /proc, /sys and /dev in a root and mask what must not be seen; sizes are in bytes.

    `sysfs` is a mount to take instead of making one.
    """
    with naming("proc"):
        _attach(make_proc() if own_proc else _share_proc(), root_fd, b"proc")
    with naming("sys"):
        _set_up_sys(root_fd, sysfs, own_network=own_network)
    with naming("dev"):
        _set_up_dev(root_fd, shm_size)
    if not masked:
        return
    with naming("mask"):
        for path in MASKED:
            _mask(root_fd, path)
        for path in PROTECTED if own_proc else ():
            _protect(root_fd, path)


def make_proc() -> int:
    """Give a /proc of this process's PID namespace; OSError where the kernel refuses that.

    It does so when parts of the /proc around are hidden, as they are in most containers.
    """
    return make_filesystem(b"proc", STRICT)


def make_root() -> int:
    """Give an empty filesystem that can be a root."""
    return make_filesystem(b"tmpfs", NOSUID | NODEV, mode=b"0755", size=b"64k")


def cover(path: bytes) -> None:
    """Put a filesystem in memory over a directory."""
    mount = make_filesystem(b"tmpfs", NOSUID | NODEV, mode=b"0700")
    target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.move_mount(mount, target)
    os.close(target)
    os.close(mount)


def clone(path: bytes, attributes: int) -> int:
    """Give a mount of something on this machine, attached nowhere."""
    mount = syscalls.open_tree(path)
    syscalls.mount_setattr(mount, b"", attributes)
    return mount


def make_sysfs() -> int:
    """Give a /sys of this process's network, attached nowhere."""
    return make_filesystem(b"sysfs", STRICT | READONLY)


def make_sys(sysfs: int | None, *, own_network: bool) -> int:
    """Give /sys: the one that was lent, that of an own network, or the one around, read-only."""
    if sysfs is not None:
        return sysfs
    if own_network:  # only the owner of a network namespace may mount its sysfs
        with contextlib.suppress(OSError):  # parts of the /sys around are hidden, as in containers
            return make_sysfs()
    around = syscalls.open_tree(b"/sys", recursive=True)
    syscalls.mount_setattr(around, b"", STRICT | READONLY, recursive=True)
    return around


def _share_proc() -> int:
    """Give the /proc around with all that is mounted in it, read-only.

    It lists processes outside of the step. With the same user id, as where there is only one, some
    of their files could be written to; read-only, none can.
    """
    mount = syscalls.open_tree(b"/proc", recursive=True)
    syscalls.mount_setattr(mount, b"", STRICT | READONLY, recursive=True)
    return mount


def _set_up_sys(root_fd: int, sysfs: int | None, *, own_network: bool) -> None:
    _attach(make_sys(sysfs, own_network=own_network), root_fd, b"sys")
    try:
        groups = inroot.open_in_root(root_fd, b"sys/fs/cgroup", os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        mount = make_filesystem(b"cgroup2", STRICT | READONLY)
    except OSError:  # cgroup v1, or not ours to mount
        mount = make_filesystem(b"tmpfs", STRICT | READONLY, mode=b"0755", size=b"4k")
    syscalls.move_mount(mount, groups)
    os.close(mount)
    os.close(groups)


def _set_up_dev(root_fd: int, shm_size: int) -> None:
    dev = make_filesystem(b"tmpfs", NOSUID | NODEV, mode=b"0755", size=b"64m")
    target = inroot.open_in_root(root_fd, b"dev", os.O_PATH | os.O_DIRECTORY)
    syscalls.move_mount(dev, target)
    os.close(target)
    for name in _DEVICES:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, dir_fd=dev))
        _attach_in(dev, name, clone(b"/dev/" + name, NOSUID | NOEXEC))
    for name in (b"pts", b"shm", b"mqueue"):
        os.mkdir(name, 0o755, dir_fd=dev)
    _attach_in(dev, b"pts", _make_pts())
    _attach_in(dev, b"shm", make_filesystem(b"tmpfs", STRICT, mode=b"1777", size=b"%d" % shm_size))
    try:
        _attach_in(dev, b"mqueue", make_filesystem(b"mqueue", STRICT))
    except OSError:
        os.rmdir(b"mqueue", dir_fd=dev)  # a kernel without POSIX message queues
    for text, name in _LINKS:
        os.symlink(text, name, dir_fd=dev)
    os.close(dev)


def _make_pts() -> int:
    options = {"mode": b"0620", "ptmxmode": b"0666"}
    try:
        return make_filesystem(b"devpts", NOSUID | NOEXEC, **options, gid=b"5")  # tty, everywhere
    except OSError:  # group 5 is not mapped
        return make_filesystem(b"devpts", NOSUID | NOEXEC, **options)


def _mask(root_fd: int, path: bytes) -> None:
    """Hide a file behind /dev/null, a directory behind an empty one."""
    try:
        target = inroot.open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(os.fstat(target).st_mode):
        mount = make_filesystem(b"tmpfs", STRICT | READONLY, size=b"4k", nr_inodes=b"2")
    else:
        mount = clone(b"/dev/null", NOSUID | NOEXEC | READONLY)
    syscalls.move_mount(mount, target)
    os.close(mount)
    os.close(target)


def _protect(root_fd: int, path: bytes) -> None:
    """Make a part of /proc read-only."""
    try:
        target = inroot.open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        return
    mount = syscalls.open_tree(b"", at=target)
    syscalls.mount_setattr(mount, b"", STRICT | READONLY)
    syscalls.move_mount(mount, target)
    os.close(mount)
    os.close(target)


def make_filesystem(fstype: bytes, attributes: int, **options: bytes) -> int:
    """Give the mount of a new file system, attached nowhere."""
    fs = syscalls.fsopen(fstype)
    try:
        syscalls.fsconfig_string(fs, b"source", fstype)
        for key, value in options.items():
            syscalls.fsconfig_string(fs, key.encode(), value)
        return syscalls.fsmount(fs, attributes)
    finally:
        os.close(fs)


def _attach(mount: int, root_fd: int, path: bytes) -> None:
    target = inroot.open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    syscalls.move_mount(mount, target)
    os.close(target)
    os.close(mount)


def _attach_in(directory: int, name: bytes, mount: int) -> None:
    target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    syscalls.move_mount(mount, target)
    os.close(target)
    os.close(mount)
