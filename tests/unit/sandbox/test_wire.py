"""Messages arrive whole, with their descriptors, whatever their length."""

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuild.sandbox.child import wire


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_messages_keep_their_borders(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    for number in range(3):
        wire.send(ours, {"id": number})
    assert [wire.receive(theirs) for _ in range(3)] == [({"id": n}, []) for n in range(3)]


@pytest.mark.parametrize("length", [0, 59_000, 60_000, 61_000, 3_000_000])
def test_any_length(pair: tuple[socket.socket, socket.socket], length: int) -> None:
    ours, theirs = pair
    reading, writing = os.pipe()
    wire.send(ours, {"text": "x" * length}, [writing])
    os.close(writing)
    received = wire.receive(theirs)
    assert received is not None
    message, (passed,) = received
    assert message == {"text": "x" * length}
    assert not os.get_inheritable(passed)
    os.write(passed, b"through")
    os.close(passed)
    assert os.read(reading, 10) == b"through"
    os.close(reading)


def test_end_of_the_other_side(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    wire.send(ours, {"last": True})
    ours.close()
    assert wire.receive(theirs) == ({"last": True}, [])
    assert wire.receive(theirs) is None
    with pytest.raises(OSError):
        wire.send(theirs, {})


def test_too_many_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ValueError):
        wire.send(pair[0], {}, [0] * 254)


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.text(st.characters()) | st.integers() | st.booleans()))
def test_any_text_survives(message: dict[str, object]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        wire.send(ours, message)
        assert wire.receive(theirs) == (message, [])


def test_bytes_of_names_survive(pair: tuple[socket.socket, socket.socket]) -> None:
    name = os.fsdecode(b"\xff\xfe")
    wire.send(pair[0], {"name": name})
    received = wire.receive(pair[1])
    assert received is not None
    assert os.fsencode(received[0]["name"]) == b"\xff\xfe"
