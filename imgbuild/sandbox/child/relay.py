"""The terminal that an OCI runtime makes for a container, joined to the one that the step was given."""

import array
import os
import select
import socket
import termios
import tty

_CHUNK = 1 << 16


class Listener:
    """Takes the terminal from the runtime over a socket at `path`, as `--console-socket` wants it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.bind(path)
        self._socket.listen(1)
        self._master = -1

    def accept(self) -> None:
        """Take the terminal of the container that was created."""
        self._socket.settimeout(10)
        connection, _ = self._socket.accept()
        space = socket.CMSG_LEN(array.array("i").itemsize)
        _, rights, _, _ = connection.recvmsg(4096, space, socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        fds.frombytes(rights[0][2])
        self._master = fds[0]
        connection.close()
        self._socket.close()

    def pass_on(self, given_in: int, given_out: int, ended: int) -> None:
        """Copy both ways until the process with the pidfd `ended` is gone and has said all."""
        tty.setraw(given_in, termios.TCSANOW)  # the container's own terminal cooks
        poll = select.poll()
        for fd in (self._master, given_in, ended):
            poll.register(fd, select.POLLIN)
        wait: int | None = None
        while ready := poll.poll(wait):
            fds = {fd for fd, _ in ready}
            if ended in fds:
                poll.unregister(ended)
                wait = 0  # what is there is still shown
            self._follow_size(given_in)
            if given_in in fds and not _copy(given_in, self._master):
                poll.unregister(given_in)
            if self._master in fds and not _copy(self._master, given_out):
                return

    def _follow_size(self, given: int) -> None:
        size = termios.tcgetwinsize(given)
        if size != termios.tcgetwinsize(self._master):
            termios.tcsetwinsize(self._master, size)


def _copy(source: int, target: int) -> bool:
    """Copy what can be read at once; False at the end, which a terminal tells by an error."""
    try:
        data = os.read(source, _CHUNK)
        rest = data
        while rest:
            rest = rest[os.write(target, rest) :]
    except OSError:
        return False
    return bool(data)
