"""A terminal of its own for a command: what is typed on the user's goes there, what it shows comes back.

The user's terminal itself stays out of reach: a command could type into it, and it belongs to
the session of the user's shell, so that nothing here could have job control on it.
"""

import contextlib
import fcntl
import os
import select
import termios
import threading
import tty
from collections.abc import Iterator

_CHUNK = 1 << 16
_LOOK = 0.3  # seconds between looks at the size of the user's terminal
_LAST_OUTPUT = 2.0  # seconds that output may take to come after the command has ended

Streams = tuple[int, int, int]


def is_possible(streams: Streams) -> bool:
    """Tell whether both input and output are terminals."""
    return os.isatty(streams[0]) and os.isatty(streams[1])


class Console:
    """Made for `streams` that are terminals; `streams` are then those of the command."""

    def __init__(self, streams: Streams) -> None:
        self._input, self._output = streams[:2]
        self._master, self._slave = os.openpty()
        error = self._slave if os.isatty(streams[2]) else streams[2]
        self.streams: Streams = (self._slave, self._slave, error)
        # Of a group that the sandbox has, so that the command can be given the terminal.
        os.fchown(self._slave, -1, os.getegid())
        os.fchmod(self._slave, 0o600)
        self._size = b""
        termios.tcsetattr(self._slave, termios.TCSANOW, termios.tcgetattr(self._input))
        self._follow_size()

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Pass bytes on both ways, once the command has the streams; the user's terminal is raw."""
        os.close(self._slave)
        self._slave = -1
        before = termios.tcgetattr(self._input)
        ended, end = os.pipe2(os.O_CLOEXEC)
        pump = threading.Thread(target=self._pump, args=(ended,), name="imgbuild-console")
        try:
            tty.setraw(self._input, termios.TCSANOW)
            pump.start()
            yield
            pump.join(_LAST_OUTPUT)
        finally:
            os.close(end)
            if pump.ident is not None:
                pump.join()
            os.close(ended)
            termios.tcsetattr(self._input, termios.TCSADRAIN, before)

    def close(self) -> None:
        for fd in (self._master, self._slave):
            if fd >= 0:
                os.close(fd)
        self._master = self._slave = -1

    def _follow_size(self) -> None:
        size = fcntl.ioctl(self._input, termios.TIOCGWINSZ, bytes(8))
        if size != self._size:
            self._size = size
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def _pump(self, ended: int) -> None:
        """Copy until no process has the terminal of the command any more, or `ended` is closed."""
        reading = [self._master, self._input, ended]
        with contextlib.suppress(OSError):  # EIO: the last one has closed it
            while True:
                ready, _, _ = select.select(reading, (), (), _LOOK)
                self._follow_size()
                if self._master in ready:
                    write_all(self._output, os.read(self._master, _CHUNK))
                elif ended in ready:
                    return
                if self._input in ready:
                    data = os.read(self._input, _CHUNK)
                    if data:
                        write_all(self._master, data)
                    else:
                        reading.remove(self._input)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`."""
    while data:
        data = data[os.write(fd, data) :]
