"""Connections to the socket of a container reach the agent, many at a time, until the step ends."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from imgbuild.build.agentrelay import AgentRelay


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "agent"))
    server.listen()

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def work() -> None:
        with suppress(OSError):
            while True:
                connection = server.accept()[0]
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield tmp_path / "agent"
    server.shutdown(socket.SHUT_RDWR)
    thread.join()
    server.close()


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)
    return listener


def connect(path: Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(20)
    end.connect(str(path))
    return end


def received(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := end.recv(1 << 16)):
        data += part
    return data


def test_many_talk_at_the_same_time(agent: Path, tmp_path: Path) -> None:
    relay = AgentRelay(listening(tmp_path / "inside"), agent)
    ends = [connect(tmp_path / "inside") for _ in range(100)]  # more than are let in at once
    for number, end in enumerate(ends[:60]):
        end.sendall(b"%d" % number * 2000)
    for number, end in enumerate(ends[:60]):
        assert received(end, len(b"%d" % number) * 2000) == b"%d" % number * 2000
    for end in ends[:60]:
        end.close()
    for end in ends[60:]:
        end.sendall(b"late")
        assert received(end, 4) == b"late"
    relay.close()
    for end in ends[60:]:
        assert end.recv(1) == b""
        end.close()


def test_without_the_agent_a_connection_is_closed(tmp_path: Path) -> None:
    relay = AgentRelay(listening(tmp_path / "inside"), tmp_path / "gone")
    with closing(relay), connect(tmp_path / "inside") as end:
        assert end.recv(1) == b""


def test_who_has_said_all_still_gets_the_answer(agent: Path, tmp_path: Path) -> None:
    relay = AgentRelay(listening(tmp_path / "inside"), agent)
    with closing(relay), connect(tmp_path / "inside") as end:
        end.sendall(b"question")
        end.shutdown(socket.SHUT_WR)
        assert received(end, 100) == b"question"
    with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
        late.connect(str(tmp_path / "inside"))


def test_an_agent_that_lets_nobody_in_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(tmp_path / "agent"))
        busy.listen(0)
        relay = AgentRelay(listening(tmp_path / "inside"), tmp_path / "agent")
        ends = [connect(tmp_path / "inside") for _ in range(4)]
        assert ends[-1].recv(1) == b""
        closing_it = threading.Thread(target=relay.close, daemon=True)
        closing_it.start()
        closing_it.join(20)
        assert not closing_it.is_alive()
        for end in ends:
            end.close()
