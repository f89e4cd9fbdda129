"""Run one command: from a fork of the zygote to execve in a root of its own.

Two processes: the outer one mounts the overlay, enters the step's namespaces and waits; the
inner one is their first process (pid 1), finishes the root, gives up what it may not keep and
becomes the command. When pid 1 ends, the kernel ends all that it left running.

The inner user namespace maps container ids to ids that own nothing else on this machine, so even
root in the container is not the user who builds.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Callable
from typing import NoReturn

from imgbuild.sandbox.child import cgroups, devices, mounts, network, overlay, syscalls, wire
from imgbuild.sandbox.child.enter import become, forget_import_paths
from imgbuild.sandbox.child.failure import Failed, naming
from imgbuild.sandbox.child.filesystems import DIRECTORIES
from imgbuild.sandbox.child.stubs import Stubs

_NAMESPACES = (
    syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWCGROUP
)


def main(zygote: int, control: socket.socket, spec: wire.Message, fds: list[int]) -> int:
    """Run a spec with three descriptors as its streams; give the status as a shell would.

    `zygote` is the process to end with. Over `control` go the request for id maps, the pid of
    the command, and what went wrong before there was one.
    """
    try:
        way = _by_runtime if spec["runtimes"] else _run
        return way(zygote, control, spec, fds)
    except Failed as failed:
        wire.send(control, {"error": failed.to_json()})
    except Exception as problem:  # a fault of ours must reach the session as well
        text = f"{type(problem).__name__}: {problem}"
        wire.send(control, {"error": Failed("step", text).to_json()})
    return 125


def _by_runtime(zygote: int, control: socket.socket, spec: wire.Message, fds: list[int]) -> int:
    # Rarely wanted, and nothing there changes its root: it may be imported as late as this.
    from imgbuild.sandbox.child import runtime

    return runtime.run(zygote, control, spec, fds)


def _run(zygote: int, control: socket.socket, spec: wire.Message, fds: list[int]) -> int:
    syscalls.die_with_parent(zygote)
    lent: dict[str, int] = spec["lent"]
    with naming("cgroup"):
        cgroups.join(lent)
    shift = spec["shift"]
    for fd in fds[1:]:
        _give_pipe(fd, shift + spec["uid"], shift + spec["gid"])
    with naming("overlay"):
        root_fd = _mount_root(spec["root"])
    made = mounts.make(spec["mounts"], shift, spec["count"], lent)
    nodes = devices.clone(spec["devices"])
    with naming("network"):
        network.join(lent)
    _enter_namespaces(zygote, control, own_network=spec["network"] == "none")
    stubs = Stubs(root_fd)
    with naming("stub"):
        stubs.ensure([*((name, True) for name in DIRECTORIES), *mounts.stubs_for(made)])
    me = os.pidfd_open(os.getpid())
    forget_import_paths()
    pid = os.fork()
    if not pid:
        _become(control, lambda: become(me, spec, root_fd, made, nodes, fds))
    wire.send(control, {"pid": pid})
    opened = (*(mount.fd for mount in made), *(node for node, _ in nodes), *lent.values())
    for fd in (*fds, *opened, me):
        os.close(fd)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with naming("stub"):
        stubs.remove()
    return status if status >= 0 else 128 - status


def _mount_root(root: wire.Message) -> int:
    lowers = [os.fsencode(path) for path in root["lowers"]]
    return overlay.mount(lowers, os.fsencode(root["upper"]), os.fsencode(root["work"]))


def _give_pipe(fd: int, uid: int, gid: int) -> None:
    """Let the command open its own /dev/stdout, which is this pipe (runc does the same)."""
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        with contextlib.suppress(OSError):
            os.fchown(fd, uid, gid)


def _enter_namespaces(zygote: int, control: socket.socket, *, own_network: bool) -> None:
    with naming("unshare"):
        syscalls.unshare(_NAMESPACES | (syscalls.CLONE_NEWNET if own_network else 0))
    # By the number that /proc has for it: that of a namespace further out.
    wire.send(control, {"map": int(os.readlink("/proc/self"))})
    if wire.receive(control) is None:
        os._exit(1)
    with naming("setid"):
        os.setresgid(0, 0, 0)
        with contextlib.suppress(PermissionError):  # denied where only one id is mapped
            os.setgroups([])
        os.setresuid(0, 0, 0)
    syscalls.die_with_parent(zygote)  # a change of ids disarms it


def _become(control: socket.socket, command: Callable[[], NoReturn]) -> NoReturn:
    """Become the command, or say why not."""
    try:
        command()
    except Failed as failed:
        wire.send(control, {"error": failed.to_json()})
    except BaseException as problem:
        text = f"{type(problem).__name__}: {problem}"
        wire.send(control, {"error": Failed("step", text).to_json()})
    finally:
        os._exit(125)
