"""How the processes of a session begin: one user namespace, a read-only view, zygote, worker.

Started as a fresh interpreter, since only a process with one thread may enter a user namespace.
Nothing of this machine is writable in the mount namespace but the paths the session names.
"""

import importlib
import os
import signal
import socket
import sys

from imgbuild import inroot
from imgbuild.sandbox.child import serve, syscalls, wire
from imgbuild.sandbox.child.failure import Failed, naming


def main() -> None:
    """Become the worker of the session whose sockets are named in `sys.argv`."""
    zygote_end, worker_end = (socket.socket(fileno=int(text)) for text in sys.argv[1:3])
    for sock in (zygote_end, worker_end):
        sock.set_inheritable(False)
    received = wire.receive(worker_end)
    if received is None:
        return
    settings = received[0]
    try:
        enter(worker_end, settings)
        zygote = _fork_zygote(zygote_end, worker_end, settings)
        zygote_end.close()
        entry = importlib.import_module(settings["entry"])
        wire.send(worker_end, {"ready": True})
    except Failed as failed:
        wire.send(worker_end, {"error": failed.to_json()})
        return
    except Exception as problem:
        wire.send(worker_end, {"error": {"op": "start", **serve.describe(problem)}})
        raise
    entry.main(worker_end)
    os.waitpid(zygote, 0)


def enter(sock: socket.socket, settings: wire.Message) -> None:
    """Enter the user namespace, its ids and its mounts."""
    uid, gid = os.geteuid(), os.getegid()
    with naming("unshare"):
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    if settings["self_map"]:
        with naming("map"):
            _map_single(uid, gid)
    else:
        wire.send(sock, {"map": True})
        if wire.receive(sock) is None:  # the session could not, and knows why
            os._exit(1)
    with naming("setid"):
        # Supplementary groups stay: the context may be readable through them alone.
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    with naming("mount"):
        syscalls.set_propagation(syscalls.MS_SLAVE)
    with naming("read-only"):
        _make_readonly([os.fsencode(path) for path in settings["writable"]])
    inroot.use_openat2()


def _map_single(uid: int, gid: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _make_readonly(writable: list[bytes]) -> None:
    """Make everything read-only but some directories and /proc (id maps are written there)."""
    kept = [(path, syscalls.open_tree(path, recursive=True)) for path in (*writable, b"/proc")]
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    syscalls.mount_setattr(root, b"", syscalls.READONLY, recursive=True)
    os.close(root)
    for path, mount in kept:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        syscalls.move_mount(mount, target)
        os.close(target)
        os.close(mount)


def _fork_zygote(
    zygote_end: socket.socket, worker_end: socket.socket, settings: wire.Message
) -> int:
    from imgbuild.sandbox.child import zygote

    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        syscalls.die_with_parent(parent)
        worker_end.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        zygote.main(zygote_end, settings["shift"], settings["count"])
    finally:
        os._exit(0)
