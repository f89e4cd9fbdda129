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
from collections.abc import Sequence

# The whole way to a command is imported here, once.
from imgbuild.sandbox.child import chrooted, enter, step, wire
from imgbuild.sandbox.child.failure import Failed

_TRIAL = 0  # no session gives a command this number


class _Run:
    """One command on its way."""

    def __init__(
        self, request: int, pid: int, control: socket.socket, first_ids: Sequence[int]
    ) -> None:
        self.request = request
        self.pid = pid
        self.first_ids = first_ids
        self.pidfd = os.pidfd_open(pid)
        self.control = control
        self.first: int | None = None  # pid 1 of its namespaces, as seen from here
        self.error: wire.Message | None = None
        self.found: wire.Message = {}  # of the trial

    def kill(self) -> None:
        """End it: by its first process when there is one, so that the outer one can clean up."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first or self.pid, signal.SIGKILL)


def main(sock: socket.socket, settings: wire.Message) -> None:
    """Serve until the session closes the socket, then end all that runs."""
    Zygote(sock, settings).serve()


class Zygote:
    """Starts commands as `settings` say: "shift", "count", and whether they are "nested".

    Before all commands there is a trial: what it finds out is the first message, and part of each
    spec from then on.
    """

    def __init__(self, sock: socket.socket, settings: wire.Message) -> None:
        self._sock = sock
        self._known = {name: settings[name] for name in ("tier", "shift", "count", "nested")}
        self._runs: dict[int, _Run] = {}  # by pidfd
        self._controls: dict[int, _Run] = {}  # by the control socket's descriptor
        self._poll = select.poll()

    def serve(self) -> None:
        if self._known["tier"] == "D":
            chrooted.adopt_orphans()
        self._poll.register(self._sock, select.POLLIN)
        self._fork(_TRIAL, {"trial": True}, [])
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
        first = [0, 0]
        if self._known["count"] == 1 and self._known["nested"]:
            # The one id is the command's own: so it is who it should be, and owns all files.
            first = [spec["uid"], spec["gid"]]
        elif self._known["count"] == 1:
            # There is root only. What the command makes is its user's in the layer all the same.
            spec |= {"uid": 0, "gid": 0, "groups": []}
        self._fork(request, spec, fds, first)

    def _fork(
        self, request: int, spec: wire.Message, fds: list[int], first: Sequence[int] = (0, 0)
    ) -> None:
        spec |= self._known
        spec |= {"first": first, "supervised": self._known["count"] == 1}
        if "argv" in spec:
            with contextlib.suppress(Failed):  # the step will say so
                enter.compiled_filters(spec)
        me = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if not pid:
            status = 125
            try:
                ours.close()
                spec["lent"] = dict(zip(spec.get("lent", ()), fds[3:], strict=True))
                status = step.main(me, theirs, spec, fds[:3])
            finally:
                os._exit(status)
        theirs.close()
        run = _Run(request, pid, ours, spec["first"])
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
        elif "found" in message:
            run.found = message["found"]
        elif run.error is None:
            run.error = message["error"]

    def _map(self, run: _Run, pid: int) -> None:
        """Write the id maps of a step's user namespace, as only its parent may."""
        try:
            for name, first in zip(("uid_map", "gid_map"), run.first_ids, strict=True):
                with open(f"/proc/{pid}/{name}", "w") as file:
                    file.write(f"{first} {self._known['shift']} {self._known['count']}")
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
        if self._known["tier"] == "D" and status < 0:  # it could not do so itself
            chrooted.end_orphans([other.pid for other in self._runs.values()])
        os.close(run.pidfd)
        run.control.close()
        reply: wire.Message = {"id": run.request, "status": status if status >= 0 else 128 - status}
        if run.error is not None:
            reply = {"id": run.request, "error": run.error}
        elif run.request == _TRIAL:
            self._known |= run.found
            reply = {"id": _TRIAL, "found": run.found}
        with contextlib.suppress(OSError):  # the session is gone; the next order says so
            wire.send(self._sock, reply)

    def _end(self) -> None:
        for run in self._runs.values():
            run.kill()
        for run in self._runs.values():
            os.waitpid(run.pid, 0)
