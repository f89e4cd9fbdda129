"""What roots do without namespaces: when the session is started, and that it is ended."""

from pathlib import Path
from typing import Any

import pytest

from imgbuild.errors import SandboxError
from imgbuild.sandbox.idmap import IdMap
from imgbuild.sandbox.tiers import Tier
from imgbuild.snapshot.roots import Roots

ONE = IdMap("single", ((0, 1, 1),), ((0, 1, 1),), shift=0, count=1)


class FakeSession:
    tier = Tier("C", ONE)

    def __init__(self) -> None:
        self.closed = False

    def request(self, verb: str, _params: object) -> None:
        assert verb == "remove"

    def close(self) -> None:
        self.closed = True


def make_roots(tmp_path: Path, start: Any) -> Roots:
    def unused(*_: object) -> Any:
        raise AssertionError

    def scratch() -> Path:
        path = tmp_path / "steps"
        path.mkdir()
        return path

    return Roots(tmp_path, scratch, unused, start)


def test_a_session_started_early_is_the_one_that_is_used_and_ended(tmp_path: Path) -> None:
    sessions: list[FakeSession] = []

    def start(_steps: Path) -> FakeSession:
        sessions.append(FakeSession())
        return sessions[-1]

    roots = make_roots(tmp_path, start)
    roots.start_early()
    roots.start_early()
    assert roots.session is sessions[0]
    roots.close()
    assert [session.closed for session in sessions] == [True]


def test_what_keeps_a_session_from_starting_is_told_when_it_is_needed(tmp_path: Path) -> None:
    def start(_steps: Path) -> FakeSession:
        raise SandboxError("not on this host")

    roots = make_roots(tmp_path, start)
    roots.start_early()
    with pytest.raises(SandboxError, match="not on this host"):
        _ = roots.session
    roots.close()


def test_nothing_is_started_that_is_not_asked_for(tmp_path: Path) -> None:
    def start(_steps: Path) -> FakeSession:
        raise AssertionError

    make_roots(tmp_path, start).close()
