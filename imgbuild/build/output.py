"""What a command writes while it runs: passed on as it comes, without secrets, until it ends."""

import math
import os
import selectors
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal, Self

from imgbuild.build.masking import Masker
from imgbuild.sandbox.session import Running

Stream = Literal["stdout", "stderr"]

TIMED_OUT = 124  # the status of what took too long, as timeout(1) has it
# How much of the last output is kept for an error.
_TAIL = 64 << 10
_CHUNK = 64 << 10
# Seconds without output after which what may be the beginning of a secret no longer waits for its
# rest, and after which to ask whether the command has ended.
_PAUSE = 1.0
# How many pieces a pipe can hold, each for one read (pipe(7): 1 MiB in pages).
_PIECES = 256


class TimedOut(Exception):
    """The command took too long and was ended; `tail` is the last that it wrote."""

    def __init__(self, tail: bytes) -> None:
        super().__init__()
        self.tail = tail


class Pipes:
    """The standard output and error of a command, as pipes; a context manager."""

    def __init__(self) -> None:
        self._ends: list[int] = []
        self.out, self.out_writer = self._pipe()
        self.err, self.err_writer = self._pipe()

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._ends += ends
        return ends

    def close_writers(self) -> None:
        """Leave the writing ends to the command, so that its end can be seen."""
        for end in (self.out_writer, self.err_writer):
            os.close(end)
            self._ends.remove(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._ends:
            os.close(self._ends.pop())


def follow(
    running: Running,
    pipes: Pipes,
    show: Callable[[Stream, bytes], object],
    *,
    secrets: Iterable[bytes] = (),
    timeout: float | None = None,
) -> tuple[int, bytes]:
    """Pass output on until the command ends; return the status and the last of the output.

    `timeout` is in seconds. Raises `TimedOut` when it is over: all processes are gone then.
    """
    follower = _Follower(running, pipes, show, list(secrets), timeout)
    try:
        status = follower.until_end()
        if status is None:
            running.kill()
            running.wait()
        follower.rest()
    except BaseException:
        running.kill()
        raise
    if status is None:
        raise TimedOut(bytes(follower.tail))
    return status, bytes(follower.tail)


class _Follower:
    def __init__(
        self,
        running: Running,
        pipes: Pipes,
        show: Callable[[Stream, bytes], object],
        secrets: list[bytes],
        timeout: float | None,
    ) -> None:
        self._running = running
        self._show = show
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._maskers: dict[Stream, Masker] = {
            "stdout": Masker(secrets),
            "stderr": Masker(secrets),
        }
        self._readers: dict[int, Stream] = {pipes.out: "stdout", pipes.err: "stderr"}
        self.tail = bytearray()

    def until_end(self) -> int | None:
        """Pass on until the command has ended; return its status, None when it takes too long.

        The end of its streams is neither needed nor enough: a command can close them and go on, and
        can lend them to a process that outlives it, over a socket in a shared cache mount.
        """
        with selectors.DefaultSelector() as selector:
            for fd in self._readers:
                selector.register(fd, selectors.EVENT_READ)
            asked = time.monotonic()
            while self._readers:
                ready = selector.select(min(_PAUSE, self._left()))
                for key, _ in ready:
                    if not self._pass(key.fd):
                        selector.unregister(key.fd)
                if self._left() == 0:
                    return None
                if not ready:
                    self._give_held()
                if time.monotonic() >= asked + _PAUSE:
                    asked = time.monotonic()
                    status = self._running.wait(0)
                    if status is not None:
                        return status
        return self._running.wait(None if self._deadline is None else self._left())

    def rest(self) -> None:
        """Pass on what was written before the end, which has come."""
        for fd in list(self._readers):
            os.set_blocking(fd, False)
            with suppress(BlockingIOError):  # somebody else still can write
                for _ in range(_PIECES):
                    if not self._pass(fd):
                        break
        self._give_held()

    def _left(self) -> float:
        """Give the seconds until the command has to end."""
        return math.inf if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _pass(self, fd: int) -> bool:
        """Pass on what there is; tell whether there may be more."""
        stream = self._readers[fd]
        masker = self._maskers[stream]
        data = os.read(fd, _CHUNK)
        self._give(stream, masker.feed(data) if data else masker.flush())
        if not data:
            del self._readers[fd]
        return bool(data)

    def _give_held(self) -> None:
        for stream, masker in self._maskers.items():
            self._give(stream, masker.flush())

    def _give(self, stream: Stream, data: bytes) -> None:
        if data:
            self._show(stream, data)
            self.tail += data
            del self.tail[:-_TAIL]
