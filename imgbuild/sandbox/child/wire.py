"""Messages between a session and its processes: one JSON object and some descriptors each.

They travel over SOCK_SEQPACKET sockets, which keep message borders and hand descriptors over. An
object too long for one packet goes as a memory file instead.
"""

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

MOST_FDS = 253  # SCM_MAX_FD, linux/include/net/scm.h
_LONGEST = 60_000  # bytes; well below the default socket buffer
_IN_FILE = b"@"


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message; OSError (EPIPE) when the other side is gone."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) <= _LONGEST:
        _send(sock, data, fds)
        return
    file = os.memfd_create("imgbuild-message", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(file), "wb") as stream:
            stream.write(data)
        _send(sock, _IN_FILE, [file, *fds])
    finally:
        os.close(file)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """Wait for one message and its descriptors; None when the other side is gone.

    The descriptors are not inheritable and belong to the caller.
    """
    try:
        data, fds = _receive(sock)
    except ConnectionResetError:
        return None
    if not data:
        return None
    if data == _IN_FILE:
        with os.fdopen(fds.pop(0), "rb") as stream:
            stream.seek(0)
            data = stream.read()
    message: Message = json.loads(data)
    return message, fds


def _send(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    if len(fds) > MOST_FDS:
        raise ValueError("too many descriptors for one message")
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sock.sendmsg([data], [rights] if fds else [], socket.MSG_NOSIGNAL)


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    space = socket.CMSG_LEN(MOST_FDS * fds.itemsize)
    data, rights, _, _ = sock.recvmsg(_LONGEST + 1, space, socket.MSG_CMSG_CLOEXEC)
    for _, _, part in rights:
        fds.frombytes(part[: len(part) - len(part) % fds.itemsize])
    return data, list(fds)
