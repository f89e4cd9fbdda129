from typing import Self

import pytest

from imgbuild.build import netfiles
from imgbuild.build.netfiles import hosts, needs_helper, resolver
from imgbuild.options import RunOptions

HOST = "# made by hand\nnameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch corp.example\noptions ndots:2\n"
STUB = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"


def test_hosts_are_those_of_buildkit_and_more() -> None:
    plain = "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    assert hosts(RunOptions()) == plain
    options = RunOptions(add_hosts=(("db", "10.0.0.1"), ("me", "host-gateway"), ("db", "fd00::1")))
    assert hosts(options) == plain + "10.0.0.1\tdb\n127.0.0.1\tme\nfd00::1\tdb\n"
    assert hosts(RunOptions(), "box").startswith("127.0.0.1\tlocalhost box\n")


@pytest.mark.parametrize(
    ("text", "options", "helper", "expected"),
    [
        (HOST, RunOptions(), None, HOST),
        (STUB, RunOptions(), None, STUB),
        (HOST, RunOptions(), "10.0.2.3", HOST),
        (STUB, RunOptions(), "10.0.2.3", "nameserver 10.0.2.3\noptions edns0 trust-ad\nsearch lan\n"),
        ("", RunOptions(), "10.0.2.3", "nameserver 10.0.2.3\n"),
        ("nameserver ::1%lo\n", RunOptions(), "10.0.2.3", "nameserver 10.0.2.3\n"),
        (HOST, RunOptions(dns=("none",)), None, None),
        (HOST, RunOptions(dns=("1.1.1.1", "fd00::1")), None,
         "nameserver 1.1.1.1\nnameserver fd00::1\nsearch corp.example\noptions ndots:2\n"),
        (HOST, RunOptions(dns_search=(".",)), None,
         "nameserver 192.0.2.53\nnameserver 192.0.2.54\noptions ndots:2\n"),
        (STUB, RunOptions(dns_search=("a", "b"), dns_options=("ndots:1",)), "169.254.1.1",
         "nameserver 169.254.1.1\nsearch a b\noptions ndots:1\n"),
        (STUB, RunOptions(dns=("127.0.0.9",)), "169.254.1.1",
         "nameserver 169.254.1.1\nsearch lan\noptions edns0 trust-ad\n"),
    ],
)  # fmt: skip
def test_resolvers_are_reached_from_where_the_command_is(
    text: str, options: RunOptions, helper: str | None, expected: str | None
) -> None:
    assert resolver(text, options, helper) == expected


def test_no_address_of_this_machine_is_reached_from_a_network_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Socket:
        """A socket on a machine that has the address 192.0.2.53."""

        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...
        def bind(self, address: tuple[str, int]) -> None:
            if address[0] != "192.0.2.53":
                raise OSError

    monkeypatch.setattr(netfiles.socket, "socket", Socket)  # type: ignore[attr-defined]
    made = resolver(HOST, RunOptions(), "10.0.2.3")
    assert made is not None
    assert "nameserver 10.0.2.3\n" in made
    assert "192.0.2" not in made
    other = "nameserver 192.0.2.54\n"
    assert resolver(other, RunOptions(), "10.0.2.3") == other


def test_the_helper_is_asked_where_name_servers_are_out_of_reach() -> None:
    """And nowhere else: pasta answers for a server in its own name as soon as it may be asked."""
    assert needs_helper("nameserver 127.0.0.53\n", RunOptions())
    assert needs_helper("", RunOptions())
    assert not needs_helper("nameserver 10.0.0.1\n", RunOptions())
    assert not needs_helper("nameserver 127.0.0.53\n", RunOptions(dns=("10.0.0.1",)))
    assert not needs_helper("nameserver 127.0.0.53\n", RunOptions(dns=("none",)))
