"""The first half of the start: enter a user namespace with a read-only view of this machine.

A fresh interpreter does this, since only a process with one thread may enter a user namespace.
Then the interpreter is executed once more, from the read-only view: a command could otherwise
reach the file of the interpreter through /proc/self/exe (CVE-2019-5736).

The session also has PID numbers of its own, and the worker is their number 1: when it ends, however
it ends, the kernel ends all that a session ever started. A command may disarm the signal that it
would get at the end of its parent, or lose it by executing a set-uid program.

Only what starts fast is imported here: no `typing`, `socket`, `json` or `enum`.
"""

import os
import sys

from imgbuild.sandbox.child import syscalls
from imgbuild.sandbox.child.failure import Failed, naming

# Appended, so that nothing shadows the standard library.
_AGAIN = "import sys; sys.path.append({!r}); from imgbuild.sandbox.child import boot; boot.main()"


def main() -> None:
    """Enter a user namespace and start the second half.

    `sys.argv` holds the package's folder, both sockets, the tier, how ids are mapped, what stays
    writable. Tier D enters nothing, and D-userns mounts nothing.
    Ids are mapped "here" (one), by the "session", or "not" at all: there is a user namespace.
    """
    package, zygote_end, worker_end, tier, mapped, *writable = sys.argv[1:]
    sock = int(worker_end)
    try:
        if tier != "D":
            _enter(sock, mapped, mounts=tier != "D-userns")
        if tier not in {"D", "D-userns"}:
            with naming("mount"):
                syscalls.set_propagation(syscalls.MS_SLAVE)
            with naming("read-only"):
                _make_readonly([os.fsencode(path) for path in writable])
    except Failed as failed:
        import json

        os.write(sock, json.dumps({"error": failed.to_json()}).encode())
        return
    if tier != "D":
        _continue_as_first(int(zygote_end), sock)
    again = _AGAIN.format(os.path.dirname(package))
    options = ("-SI", "-X", "utf8", "-c", again, zygote_end, worker_end)
    os.execve(sys.executable, [sys.executable, *options], {})  # noqa: S606 - ourselves


def _continue_as_first(*sockets: int) -> None:
    """Go on in a child, the first process of the PID namespace; this one waits for its end."""
    me = os.pidfd_open(os.getpid())
    first = os.fork()
    if not first:
        syscalls.die_with(me)
        return
    for fd in sockets:  # else nobody would see that the child is gone
        os.close(fd)
    status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


def _enter(sock: int, mapped: str, *, mounts: bool) -> None:
    uid, gid = os.geteuid(), os.getegid()
    flags = syscalls.CLONE_NEWPID | (syscalls.CLONE_NEWNS if mounts else 0)
    with naming("unshare"):
        syscalls.unshare(flags | (0 if mapped == "not" else syscalls.CLONE_NEWUSER))
    if mapped == "here":
        with naming("map"):
            _map_single(uid, gid)
    else:  # the session also wants to know that this worked
        os.write(sock, b'{"map":true}')
        if not os.read(sock, 100):  # the session could not, and knows why
            os._exit(1)
    with naming("setid"):
        # Supplementary groups stay: the context may be readable through them alone.
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


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
