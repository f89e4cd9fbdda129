"""The second half of the start: in its namespaces, become the worker and fork the zygote."""

import importlib
import os
import signal
import socket
import sys

from imgbuild import inroot
from imgbuild.sandbox.child import landlock, overlay, serve, syscalls, wire
from imgbuild.sandbox.child.failure import Failed, naming


def main() -> None:
    """Serve the session whose sockets are named in `sys.argv` until it closes them."""
    zygote_end, worker_end = (socket.socket(fileno=int(text)) for text in sys.argv[1:3])
    for sock in (zygote_end, worker_end):
        sock.set_inheritable(False)
    received = wire.receive(worker_end)
    if received is None:
        return
    settings = received[0]
    inroot.use_openat2()
    try:
        bare = settings["tier"] in {"D", "D-userns"}
        root = "copy" if bare else _settle_steps(settings["steps"], settings["shift"])
        zygote = _fork_zygote(zygote_end, worker_end, settings)
        zygote_end.close()
        if bare:
            _protect_files(settings["writable"])
        else:
            _protect_proc()
        entry = importlib.import_module(settings["entry"])
        wire.send(worker_end, {"ready": True, "root": root})
    except Failed as failed:
        wire.send(worker_end, {"error": failed.to_json()})
        return
    except Exception as problem:
        wire.send(worker_end, {"error": {"op": "start", **serve.describe(problem)}})
        raise
    entry.main(worker_end)
    os.waitpid(zygote, 0)


def _settle_steps(steps: str | None, owner: int) -> str:
    """Find out how a directory can keep what steps change, and say so.

    Overlayfs does not take every filesystem for that, itself least of all. A tmpfs that covers
    the directory is seen by this session alone and gone with it.
    """
    place = os.fsencode(steps or "")
    if not place or overlay.can_change(place, owner):
        return "overlay"
    if not overlay.can_hide(place):
        return "copy"
    from imgbuild.sandbox.child import filesystems

    with naming("memory"):
        filesystems.cover(place)
    if overlay.can_change(place, owner):
        return "memory"
    syscalls.umount(place)  # copies would fill the memory
    return "copy"


def _protect_proc() -> None:
    """Make /proc read-only for the worker; the zygote goes on writing id maps there."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.set_propagation(syscalls.MS_PRIVATE)
    proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
    syscalls.mount_setattr(proc, b"", syscalls.READONLY, recursive=True)
    os.close(proc)


def _protect_files(writable: list[str]) -> None:
    """Keep the worker from writing anywhere else, where no mount can be made read-only."""
    with naming("landlock"):
        landlock.get_ready()
        landlock.confine_writing(map(os.fsencode, writable))


def _fork_zygote(
    zygote_end: socket.socket, worker_end: socket.socket, settings: wire.Message
) -> int:
    # Here and not above: the worker has no use for it.
    from imgbuild.sandbox.child import zygote

    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        syscalls.die_with_parent(parent)
        worker_end.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        zygote.main(zygote_end, settings)
    finally:
        os._exit(0)
