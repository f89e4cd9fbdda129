"""What is said while a session starts, without any session."""

import socket

import pytest

from imgbuild.sandbox import launch
from imgbuild.sandbox.child import wire
from imgbuild.sandbox.failures import RefusedError


def test_what_was_said_last_is_heard_when_more_was_sent_than_read() -> None:
    """The kernel tells of the unread message first, by ECONNRESET."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire.send(ours, {"never": "read"})
    wire.send(theirs, {"error": {"op": "unshare", "errno": 1, "message": "no"}})
    theirs.close()
    with ours:
        launch._tell(ours, {"to": "nobody"})
        with pytest.raises(RefusedError, match="does not allow user namespaces"):
            launch._answer(ours, "ready")
        with pytest.raises(EOFError):
            launch._answer(ours, "ready")
