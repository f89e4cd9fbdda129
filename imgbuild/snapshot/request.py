"""A request to the worker that goes on while its descriptors are read or written."""

import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from imgbuild.sandbox.session import Session

_PIPE = 1 << 20


class Request:
    """A request in a thread of its own.

    `own` are descriptors that the request takes over and closes at its end.
    """

    def __init__(
        self,
        session: Session,
        verb: str,
        params: dict[str, Any],
        fds: Sequence[int] = (),
        own: Sequence[int] = (),
    ) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(session, verb, params, fds, own), daemon=True
        )
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def result(self) -> None:
        """Wait; raise what the request raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def _run(
        self,
        session: Session,
        verb: str,
        params: dict[str, Any],
        fds: Sequence[int],
        own: Sequence[int],
    ) -> None:
        try:
            session.request(verb, params, fds)
        except BaseException as error:
            self._error = error
        finally:
            for fd in own:
                os.close(fd)


def receive(
    session: Session,
    verb: str,
    params: dict[str, Any],
    write: Callable[[bytes], object],
    more: Sequence[int] = (),
) -> None:
    """Ask for something that the worker writes to a pipe, before the descriptors `more`."""
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as stream:
        widen(reader)
        request = Request(session, verb, params, (writer, *more), own=(writer,))
        try:
            while data := stream.read(_PIPE):
                write(data)
        finally:
            stream.close()  # whoever still writes has to stop
            request.join()
        request.result()


def widen(pipe: int) -> None:
    """Let a pipe hold more than a page or two, where the user's quota allows it."""
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
    except OSError:
        return
