"""A running session: requests to its worker and commands from its zygote, many at a time."""

import contextlib
import os
import select
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self, overload

from imgbuild import errors
from imgbuild.errors import ImgbuildError, SandboxError
from imgbuild.sandbox.child import wire
from imgbuild.sandbox.failures import disk_full, explain
from imgbuild.sandbox.spec import SandboxSpec
from imgbuild.sandbox.tiers import Tier

_NO_SPACE = (28, 122)  # ENOSPC, EDQUOT
_LAST_WAIT = 10  # seconds until processes that do not end are killed


class _Pending:
    """An answer that is awaited."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._answer: tuple[wire.Message, list[int]] | None = None

    def settle(self, message: wire.Message | None, fds: list[int]) -> None:
        if message is not None:
            self._answer = message, fds
        self._done.set()

    def is_settled(self, seconds: float | None) -> bool:
        return self._done.wait(seconds)

    def wait(self) -> tuple[wire.Message, list[int]]:
        self._done.wait()
        if self._answer is None:
            raise SandboxError("the sandbox's processes ended unexpectedly")
        return self._answer


class Running:
    """A command on its way."""

    def __init__(self, session: "Session", request: int, pending: _Pending) -> None:
        self._session = session
        self._request = request
        self._pending = pending

    @overload
    def wait(self) -> int: ...
    @overload
    def wait(self, seconds: float | None) -> int | None: ...
    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the end; give the status as a shell would (128 + N for signal N).

        None when it has not ended after so many seconds. SandboxError, with a remedy, when there was no command because a step before failed.
        """
        if not self._pending.is_settled(seconds):
            return None
        message, _ = self._pending.wait()
        if "error" in message:
            raise explain(message["error"])
        return int(message["status"])

    def kill(self) -> None:
        """End the command and all that it started; `wait` then gives 137."""
        with contextlib.suppress(OSError):
            self._session.order_end(self._request)


class Session:
    """The processes of one build's namespaces; made by `launch`. Safe to use from many threads.

    `tier` says what the host allowed.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        worker: socket.socket,
        zygote: socket.socket,
        tier: Tier,
    ) -> None:
        self.tier = tier
        self._process = process
        self._worker = worker
        self._zygote = zygote
        self._lock = threading.Lock()
        self._next = 0
        self._awaited: dict[int, _Pending] = {}
        self._broken = False
        self._network: int | None = None
        self._reader = threading.Thread(target=self._read, name="imgbuild-session", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self, verb: str, params: dict[str, Any], fds: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[int]]:
        """Ask the worker for something; give the result and descriptors, which are the caller's.

        An error of the worker is raised as the error of the same name, OSError as SandboxError
        or DiskFullError.
        """
        number, pending = self._await()
        self._send(self._worker, {"id": number, "verb": verb, "params": params}, fds)
        message, passed = pending.wait()
        if "error" in message:
            raise _error_from(verb, message["error"])
        result: dict[str, Any] = message["result"]
        return result, passed

    def keep_network(self, namespace: int) -> None:
        """Take over the descriptor of the network that commands with a "private" one get."""
        self._network = namespace

    def run(
        self,
        spec: SandboxSpec,
        stdin: int,
        stdout: int,
        stderr: int,
        lent: Mapping[str, int] = MappingProxyType({}),
    ) -> Running:
        """Start a command. The descriptors may be closed as soon as this returns.

        `lent` are descriptors for the way to the command: "cgroup:N", files to join control groups
        by, and "mount:TARGET", a mount to take instead of cloning the one at that target.

        They must not be terminals unless the spec is interactive (ValueError): a command could
        type into a terminal. SandboxError for a command that nothing can execute.
        """
        if not spec.interactive and (os.isatty(stdout) or os.isatty(stderr)):
            raise ValueError("a command that is not interactive must not get a terminal")
        spec.check()
        lent = dict(lent)
        if spec.network == "private":
            if self._network is None:
                raise SandboxError("this session has no network of its own")
            lent["network"] = self._network
        if len(lent) + 3 >= wire.MOST_FDS:  # and one more for a spec that is long
            raise SandboxError(
                f"a command can have {wire.MOST_FDS - 10} volumes at most",
                hint="mount a folder above several of them",
            )
        number, pending = self._await()
        message = {"id": number, "spec": {**spec.to_json(), "lent": list(lent)}}
        self._send(self._zygote, message, (stdin, stdout, stderr, *lent.values()))
        return Running(self, number, pending)

    def order_end(self, request: int) -> None:
        """Ask the zygote to end a command."""
        wire.send(self._zygote, {"kill": request})

    def close(self) -> None:
        """End everything that still runs and wait until it is gone."""
        for sock in (self._zygote, self._worker):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if not _ends(self._process, _LAST_WAIT):
            self._process.kill()  # the kernel ends the others with it
        self._process.wait()
        self._reader.join()
        self._zygote.close()
        self._worker.close()
        if self._network is not None:
            os.close(self._network)
            self._network = None

    def _await(self) -> tuple[int, _Pending]:
        pending = _Pending()
        with self._lock:
            if self._broken:
                raise SandboxError("the sandbox's processes have ended")
            self._next += 1
            self._awaited[self._next] = pending
            return self._next, pending

    def _send(self, sock: socket.socket, message: wire.Message, fds: Sequence[int]) -> None:
        try:
            wire.send(sock, message, fds)
        except OSError as problem:
            with self._lock:
                self._awaited.pop(message["id"], None)
            raise SandboxError(f"the sandbox's processes do not answer: {problem}") from None
        except BaseException:
            with self._lock:
                self._awaited.pop(message["id"], None)
            raise

    def _read(self) -> None:
        """Give each answer to who awaits it, until a socket is closed."""
        poll = select.poll()
        sockets = {sock.fileno(): sock for sock in (self._worker, self._zygote)}
        for fd in sockets:
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                try:
                    received = wire.receive(sockets[fd])
                except OSError:
                    received = None
                if received is None:
                    self._give_up()
                    return
                message, fds = received
                with self._lock:
                    pending = self._awaited.pop(message["id"], None)
                if pending is not None:
                    pending.settle(message, fds)

    def _give_up(self) -> None:
        with self._lock:
            self._broken = True
            awaited = list(self._awaited.values())
            self._awaited.clear()
        for pending in awaited:
            pending.settle(None, [])


def _ends(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Tell whether a process ends in time; unlike `Popen.wait`, which polls, notice at once."""
    handle = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(handle)


def _error_from(verb: str, error: dict[str, Any]) -> ImgbuildError:
    """Make the error that a worker raised; one of no name of ours is a SandboxError."""
    if "op" in error:
        return explain(error)
    if error.get("errno") in _NO_SPACE:
        return disk_full(error["message"])
    kind = getattr(errors, error["kind"], SandboxError)
    if not (isinstance(kind, type) and issubclass(kind, ImgbuildError)):
        kind = SandboxError
    if kind is errors.StepFailedError or kind is SandboxError:
        return SandboxError(f"{verb}: {error['message']}", hint=error["hint"])
    made: ImgbuildError = kind(error["message"], hint=error["hint"])
    return made
