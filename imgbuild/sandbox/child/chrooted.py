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
import signal
import socket
import time
from collections.abc import Collection
from functools import partial
from typing import NoReturn

from imgbuild import inroot
from imgbuild.sandbox.child import (
    capabilities,
    cgroups,
    emulation,
    enter,
    landlock,
    limits,
    network,
    notify,
    owners,
    seccomp,
    syscalls,
    wire,
)
from imgbuild.sandbox.child.failure import Failed, naming
from imgbuild.sandbox.child.placed import Places
from imgbuild.sandbox.child.standins import StandIns

# With these a command could leave its root, or reach what Landlock knows nothing of.
_TOO_MUCH = frozenset({"sys_chroot", "mknod", "net_raw"})
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_NAMESPACES = (
    syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWCGROUP
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SHM_SIZE = 64 << 20  # what nobody asked for: docker's default
_PAUSE = 0.001  # seconds between looks at what still runs


def run(zygote: int, control: socket.socket, spec: wire.Message, fds: list[int]) -> int:
    """Run a spec as `step.main` does, in a root that is a directory."""
    _refuse_impossible(spec)
    with naming("cgroup"):
        cgroups.join(spec["lent"])
    adopt_orphans()
    enter.give_streams(fds, spec)
    path = os.fsencode(spec["root"]["path"])
    root = os.open(path, _DIRECTORY)
    aside = _open_aside(path + b".aside")
    with naming("stub"):
        StandIns(root, aside, spec["shift"]).make()
    places = Places(root, aside, spec["shift"])
    try:
        for mount in spec["mounts"]:
            places.put(mount)
        return _Step(zygote, control, spec, root, fds).run()
    finally:
        if spec["tier"] == "D":
            end_orphans()
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
        enter.enter_namespaces(control, spec, _NAMESPACES, own_network=False)
    with naming("pivot"):
        _change_root(root)
    _confine(root)
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
    if spec["shm_size"] != _SHM_SIZE:
        raise Failed("tier", f"a size of /dev/shm in tier {name}")
    if spec["insecure"] and name == "D":
        # With all capabilities and no namespace, it could read the build's memory.
        raise Failed("tier", f"--security=insecure in tier {name}")
    for device, _, _ in spec["devices"]:
        raise Failed("tier", f"the device {device} in tier {name}")


def _open_aside(path: bytes) -> int:
    """Open the directory for what a step's root must not show; made at the first step."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    return os.open(path, _DIRECTORY)


class _Step:
    """A command on its way, when everything is in place."""

    def __init__(
        self, zygote: int, control: socket.socket, spec: wire.Message, root: int, fds: list[int]
    ) -> None:
        self._zygote = zygote
        self._control = control
        self._spec = spec
        self._root = root
        self._fds = fds
        self._alone = spec["tier"] == "D"  # no process between this one and the command
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._told, self._telling = os.pipe()
        self._until_served, self._serving = os.pipe()

    def run(self) -> int:
        spec, owner = self._spec, self._spec["shift"]
        with naming("workdir"):
            # Entered by this descriptor later: a path might lead elsewhere by then.
            cwd = os.fsencode(spec["cwd"]).strip(b"/")
            self._cwd = inroot.make_dirs(self._root, cwd, 0o755, (owner, owner))
        supervisor = notify.Supervisor(self._handlers())
        me = os.pidfd_open(os.getpid())
        first = os.fork()
        if not first:
            self._ours.close()
            os.close(self._serving)
            enter.end_with(self._control, lambda: self._start(me))
        _end_with_parent(self._zygote, first)
        self._theirs.close()
        for fd in (*self._fds, me, self._cwd, self._telling):
            os.close(fd)
        pid = first if self._alone else int(os.read(self._told, 20) or 0)
        if pid:
            wire.send(self._control, {"pid": pid})
            # What is left must not go on without an answer, for as little as it still has.
            last = partial(end_orphans, [first]) if self._alone else None
            supervisor.serve(self._ours, pid, last)
        os.close(self._serving)
        status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        return status if status >= 0 else 128 - status

    def _handlers(self) -> dict[str, notify.Handler]:
        spec = self._spec
        ids = emulation.Ids(spec["shift"], spec["count"], spec["first"])
        handlers = emulation.Emulation(self._root, ids).handlers()
        if spec["supervised"]:
            recorder = owners.Owners(spec["uid"], spec["gid"], spec["groups"], spec["capabilities"])
            handlers |= recorder.handlers()
        return handlers

    def _start(self, parent: int) -> NoReturn:
        """Be the command, or in tier D-userns the process that starts it in its namespaces."""
        spec = self._spec
        syscalls.die_with(parent)
        if self._alone:
            self._become(parent)
        own_network = spec["network"] == "none"
        enter.enter_namespaces(self._control, spec, _NAMESPACES, own_network=own_network)
        syscalls.die_with(parent)  # the change of ids disarmed it
        me = os.pidfd_open(os.getpid())
        pid = os.fork()
        if not pid:
            enter.end_with(self._control, lambda: self._become(me))
        os.write(self._telling, b"%d" % pid)
        self._theirs.close()
        for fd in self._fds:
            os.close(fd)
        os.read(self._until_served, 1)  # its number is in use until then
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os._exit(status if status >= 0 else 128 - status)

    def _become(self, parent: int) -> NoReturn:
        syscalls.die_with(parent)
        spec = self._spec
        if spec["network"] == "none":
            with naming("network"):
                network.bring_up_loopback()
        if not self._alone:
            with contextlib.suppress(OSError):
                syscalls.sethostname(os.fsencode(spec["hostname"]))
        granted = capabilities.permitted()
        kept = [name for name in spec["capabilities"] if name not in _TOO_MUCH and name in granted]
        spec = {**spec, "capabilities": kept}
        profile, supervision = _filters(spec)
        enter.take_streams(self._fds, interactive=spec["interactive"])
        enter.forget_import_paths()
        with naming("pivot"):
            _change_root(self._root)
        enter.reset_process()
        with naming("workdir"):
            os.fchdir(self._cwd)
            if not os.getcwdb().startswith(b"/"):
                raise Failed("workdir", "the working directory is outside the root")
        _confine(self._root)
        with naming("seccomp"):
            if not spec["insecure"]:
                syscalls.install_filter(profile)
            notify.hand_over(self._theirs, supervision)
        limits.apply(spec)
        enter.drop_privileges(spec)
        syscalls.die_with(parent)  # the change of ids disarmed it
        enter.execute(spec["argv"], dict(spec["env"]))


def _filters(spec: wire.Message) -> tuple[bytes, bytes]:
    wanted: dict[str, seccomp.Action] = dict(emulation.CALLS)
    if spec["supervised"]:
        wanted |= owners.supervision(spec["uid"], spec["capabilities"])
    profile, _ = enter.compiled_filters({**spec, "supervised": False})
    return profile, seccomp.compile_supervision(wanted, syscalls.MACHINE)


def _end_with_parent(parent: int, first: int) -> None:
    """End the command, and then this process, when the process that started this one is gone."""

    def end(_number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    syscalls.tell_of_parent(parent)


def _change_root(root: int) -> None:
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")


def _confine(root: int) -> None:
    """Limit what files and processes the command can reach."""
    landlock.get_ready()
    with naming("seccomp"):
        landlock.confine(root)


# --- what a command leaves


def adopt_orphans() -> None:
    """Be who the processes come to whose parents, below this one, have ended."""
    syscalls.prctl(_SUBREAPER, 1)


def end_orphans(keep: Collection[int] = ()) -> None:
    """End all children of this process but some, and what they started: it comes to this process."""
    while True:
        running = [pid for pid in _children() if pid not in keep]
        if not running:
            return
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in running:
            # One that does not end at once is looked at again; what forks must not get ahead.
            with contextlib.suppress(ChildProcessError):
                if not os.waitpid(pid, os.WNOHANG)[0]:
                    time.sleep(_PAUSE)


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
