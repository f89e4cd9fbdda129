"""Run one command where nothing can be mounted: chroot into a directory with a whole file system.

Tier D has no namespaces at all: the container around is the boundary. What can be done within it
is done: the command cannot leave its root by a second chroot or by device nodes, Landlock keeps
it to the root's files and to its own processes, and whatever it leaves running is ended. In tier
D-userns it also has user ids, processes and a host name of its own.

The process that waits stays outside of all that. It puts mounts in place and takes them away, and
answers what the command asks of /proc and /dev.
"""

import contextlib
import os
import select
import signal
import socket
import time
from typing import NoReturn

from imgbuild import inroot
from imgbuild.sandbox.child import capabilities, enter, landlock, syscalls, wire
from imgbuild.sandbox.child.failure import Failed, naming
from imgbuild.sandbox.child.placed import Places
from imgbuild.sandbox.child.standins import StandIns

# With these a command could leave its root, or reach what Landlock knows nothing of.
_TOO_MUCH = frozenset({"sys_chroot", "mknod", "net_raw"})
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_NAMESPACES = (
    syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWCGROUP
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PAUSE = 0.001  # seconds between looks at what still runs


def run(zygote: int, control: socket.socket, spec: wire.Message, fds: list[int]) -> int:
    """Run a spec as `step.main` does, in a root that is a directory."""
    _refuse_impossible(spec)
    alone = spec["tier"] == "D"
    parent = os.pidfd_open(zygote)
    syscalls.prctl(_SUBREAPER, 1)
    path = os.fsencode(spec["root"]["path"])
    root = os.open(path, _DIRECTORY)
    aside = _open_aside(path + b".aside")
    with naming("stub"):
        StandIns(root, aside, spec["shift"]).make()
    places = Places(root, aside, spec["shift"])
    try:
        for mount in spec["mounts"]:
            places.put(mount)
        return _run_placed(parent, control, spec, root, fds, alone=alone)
    finally:
        if alone:
            _end_descendants()
        places.take_away()


def try_out(_zygote: int, control: socket.socket, spec: wire.Message, _fds: list[int]) -> int:
    """Find out whether commands can be run this way, by doing it; tell it over `control`."""
    root = os.open("/", _DIRECTORY)
    found = {"nested": spec["nested"], "proc": "emulated", "enter": "chroot"}
    pid = os.fork()
    if not pid:
        enter.end_with(control, lambda: _try_here(control, spec, root, found))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _try_here(
    control: socket.socket, spec: wire.Message, root: int, found: dict[str, object]
) -> NoReturn:
    if spec["tier"] != "D":
        _enter_namespaces(control, spec, own_network=False)
    with naming("pivot"):
        _change_root(root)
    _confine(root, spec)
    wire.send(control, {"found": found})
    os._exit(0)


def _refuse_impossible(spec: wire.Message) -> None:
    """Say what cannot be had here instead of leaving it out."""
    name = spec["tier"]
    if name == "D" and spec["network"] != "host":
        raise Failed("tier", f"network {spec['network']} in tier {name}")
    if spec["network"] == "private":
        raise Failed("tier", f"a network of its own in tier {name}")
    if spec["readonly"]:
        raise Failed("tier", f"a read-only root in tier {name}")
    for device, _, _ in spec["devices"]:
        raise Failed("tier", f"the device {device} in tier {name}")


def _open_aside(path: bytes) -> int:
    """Open the directory for what a step's root must not show; made at the first step."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    return os.open(path, _DIRECTORY)


def _run_placed(
    parent: int,
    control: socket.socket,
    spec: wire.Message,
    root: int,
    fds: list[int],
    *,
    alone: bool,
) -> int:
    owner = spec["shift"]
    with naming("workdir"):
        # Entered by this descriptor later: a path might lead elsewhere by then.
        ids = (owner, owner)
        cwd = inroot.make_dirs(root, os.fsencode(spec["cwd"]).strip(b"/"), 0o755, ids)
    me = os.pidfd_open(os.getpid())
    first = os.fork()
    if not first:
        enter.end_with(control, lambda: _start(me, control, spec, root, cwd, fds, alone=alone))
    if alone:
        wire.send(control, {"pid": first})
    for fd in (*fds, me, cwd):
        os.close(fd)
    status = _wait(first, parent)
    return status if status >= 0 else 128 - status


def _wait(pid: int, parent: int) -> int:
    """Wait for the command; end it when the process that started all this is gone."""
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(parent, select.POLLIN)
    ready = {fd for fd, _ in poll.poll()}
    if handle not in ready:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _start(
    parent: int,
    control: socket.socket,
    spec: wire.Message,
    root: int,
    cwd: int,
    fds: list[int],
    *,
    alone: bool,
) -> NoReturn:
    """Be the command, or in tier D-userns the process that starts it in its namespaces."""
    syscalls.die_with(parent)
    if alone:
        _become(parent, spec, root, cwd, fds)
    _enter_namespaces(control, spec, own_network=spec["network"] == "none")
    syscalls.die_with(parent)  # the change of ids disarmed it
    me = os.pidfd_open(os.getpid())
    pid = os.fork()
    if not pid:
        enter.end_with(control, lambda: _become(me, spec, root, cwd, fds))
    wire.send(control, {"pid": pid})
    for fd in fds:
        os.close(fd)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


def _enter_namespaces(control: socket.socket, spec: wire.Message, *, own_network: bool) -> None:
    flags = _NAMESPACES | (syscalls.CLONE_NEWNET if own_network else 0)
    with naming("unshare"):
        syscalls.unshare(flags | (syscalls.CLONE_NEWUSER if spec["nested"] else 0))
    if spec["nested"]:
        enter.map_ids(control, spec["first"])
    else:
        enter.become_root()


def _become(parent: int, spec: wire.Message, root: int, cwd: int, fds: list[int]) -> NoReturn:
    syscalls.die_with(parent)
    if spec["network"] == "none":
        with naming("network"):
            enter.bring_up_loopback()
    if spec["tier"] != "D":
        with contextlib.suppress(OSError):
            syscalls.sethostname(os.fsencode(spec["hostname"]))
    granted = capabilities.permitted()
    kept = [name for name in spec["capabilities"] if name not in _TOO_MUCH and name in granted]
    spec = {**spec, "capabilities": kept}
    program = None if spec["insecure"] else enter.compiled_filters(spec)[0]
    enter.take_streams(fds, interactive=spec["interactive"])
    enter.forget_import_paths()
    with naming("pivot"):
        _change_root(root)
    enter.reset_process()
    with naming("workdir"):
        os.fchdir(cwd)
        if not os.getcwdb().startswith(b"/"):
            raise Failed("workdir", "the working directory is outside the root")
    _confine(root, spec)
    if program is not None:
        with naming("seccomp"):
            syscalls.install_filter(program)
    enter.drop_privileges(spec)
    syscalls.die_with(parent)  # the change of ids disarmed it
    enter.execute(spec["argv"], dict(spec["env"]))


def _change_root(root: int) -> None:
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")


def _confine(root: int, spec: wire.Message) -> None:
    """Limit what files and processes the command can reach."""
    if "sys_admin" not in capabilities.permitted():
        # Neither Landlock nor a filter is to be had otherwise. Set-uid programs get no privileges
        # then.
        syscalls.prctl(_NO_NEW_PRIVILEGES, 1)
    with naming("seccomp"):
        landlock.confine(root)


# --- what a command leaves


def _end_descendants() -> None:
    """End everything that the command started: orphans come to this process."""
    while True:
        running = _children()
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not _reap() and not running:
            return
        time.sleep(_PAUSE)


def _reap() -> bool:
    """Collect what has ended; tell whether there are still children."""
    while True:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                return True
        except ChildProcessError:
            return False


def _children() -> list[int]:
    me = os.readlink("/proc/self")
    try:
        with open(f"/proc/{me}/task/{me}/children") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [int(name) for name in os.listdir("/proc") if _parent_of(name) == me]


def _parent_of(name: str) -> str | None:
    if not name.isdecimal():
        return None
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[1].decode()
    except (FileNotFoundError, ProcessLookupError):
        return None
