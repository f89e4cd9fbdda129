"""The last part of the way: the first process of the namespaces becomes the command.

Everything it needs must be imported before the root changes: an import after that would load
code from the image.
"""

import contextlib
import fcntl
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable
from typing import NoReturn

from imgbuild import inroot
from imgbuild.sandbox.child import (
    capabilities,
    devices,
    filesystems,
    limits,
    mounts,
    network,
    notify,
    owners,
    seccomp,
    syscalls,
    wire,
)
from imgbuild.sandbox.child.failure import Failed, naming

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIOCSCTTY = 0x540E  # asm-generic/ioctls.h
_NO_STATUS = 125  # as docker has it for what is not the command's fault
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as a shell has it


def become(
    parent: int,
    spec: wire.Message,
    root_fd: int,
    made: list[mounts.Made],
    nodes: list[devices.Device],
    fds: list[int],
    channel: socket.socket | None,
) -> NoReturn:
    """Finish the root, enter it, give up privileges and execute the command.

    `parent` is a pidfd of the process to end with; `made` is what to mount in the root, `nodes`
    are its devices; `channel` leads to a supervisor where there is one.
    """
    syscalls.die_with(parent)
    cwd = _finish_root(spec, root_fd, made, nodes)
    profile, supervision = compiled_filters(spec)
    take_streams(fds, interactive=spec["interactive"])
    with naming("pivot"):
        change_root(root_fd, pivot=spec["enter"] == "pivot_root")
    reset_process()
    with naming("workdir"):
        os.fchdir(cwd)
        if not os.getcwdb().startswith(b"/"):
            raise Failed("workdir", "the working directory is outside the root")
    syscalls.landlock_scope()
    if not spec["insecure"]:
        with naming("seccomp"):
            syscalls.install_filter(profile)
    if channel is not None:
        with naming("supervise"):
            notify.hand_over(channel, supervision)
    limits.apply(spec)
    drop_privileges(spec)
    syscalls.die_with(parent)  # the change of ids disarmed it
    execute(spec["argv"], dict(spec["env"]))


def _finish_root(
    spec: wire.Message, root_fd: int, made: list[mounts.Made], nodes: list[devices.Device]
) -> int:
    """Mount in the root all that the command finds there; give its working directory.

    That is entered by this descriptor later: a path might lead through /proc/self/fd to this host.
    """
    with naming("mount"):
        syscalls.set_propagation(syscalls.MS_PRIVATE)
        attach_root(root_fd)
    if spec["network"] == "none":
        with naming("network"):
            network.bring_up_loopback()
    filesystems.set_up(
        root_fd,
        own_network=spec["network"] == "none",
        own_proc=spec["proc"] == "own",
        sysfs=spec["lent"].get("sysfs"),
        shm_size=spec["shm_size"],
        masked=not spec["insecure"],
    )
    with naming("device"):
        devices.attach(nodes, root_fd)
    for mount in made:
        mounts.attach(mount, root_fd)
    with naming("workdir"):
        cwd = inroot.make_dirs(root_fd, os.fsencode(spec["cwd"]), 0o755, tuple(spec["first"]))
    with contextlib.suppress(OSError):  # podman's filter forbids it, and nothing depends on it
        syscalls.sethostname(os.fsencode(spec["hostname"]))
    if spec["readonly"]:
        with naming("read-only"):
            syscalls.mount_setattr(root_fd, b"", syscalls.READONLY)
    return cwd


def compiled_filters(spec: wire.Message) -> tuple[bytes, bytes]:
    """Give the seccomp filters of a spec: the profile, and that of its supervisor if it has one.

    The zygote calls this first, so that they are cached.
    """
    held = spec["capabilities"]
    try:
        profile = seccomp.compile_filter(frozenset(held), syscalls.MACHINE)
        if not spec["supervised"]:
            return profile, b""
        wanted = owners.supervision(spec["uid"], held)
        return profile, seccomp.compile_supervision(wanted, syscalls.MACHINE)
    except ValueError as problem:
        raise Failed("seccomp", str(problem)) from None


def attach_root(root_fd: int) -> None:
    """Put the root over all of the mount namespace, so that more can be mounted in it."""
    top = os.open("/", os.O_PATH | os.O_CLOEXEC)
    syscalls.move_mount(root_fd, top)
    os.close(top)


def take_streams(fds: list[int], *, interactive: bool) -> None:
    """Make three descriptors the standard streams and let no other one through."""
    if not interactive:
        with naming("streams"):
            os.dup2(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), fds[0])
        if any(os.isatty(fd) for fd in fds):
            raise Failed("streams", "a command that is not interactive must not get a terminal")
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    syscalls.close_on_exec_from(3)


def reporting(control: socket.socket, act: Callable[[], int]) -> int:
    """Do something and give its status; say over `control` why there is none."""
    try:
        return act()
    except Failed as failed:
        wire.send(control, {"error": failed.to_json()})
    except BaseException as problem:  # a fault of ours must reach the session as well
        text = f"{type(problem).__name__}: {problem}"
        wire.send(control, {"error": Failed("step", text).to_json()})
    return _NO_STATUS


def end_with(control: socket.socket, act: Callable[[], int]) -> NoReturn:
    """End this process with the status of something, or say why there is none."""
    status = _NO_STATUS
    try:
        status = reporting(control, act)
    finally:
        os._exit(status)


def enter_namespaces(
    control: socket.socket, spec: wire.Message, flags: int, *, own_network: bool
) -> None:
    """Enter new namespaces as their first user: a user namespace, too, where steps have their own."""
    nested = spec["nested"]
    flags |= syscalls.CLONE_NEWNET if own_network else 0
    with naming("unshare"):
        syscalls.unshare(flags | (syscalls.CLONE_NEWUSER if nested else 0))
    if nested:
        map_ids(control, spec["first"])
    else:
        take_ids(spec["first"])


def map_ids(control: socket.socket, first: tuple[int, int]) -> None:
    """Have ids mapped into a user namespace that was just entered, and be its first user."""
    # By the number that /proc has for it: that of a namespace further out.
    wire.send(control, {"map": int(os.readlink("/proc/self"))})
    if wire.receive(control) is None:
        os._exit(1)
    take_ids(first)


def take_ids(ids: tuple[int, int]) -> None:
    """Take on a user and a group id, and no other groups."""
    uid, gid = ids
    with naming("setid"):
        os.setresgid(gid, gid, gid)
        with contextlib.suppress(PermissionError):  # denied where only one id is mapped
            os.setgroups([])
        os.setresuid(uid, uid, uid)


def give_streams(fds: list[int], spec: wire.Message) -> None:
    """Let the command open its own /dev/stdout: a pipe, or a terminal of its own (as runc does)."""
    owner, group = spec["shift"] + spec["uid"], spec["shift"] + spec["gid"]
    for fd in fds[1:]:
        own_terminal = spec["terminal"] and os.isatty(fd)
        if own_terminal or stat.S_ISFIFO(os.fstat(fd).st_mode):
            with contextlib.suppress(OSError):
                os.fchown(fd, owner, group)


def forget_import_paths() -> None:
    """Import nothing from now on.

    Both processes of a step get the new root, the one that waits for the command as well.
    """
    sys.path[:] = []
    sys.meta_path[:] = []
    sys.path_hooks[:] = []


def change_root(root_fd: int, *, pivot: bool) -> None:
    """Make the mounted root the root of this process; `pivot` lets go of the old one.

    Without, the old one stays below the new one, out of reach: from there, ".." leads to what is
    mounted on top.
    """
    os.fchdir(root_fd)
    if pivot:
        syscalls.pivot_root(b".", b".")
        syscalls.umount(b".")
    else:
        os.chroot(".")
    os.chdir("/")


def reset_process() -> None:
    """Undo what a process inherits and docker would not give."""
    os.setsid()
    os.umask(0o022)
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.isatty(0):
        # Job control, on a terminal that no session has. With 0 as its argument the call takes
        # no terminal from another session, not even for root: a command could type into it.
        with contextlib.suppress(OSError):
            fcntl.ioctl(0, _TIOCSCTTY, 0)
    with contextlib.suppress(OSError):
        syscalls.call("keyctl", 1, 0, 0, 0, 0)  # KEYCTL_JOIN_SESSION_KEYRING: a new one


def check_user(spec: wire.Message) -> None:
    """Raise `Failed` for a user or group whose id is not mapped."""
    uid, gid, count = spec["uid"], spec["gid"], spec["count"]
    for name, number, first in zip(("user", "group"), (uid, gid), spec["first"], strict=True):
        if not first <= number < first + count:
            what = "1 id is" if count == 1 else f"{count} ids are"
            raise Failed("user", f"{name} {number} cannot be used: only {what} mapped here")


def drop_privileges(spec: wire.Message) -> None:
    check_user(spec)
    uid, gid, count = spec["uid"], spec["gid"], spec["count"]
    keep = capabilities.numbers(spec["capabilities"])
    with naming("user"):
        if count > 1:
            os.setgroups(spec["groups"])
        os.setresgid(gid, gid, gid)
    with naming("capabilities"):
        # Bound while CAP_SETPCAP is still held; setresuid to another user clears the rest.
        capabilities.bound(keep)
        if uid == 0:
            capabilities.hold(keep)
    if uid != 0:
        with naming("user"):
            os.setresuid(uid, uid, uid)
        with naming("capabilities"):
            capabilities.hold(set())  # still there when it was this user all the time


def execute(argv: list[str], env: dict[str, str]) -> NoReturn:
    """Execute a program found as a shell would find it; end with a shell's status when not."""
    program = argv[0]
    candidates = [program]
    if "/" not in program:
        folders = env.get("PATH", _DEFAULT_PATH).split(":")
        candidates = [f"{folder}/{program}" for folder in folders if folder.startswith("/")]
    refused: OSError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, argv, env)  # noqa: S606 - the step's own command
        except (FileNotFoundError, NotADirectoryError) as problem:
            if "/" in program:
                refused = refused or problem
        except OSError as problem:
            refused = problem
    missing = refused is None or isinstance(refused, (FileNotFoundError, NotADirectoryError))
    reason = "executable file not found in $PATH"
    if refused is not None:
        reason = os.strerror(refused.errno or 0).lower()
    os.write(2, os.fsencode(f'exec: "{program}": {reason}\n'))
    os._exit(_NOT_FOUND if missing else _NOT_EXECUTABLE)
