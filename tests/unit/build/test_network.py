from pathlib import Path

import pytest

from imgbuild.build import network
from imgbuild.build.network import Networks, find_helpers
from imgbuild.errors import SandboxError
from imgbuild.options import RunOptions
from imgbuild.sandbox.idmap import IdMap
from imgbuild.sandbox.tiers import Tier, TierName


class FakeSession:
    """A session that makes networks, or does not."""

    def __init__(self, problem: str = "", tier: TierName = "A") -> None:
        self.problem = problem
        self.tier = Tier(tier, IdMap("single", ((0, 1, 1),), ((0, 1, 1),), 0, 1))
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.kept: list[int] = []

    def request(self, verb: str, params: dict[str, object]) -> tuple[dict[str, object], list[int]]:
        self.asked.append((verb, params))
        if self.problem:
            raise SandboxError(self.problem)
        return {}, [77]

    def keep_network(self, namespace: int) -> None:
        self.kept.append(namespace)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A search path with both helpers, on a host with the device they need."""
    monkeypatch.setattr(network, "_TUN", tmp_path)
    for name in ("slirp4netns", "pasta"):
        (tmp_path / name).touch(0o755)
    return f"relative:/absent:{tmp_path}"


def networks(
    path: str, session: FakeSession, options: RunOptions | None = None
) -> tuple[Networks, list[str]]:
    told: list[str] = []
    made = Networks(path, options or RunOptions(), lambda: session, told.append)  # type: ignore[arg-type,return-value]
    return made, told


def test_helpers_are_found_best_first(programs: str, tmp_path: Path) -> None:
    assert find_helpers(programs) == [
        ("slirp4netns", f"{tmp_path}/slirp4netns"),
        ("pasta", f"{tmp_path}/pasta"),
    ]
    (tmp_path / "slirp4netns").unlink()
    assert [helper.kind for helper in find_helpers(programs)] == ["pasta"]
    assert find_helpers("") == []


def test_a_network_is_made_once_and_when_needed(programs: str) -> None:
    session = FakeSession()
    made, told = networks(programs, session)
    assert made.choose("host") == "host"
    assert made.choose("none") == "none"
    assert session.asked == []
    assert made.dns == "10.0.2.3"
    made.begin()
    assert [made.choose("default"), made.choose("default")] == ["private", "private"]
    made.close()
    assert len(session.asked) == 1
    assert session.kept == [77]
    assert told == []


@pytest.mark.parametrize(("server", "asked"), [("127.0.0.53", True), ("192.0.2.3", False)])
def test_helpers_answer_for_name_servers_on_loopback_alone(
    programs: str, server: str, asked: bool
) -> None:
    session = FakeSession()
    made, _ = networks(programs, session, RunOptions(dns=(server,)))
    assert made.choose("default") == "private"
    made.close()
    assert session.asked[0][1]["names"] is asked


def test_a_helper_that_fails_means_this_machines_network(programs: str) -> None:
    made, told = networks(programs, FakeSession("pasta: no interface"))
    assert [made.choose("default"), made.choose("default")] == ["host", "host"]
    assert told == ["commands use this machine's network: pasta: no interface"]


@pytest.mark.parametrize("tier", ["D", "D-userns"])
def test_lesser_tiers_have_this_machines_network(programs: str, tier: TierName) -> None:
    session = FakeSession(tier=tier)
    made, told = networks(programs, session)
    assert made.choose("default") == "host"
    assert session.asked == []
    assert f"tier {tier}" in told[0]


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("http://127.0.0.1:3128", "http_proxy"),
        ("http://user:pass@localhost:1/", "http_proxy"),
        ("[::1]:80", "http_proxy"),
        ("127.1.2.3", "http_proxy"),
        ("http://proxy.example:3128", None),
        ("http://127.0.0.1.example", None),
        ("", None),
    ],
)
def test_a_proxy_on_loopback_is_reached(programs: str, proxy: str, reason: str | None) -> None:
    session = FakeSession()
    made, told = networks(programs, session)
    chosen = made.choose("default", [("NO_PROXY", "localhost"), ("http_proxy", proxy)])
    assert chosen == ("private" if reason is None else "host")
    assert bool(told) == (reason is not None)
    assert all(reason in text for text in told if reason)


def test_without_helpers_the_network_is_this_machines(programs: str, tmp_path: Path) -> None:
    made, told = networks("/absent", FakeSession())
    made.begin()
    assert made.dns is None
    assert made.choose("default") == "host"
    assert "neither pasta" in told[0]


def test_without_the_device_the_network_is_this_machines(
    programs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_TUN", tmp_path / "absent")
    made, told = networks(programs, FakeSession())
    assert made.choose("default") == "host"
    assert "cannot be opened" in told[0]


def test_host_gateway_is_this_machine(programs: str) -> None:
    options = RunOptions(add_hosts=(("me", "host-gateway"),))
    made, told = networks(programs, FakeSession(), options)
    assert made.choose("default") == "host"
    assert "host-gateway" in told[0]
    assert made.choose("none") == "none"
