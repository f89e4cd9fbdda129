"""The loop of a process that answers requests, each in a forked child of its own.

Requests run side by side and leave nothing behind: what one opens, mounts or breaks ends with
its process. A request is `{"id", "verb", "params"}` with descriptors, its reply `{"id", "result"}` or
`{"id", "error"}`.
"""

import os
import select
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imgbuild.sandbox.child import syscalls, wire
from imgbuild.sandbox.child.failure import Failed

# A handler gets the parameters and the descriptors of a request. It gives the result, with
# descriptors to hand over if any. What it raises becomes the error.
Result = dict[str, Any]
Handler = Callable[[dict[str, Any], list[int]], "Result | tuple[Result, Sequence[int]]"]


def serve(sock: socket.socket, verbs: Mapping[str, Handler]) -> None:
    """Answer requests until the other side closes the socket; then end what still runs."""
    running: dict[int, tuple[int, int]] = {}  # pidfd -> pid, request
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd in running:
                poll.unregister(fd)
                _report_crash(sock, fd, *running.pop(fd))
                continue
            received = wire.receive(sock)
            if received is None:
                _end(running)
                return
            message, fds = received
            pid = _fork_handler(sock, verbs, message, fds)
            for passed in fds:
                os.close(passed)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = (pid, message["id"])
            poll.register(pidfd, select.POLLIN)


def describe(problem: BaseException) -> dict[str, Any]:
    """Turn an exception into the `error` of a reply."""
    if isinstance(problem, Failed):
        return problem.to_json()
    error: dict[str, Any] = {
        "kind": type(problem).__name__,
        "message": getattr(problem, "message", None) or str(problem),
        "hint": getattr(problem, "hint", None),
    }
    if isinstance(problem, OSError):
        error |= {"kind": "OSError", "errno": problem.errno}
    return error


def _fork_handler(
    sock: socket.socket, verbs: Mapping[str, Handler], message: wire.Message, fds: list[int]
) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        syscalls.die_with_parent(parent)
        _answer(sock, verbs, message, fds)
        os._exit(0)
    except BaseException:
        os._exit(1)


def _answer(
    sock: socket.socket, verbs: Mapping[str, Handler], message: wire.Message, fds: list[int]
) -> None:
    request = message["id"]
    try:
        outcome = verbs[message["verb"]](message["params"], fds)
        result, passed = outcome if isinstance(outcome, tuple) else (outcome, ())
    except BaseException as problem:
        wire.send(sock, {"id": request, "error": describe(problem)})
        return
    wire.send(sock, {"id": request, "result": result}, passed)


def _report_crash(sock: socket.socket, pidfd: int, pid: int, request: int) -> None:
    """Reap a handler; answer in its place when it ended without an answer."""
    os.close(pidfd)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0:
        return
    how = f"was ended by signal {-status}" if status < 0 else f"broke (status {status})"
    error = {"kind": "SandboxError", "message": f"a process of the build {how}", "hint": None}
    try:
        wire.send(sock, {"id": request, "error": error})
    except OSError:
        return  # the session is gone; the next receive says so


def _end(running: Mapping[int, tuple[int, int]]) -> None:
    for pidfd, (pid, _) in running.items():
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)
