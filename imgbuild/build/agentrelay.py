"""Lead connections to a socket of a container to an SSH agent of the caller, as long as a step runs."""

import os
import selectors
import socket
import threading
from contextlib import suppress
from pathlib import Path

_CHUNK = 64 << 10
_MOST = 64  # connections at once; more wait until one ends


class AgentRelay:
    """Relays what comes to `listener`, which it takes over, to the agent; close it when the step ends."""

    def __init__(self, listener: socket.socket, agent: Path) -> None:
        self._listener = listener
        self._agent = str(agent)
        self._stop, self._stopping = os.pipe2(os.O_CLOEXEC)
        # Each end of a connection with the other one.
        self._peers: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._work, name="imgbuild-ssh", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections and wait until they are gone."""
        os.close(self._stopping)
        self._thread.join()
        os.close(self._stop)

    def _work(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._stop, selectors.EVENT_READ)
            while True:
                ready = selector.select()
                if any(key.fileobj == self._stop for key, _ in ready):
                    self._end()
                    return
                for key, _ in ready:
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif isinstance(key.fileobj, socket.socket):
                        self._pass_on(key.fileobj, selector)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        with suppress(OSError):
            near, _ = self._listener.accept()
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            # An agent that lets nobody in must not hold up the end; who does not read what it asked
            # for must not hold up the others.
            for end in (near, far):
                end.settimeout(10)
            try:
                far.connect(self._agent)
            except OSError:  # the command sees that the connection is closed
                near.close()
                far.close()
                return
            for one, other in ((near, far), (far, near)):
                self._peers[one] = other
                selector.register(one, selectors.EVENT_READ)
            if len(self._peers) >= 2 * _MOST:
                selector.unregister(self._listener)

    def _pass_on(self, source: socket.socket, selector: selectors.BaseSelector) -> None:
        peer = self._peers.get(source)
        if peer is None:  # it was closed in this round
            return
        try:
            data = source.recv(_CHUNK)
            if data:
                peer.sendall(data)
                return
            # What the other end still has to say is passed on.
            selector.unregister(source)
            peer.shutdown(socket.SHUT_WR)
            if peer in selector.get_map():
                return
        except OSError:
            pass
        self._drop(source, peer, selector)

    def _drop(
        self, source: socket.socket, peer: socket.socket, selector: selectors.BaseSelector
    ) -> None:
        for sock in (source, peer):
            if sock in selector.get_map():
                selector.unregister(sock)
            del self._peers[sock]
            sock.close()
        if self._listener not in selector.get_map():
            selector.register(self._listener, selectors.EVENT_READ)

    def _end(self) -> None:
        for sock in self._peers:
            sock.close()
        self._peers.clear()
