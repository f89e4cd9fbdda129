"""Run one command: from a fork of the zygote to execve in a root of its own.

Two processes: the outer one mounts the overlay, enters the step's namespaces and waits; the
inner one is their first process (pid 1), finishes the root, gives up what it may not keep and
becomes the command. When pid 1 ends, the kernel ends all that it left running.

The inner user namespace maps container ids to ids that own nothing else on this machine, so even
root in the container is not the user who builds.
"""

import os
import socket
from typing import NoReturn

from imgbuild.sandbox.child import (
    cgroups,
    chrooted,
    devices,
    mounts,
    network,
    overlay,
    owners,
    syscalls,
    wire,
)
from imgbuild.sandbox.child.enter import (
    attach_root,
    become,
    change_root,
    end_with,
    enter_namespaces,
    forget_import_paths,
    give_streams,
    reporting,
)
from imgbuild.sandbox.child.failure import Failed, naming
from imgbuild.sandbox.child.filesystems import DIRECTORIES, make_proc, make_root
from imgbuild.sandbox.child.notify import Supervisor
from imgbuild.sandbox.child.stubs import Stubs

_NAMESPACES = (
    syscalls.CLONE_NEWPID
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
    way = _by_runtime if spec.get("runtimes") else _run
    return reporting(control, lambda: way(zygote, control, spec, fds))


def _by_runtime(zygote: int, control: socket.socket, spec: wire.Message, fds: list[int]) -> int:
    # Rarely wanted, and nothing there changes its root: it may be imported as late as this.
    from imgbuild.sandbox.child import runtime

    return runtime.run(zygote, control, spec, fds)


def _run(zygote: int, control: socket.socket, spec: wire.Message, fds: list[int]) -> int:
    if spec["tier"] in {"D", "D-userns"}:
        return (chrooted.try_out if "trial" in spec else chrooted.run)(zygote, control, spec, fds)
    syscalls.die_with_parent(zygote)
    if "trial" in spec:
        return _try_out(zygote, control, spec)
    _refuse_ways_out(spec)
    lent: dict[str, int] = spec["lent"]
    with naming("cgroup"):
        cgroups.join(lent)
    shift = spec["shift"]
    give_streams(fds, spec)
    with naming("overlay"):
        root_fd = overlay.mount_root(spec["root"])
    made = mounts.make(spec["mounts"], shift, spec["count"], lent)
    nodes = devices.clone(spec["devices"])
    supervisor, ours, theirs = _supervisor(spec)
    with naming("network"):
        network.join(lent)
    if "sys_admin" in spec["capabilities"]:
        with naming("mount"):
            made = _lock(spec, made)
    _enter_namespaces(zygote, control, spec, own_network=spec["network"] == "none")
    stubs = Stubs(root_fd)
    with naming("stub"):
        stubs.ensure([*((name, True) for name in DIRECTORIES), *mounts.stubs_for(made)])
    me = os.pidfd_open(os.getpid())
    forget_import_paths()
    pid = os.fork()
    if not pid:
        ours.close()
        channel = theirs if supervisor else None
        end_with(control, lambda: become(me, spec, root_fd, made, nodes, fds, channel))
    theirs.close()
    wire.send(control, {"pid": pid})
    opened = (*(mount.fd for mount in made), *(node for node, _ in nodes), *lent.values())
    for fd in (*fds, *opened, me):
        os.close(fd)
    if spec["enter"] == "move":
        _follow(root_fd)
    if supervisor is not None:
        supervisor.serve(ours, pid)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with naming("stub"):
        if spec["readonly"]:  # for the command, which is gone
            syscalls.mount_setattr(root_fd, b"", 0, cleared=syscalls.READONLY)
        stubs.remove()
    return status if status >= 0 else 128 - status


def _refuse_ways_out(spec: wire.Message) -> None:
    """Raise `Failed` where capabilities would lead out of the step."""
    held = {"sys_admin", "sys_ptrace"} & set(spec["capabilities"])
    if not held:
        return
    if spec["proc"] == "shared" and not spec["nested"]:
        raise Failed("isolation", "steps share /proc and a user namespace with the build")
    if spec["enter"] == "move" and "sys_admin" in held:
        # Not unmounted, the old root is there for setns(2) to find.
        raise Failed(
            "isolation", "pivot_root is refused, so that the host's root is below the step's"
        )


def _lock(spec: wire.Message, made: list[mounts.Made]) -> list[mounts.Made]:
    """Keep a command that can mount from writing to what is read-only."""
    made = mounts.locked(made)
    if spec["proc"] == "shared":
        proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
        syscalls.mount_setattr(proc, b"", syscalls.READONLY, recursive=True)
        os.close(proc)
    return made


def _try_out(zygote: int, control: socket.socket, spec: wire.Message) -> int:
    """Find out how steps can be run here, by what they do; tell it over `control`."""
    try:
        _enter_namespaces(zygote, control, spec, own_network=False)
    except Failed as failed:
        if not spec["nested"] or failed.operation != "unshare":
            raise
        if spec["shift"]:  # root of the container would be another's root here
            raise Failed("nested", failed.message, failed.code) from None
        spec["nested"] = False
        _enter_namespaces(zygote, control, spec, own_network=False)
    pid = os.fork()
    if not pid:
        end_with(control, lambda: _tell(control, nested=spec["nested"]))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _tell(control: socket.socket, *, nested: bool) -> NoReturn:
    with naming("mount"):
        syscalls.set_propagation(syscalls.MS_PRIVATE)
    proc = "own"
    try:
        os.close(make_proc())
    except OSError:
        proc = "shared"
    with naming("mount"):
        root = make_root()
        attach_root(root)
    enter = "pivot_root"
    try:
        change_root(root, pivot=True)
    except OSError:
        enter = "move"
        with naming("pivot"):
            change_root(root, pivot=False)
    wire.send(control, {"found": {"nested": nested, "proc": proc, "enter": enter}})
    os._exit(0)


def _follow(root_fd: int) -> None:
    """Get the new root, which pivot_root gives to all processes of the mount namespace.

    A command must not find another root in /proc, and no mount is looked for in the old one.
    """
    os.fchdir(root_fd)
    os.chroot(".")


def _supervisor(spec: wire.Message) -> tuple[Supervisor | None, socket.socket, socket.socket]:
    """Make what answers the command's calls, where something has to; with a channel between both."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not spec["supervised"]:
        return None, ours, theirs
    recorder = owners.Owners(spec["uid"], spec["gid"], spec["groups"], spec["capabilities"])
    return Supervisor(recorder.handlers()), ours, theirs


def _enter_namespaces(
    zygote: int, control: socket.socket, spec: wire.Message, *, own_network: bool
) -> None:
    enter_namespaces(control, spec, _NAMESPACES, own_network=own_network)
    syscalls.die_with_parent(zygote)  # a change of ids disarms it
