"""The small process that all commands of a session are forked from.

It runs many at once: messages are `{"id", "spec"}` with three descriptors, or `{"kill": id}`;
the answer is `{"id", "status"}` or `{"id", "error"}`. It stays small because the time of a fork
grows with the size of a process.
"""

import contextlib
import os
import select
import signal
import socket

# The whole way to a command is imported here, once.
from imgbuild.sandbox.child import enter, step, wire
from imgbuild.sandbox.child.failure import Failed


class _Run:
    """One command on its way."""

    def __init__(self, request: int, pid: int, control: socket.socket) -> None:
        self.request = request
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.control = control
        self.first: int | None = None  # pid 1 of its namespaces, as seen from here
        self.error: wire.Message | None = None

    def kill(self) -> None:
        """End it: by its first process when there is one, so that the outer one can clean up."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first or self.pid, signal.SIGKILL)


def main(sock: socket.socket, shift: int, count: int) -> None:
    """Serve until the session closes the socket, then end all that runs."""
    Zygote(sock, shift, count).serve()


class Zygote:
    def __init__(self, sock: socket.socket, shift: int, count: int) -> None:
        self._sock = sock
        self._shift = shift
        self._count = count
        self._runs: dict[int, _Run] = {}  # by pidfd
        self._controls: dict[int, _Run] = {}  # by the control socket's descriptor
        self._poll = select.poll()

    def serve(self) -> None:
        self._poll.register(self._sock, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._controls:
                    self._listen(self._controls[fd])
                elif fd in self._runs:
                    self._finish(self._runs[fd])
                elif fd == self._sock.fileno() and not self._take_order():
                    self._end()
                    return

    def _take_order(self) -> bool:
        received = wire.receive(self._sock)
        if received is None:
            return False
        message, fds = received
        if "kill" in message:
            for run in self._runs.values():
                if run.request == message["kill"]:
                    run.kill()
        else:
            self._start(message["id"], message["spec"], fds)
        for fd in fds:
            os.close(fd)
        return True

    def _start(self, request: int, spec: wire.Message, fds: list[int]) -> None:
        spec |= {"shift": self._shift, "count": self._count}
        with contextlib.suppress(Failed):  # the step will say so
            enter.compiled_filter(spec)
        me = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if not pid:
            status = 125
            try:
                ours.close()
                spec["lent"] = dict(zip(spec["lent"], fds[3:], strict=True))
                status = step.main(me, theirs, spec, fds[:3])
            finally:
                os._exit(status)
        theirs.close()
        run = _Run(request, pid, ours)
        self._runs[run.pidfd] = run
        self._controls[ours.fileno()] = run
        self._poll.register(run.pidfd, select.POLLIN)
        self._poll.register(ours, select.POLLIN)

    def _listen(self, run: _Run) -> None:
        received = wire.receive(run.control)
        if received is None:
            self._poll.unregister(run.control)
            del self._controls[run.control.fileno()]
            return
        message = received[0]
        if "map" in message:
            self._map(run, message["map"])
        elif "pid" in message:
            run.first = message["pid"]
        elif run.error is None:
            run.error = message["error"]

    def _map(self, run: _Run, pid: int) -> None:
        """Write the id maps of a step's user namespace, as only its parent may."""
        try:
            for name in ("uid_map", "gid_map"):
                with open(f"/proc/{pid}/{name}", "w") as file:
                    file.write(f"0 {self._shift} {self._count}")
            wire.send(run.control, {"go": True})
        except OSError as problem:
            run.error = {"op": "map", "errno": problem.errno, "message": problem.strerror}
            run.kill()

    def _finish(self, run: _Run) -> None:
        status = os.waitstatus_to_exitcode(os.waitpid(run.pid, 0)[1])
        while run.control.fileno() in self._controls:
            self._listen(run)  # what it said last
        self._poll.unregister(run.pidfd)
        del self._runs[run.pidfd]
        os.close(run.pidfd)
        run.control.close()
        reply: wire.Message = {"id": run.request, "status": status if status >= 0 else 128 - status}
        if run.error is not None:
            reply = {"id": run.request, "error": run.error}
        with contextlib.suppress(OSError):  # the session is gone; the next order says so
            wire.send(self._sock, reply)

    def _end(self) -> None:
        for run in self._runs.values():
            run.kill()
        for run in self._runs.values():
            os.waitpid(run.pid, 0)
