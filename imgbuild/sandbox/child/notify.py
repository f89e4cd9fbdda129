"""Answer system calls of a command in its place: seccomp user notification (seccomp_unotify(2)).

`hand_over` is called by the process that becomes the command, `Supervisor` belongs to the process
that waits for it. Whatever goes wrong with one call becomes its error number: a call that got no answer
would wait for ever. When the supervisor ends, the kernel answers ENOSYS.
"""

import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable, Mapping

from imgbuild.sandbox.child import seccomp, syscalls, wire
from imgbuild.sandbox.child.failure import Failed
from imgbuild.sandbox.child.syscall_numbers import numbers
from imgbuild.sandbox.child.tracees import Processes

# linux/seccomp.h
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_NOTIFICATION = struct.Struct("<QIIiIQ6Q")
_RESPONSE = struct.Struct("<QqiI")
_ADDITION = struct.Struct("<QIIII")
_RECEIVE, _SEND, _IS_VALID, _ADD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_CONTINUE = 1
_ADD_AND_SEND = 1 << 1

CONTINUE = "continue"  # the kernel shall do the call itself: never decide on rights this way
SENT = "sent"  # it was answered already

Answer = int | str  # what the call returns, CONTINUE or SENT; an error is raised
Handler = Callable[["Call"], Answer]


class Call:
    """A system call that waits for its answer.

    `arguments` are 64 bits wide. `narrow` tells that the machine has 16-bit ids in old calls.
    """

    __slots__ = ("_listener", "arguments", "id", "machine", "name", "pid", "processes")

    def __init__(
        self,
        listener: int,
        processes: Processes,
        number: int,
        pid: int,
        called: tuple[str, str],
        arguments: tuple[int, ...],
    ) -> None:
        self._listener = listener
        self.processes = processes
        self.id = number
        self.pid = pid
        self.machine, self.name = called
        self.arguments = arguments

    @property
    def narrow(self) -> bool:
        return self.machine in {"i386", "arm"}

    def text(self, index: int) -> bytes:
        """Read the path that an argument points at."""
        text = self.processes.text(self.pid, self.arguments[index])
        self.ensure_waiting()
        return text

    def signed(self, index: int) -> int:
        """Give an argument that is an int."""
        value = self.arguments[index] & 0xFFFFFFFF
        return value - (1 << 32) if value >> 31 else value

    def ensure_waiting(self) -> None:
        """Raise ESRCH when the call is over: its number may be another process's by now.

        What was opened or read of the process before is then of the process that called.
        """
        try:
            fcntl.ioctl(self._listener, _IS_VALID, struct.pack("<Q", self.id))
        except OSError:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None

    def give_fd(self, fd: int, *, close_on_exec: bool) -> Answer:
        """Answer with a new descriptor for an open file of ours (Linux 5.14)."""
        flags = os.O_CLOEXEC if close_on_exec else 0
        addition = _ADDITION.pack(self.id, _ADD_AND_SEND, fd, 0, flags)
        fcntl.ioctl(self._listener, _ADD, addition)
        return SENT


def hand_over(channel: socket.socket, program: bytes) -> None:
    """Install a filter of `seccomp.compile_supervision` and wait until its supervisor is ready.

    Raises OSError; EBUSY when this process has a supervisor already.
    """
    try:
        listener = syscalls.install_filter(program, _NEW_LISTENER | _WAIT_KILLABLE)
    except OSError as problem:
        if problem.errno != errno.EINVAL:  # before Linux 5.19: any signal interrupts a call
            raise
        listener = syscalls.install_filter(program, _NEW_LISTENER)
    wire.send(channel, {}, [listener])
    os.close(listener)
    if wire.receive(channel) is None:
        os._exit(125)  # it has said why


class Supervisor:
    """Answers the calls of one command by handlers, which have the names of system calls.

    To be made before the root changes. OSError of a handler becomes the call's error number.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.processes = Processes()
        self._handlers = {
            (seccomp.AUDIT[machine], number): ((machine, name), handlers[name])
            for machine in seccomp.machines(syscalls.MACHINE)
            for name, number in numbers(machine).items()
            if name in handlers
        }

    def serve(
        self, channel: socket.socket, pid: int, last: Callable[[], object] | None = None
    ) -> None:
        """Answer until process `pid`, which calls `hand_over`, has ended; it is not reaped.

        `last` is done then, while calls of processes that it left still wait for an answer.
        Raises `Failed` where the host does not let a supervisor work.
        """
        received = wire.receive(channel)
        if received is None:  # it ended on the way, and has said why
            return
        (listener,) = received[1]
        self.processes.use()
        self.processes.check(pid)
        wire.send(channel, {})
        pidfd = os.pidfd_open(pid)
        try:
            self._serve(listener, pidfd)
            if last is not None:
                last()
        finally:
            os.close(pidfd)
            os.close(listener)

    def _serve(self, listener: int, pidfd: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        while True:
            events = dict(poll.poll())
            if pidfd in events:
                return
            if events[listener] & select.POLLIN:
                self._answer_next(listener)
            else:  # no process has the filter any more
                poll.unregister(listener)

    def _answer_next(self, listener: int) -> None:
        buffer = bytearray(_NOTIFICATION.size)  # the kernel wants it empty
        try:
            fcntl.ioctl(listener, _RECEIVE, buffer)
        except OSError as problem:
            if problem.errno in {errno.ENOENT, errno.EINTR}:  # the process is gone
                return
            raise Failed("supervise", problem.strerror or "", problem.errno) from None
        number, pid, _, call, machine, _, *arguments = _NOTIFICATION.unpack(buffer)
        called, handler = self._handlers.get((machine, call), (("", ""), _unknown))
        value, error, flags = 0, 0, 0
        try:
            answer = handler(Call(listener, self.processes, number, pid, called, tuple(arguments)))
            if answer == SENT:
                return
            if answer == CONTINUE:
                flags = _CONTINUE
            else:
                value = int(answer)
        except OSError as problem:
            error = -(problem.errno or errno.EIO)
        except Exception:  # a fault of ours: better a strange error than a call without an end
            error = -errno.EIO
        try:
            fcntl.ioctl(listener, _SEND, _RESPONSE.pack(number, value, error, flags))
        except OSError as problem:
            if problem.errno != errno.ENOENT:  # the process was killed meanwhile
                raise Failed("supervise", problem.strerror or "", problem.errno) from None


def _unknown(_call: Call) -> Answer:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
