"""What a command writes while it runs: passed on as it comes, without secrets, until it ends."""

import os
import selectors
import time
from collections.abc import Callable, Iterable
from typing import Literal, Self

from imgbuild.build.masking import Masker
from imgbuild.sandbox.session import Running

Stream = Literal["stdout", "stderr"]

# How much of the last output is kept for an error.
_TAIL = 64 << 10
_CHUNK = 64 << 10
# Seconds that the beginning of what may be a secret waits for its rest.
_PAUSE = 1.0


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
    """Pass output on until both streams end; return the status and the last of the output.

    `timeout` is in seconds. Raises `TimedOut` when it is over: all processes are gone then.
    """
    follower = _Follower(pipes, show, list(secrets), timeout)
    try:
        in_time = follower.until_end()
        if not in_time:
            running.kill()
        status = running.wait()
        follower.rest()
    except BaseException:
        running.kill()
        raise
    if not in_time:
        raise TimedOut(bytes(follower.tail))
    return status, bytes(follower.tail)


class _Follower:
    def __init__(
        self,
        pipes: Pipes,
        show: Callable[[Stream, bytes], object],
        secrets: list[bytes],
        timeout: float | None,
    ) -> None:
        self._show = show
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._maskers: dict[Stream, Masker] = {
            "stdout": Masker(secrets),
            "stderr": Masker(secrets),
        }
        self._readers: dict[int, Stream] = {pipes.out: "stdout", pipes.err: "stderr"}
        self.tail = bytearray()

    def until_end(self) -> bool:
        """Pass on until all streams have ended; tell whether that was in time."""
        with selectors.DefaultSelector() as selector:
            for fd in self._readers:
                selector.register(fd, selectors.EVENT_READ)
            while self._readers:
                ready = selector.select(self._patience())
                for key, _ in ready:
                    if not self._pass(key.fd):
                        selector.unregister(key.fd)
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    return False
                if not ready:
                    self._give_held()
        return True

    def rest(self) -> None:
        """Pass on what was written before the end, which has come."""
        for fd in list(self._readers):
            while self._pass(fd):
                pass

    def _patience(self) -> float | None:
        waits = [_PAUSE] if any(masker.is_holding for masker in self._maskers.values()) else []
        if self._deadline is not None:
            waits.append(max(0.0, self._deadline - time.monotonic()))
        return min(waits, default=None)

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
