"""The network of a session: a namespace that all its commands share, with a way out of it.

The way out is made by pasta or slirp4netns, ordinary programs: they carry what is sent in the
namespace on by sockets of this machine's network, without privileges. They live in the session's
PID namespace, so they end with the session, however it ends.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import Sequence
from typing import Any

from imgbuild.sandbox.child import filesystems, syscalls
from imgbuild.sandbox.child.failure import Failed, naming

# Where the helper asks for names: pasta is told so, slirp4netns has it built in.
PASTA_DNS, SLIRP_DNS = "169.254.1.1", "10.0.2.3"

_PLACE = b"/tmp"
_NETWORK = _PLACE + b"/network"
_PATIENCE = 10_000  # milliseconds until a helper has to be ready; it takes some 40
_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def join(lent: dict[str, int]) -> None:
    """Enter the session's network if the command is to have it; lend it the network's /sys, too.

    Only the owner of a network may mount that, which the command's own user namespace is not.
    """
    if "network" not in lent:
        return
    syscalls.setns(lent["network"], syscalls.CLONE_NEWNET)
    with contextlib.suppress(OSError):  # parts of the one here are masked
        lent["sysfs"] = filesystems.make_sysfs()


def bring_up_loopback() -> None:
    """Let 127.0.0.1 work in a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        flags = struct.pack("16sH14x", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(sock, 0x8914, flags)  # SIOCSIFFLAGS


def make(params: dict[str, Any], _fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Make a network with a way out by a `program` of some `kind`; give its descriptor.

    `names` tells whether the program has to answer for this machine's name servers.

    This is a verb of the worker: it runs in a process of its own and may change that. Raises
    `Failed` with what the program said.
    """
    with naming("network"):
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.set_propagation(syscalls.MS_PRIVATE)
        syscalls.mount(b"tmpfs", _PLACE, b"tmpfs", syscalls.MS_NODEV, b"mode=0700,size=1m")
        _make_namespace()
        namespace = os.open(_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
    start = {"pasta": _start_pasta, "slirp4netns": _start_slirp}[params["kind"]]
    start(params["program"], names=params["names"])
    return {}, [namespace]


def _make_namespace() -> None:
    """Leave a new network namespace mounted at a path, where all helpers find it.

    A child does it: who has entered one owned by this user namespace cannot go back.
    """
    os.close(os.open(_NETWORK, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    pid = os.fork()
    if not pid:
        status = 1
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            bring_up_loopback()
            syscalls.mount(b"/proc/self/ns/net", _NETWORK, b"", syscalls.MS_BIND)
            status = 0
        finally:
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise Failed("network", "no network namespace could be made")


def _start_pasta(program: str, *, names: bool) -> None:
    """Start pasta, which goes on in the background when it is ready.

    Only where it is asked for `names`: whatever this machine's name server answers seems to come
    from that address then, also to those who asked the server itself.
    """
    arguments = [
        *("--config-net", "--netns-only", "--quiet", "--runas", "0"),
        # Nothing of this machine's loopback is reached, nor reaches in.
        *("--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none"),
        *(("--dns-forward", PASTA_DNS) if names else ()),
        *("--netns", os.fsdecode(_NETWORK)),
    ]
    pid, said = _start(program, arguments)
    if not _ends(pid):
        os.kill(pid, signal.SIGKILL)
        raise Failed("network", f"{program} did not become ready")
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise Failed("network", _last_words(program, said))


def _start_slirp(program: str, *, names: bool) -> None:  # noqa: ARG001  it always answers
    """Start slirp4netns, which writes a byte when it is ready."""
    ready, tell = os.pipe()
    os.set_inheritable(tell, True)
    arguments = [
        *("--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"),
        *(f"--ready-fd={tell}", os.fsdecode(_NETWORK), "tap0"),
    ]
    pid, said = _start(program, arguments)
    os.close(tell)
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    if not poll.poll(_PATIENCE) or not os.read(ready, 1):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise Failed("network", _last_words(program, said))


def _start(program: str, arguments: Sequence[str]) -> tuple[int, int]:
    """Start a program whose output goes to a nameless file; give both."""
    said = os.memfd_create("imgbuild-network", os.MFD_CLOEXEC)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, said, 1),
        (os.POSIX_SPAWN_DUP2, said, 2),
    ]
    # Python ignores SIGPIPE; pasta takes a signal that is ignored already for a failure.
    default = (signal.SIGPIPE,)
    try:
        argv = [program, *arguments]
        pid = os.posix_spawn(program, argv, _ENV, file_actions=actions, setsigdef=default)
        return pid, said
    except OSError as problem:
        raise Failed("network", f"{program}: {problem.strerror}", problem.errno) from None


def _ends(pid: int) -> bool:
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    ended = bool(poll.poll(_PATIENCE))
    os.close(handle)
    return ended


def _last_words(program: str, said: int) -> str:
    text = os.pread(said, 4000, 0).decode(errors="replace").strip()
    lines = [line for line in text.splitlines() if "syslog" not in line]
    return f"{program}: {lines[-1] if lines else 'it ended at once'}"
