"""EXPOSE's ports, in BuildKit's words (convert_expose.go)."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.errors import DockerfileError
from imgbuild.plan.ports import expand_ports


@pytest.mark.parametrize(
    ("spec", "ports"),
    [
        ("80", ["80/tcp"]),
        ("80/", ["80/tcp"]),
        ("80/UDP", ["80/udp"]),
        ("0", ["0/tcp"]),
        ("65535/sctp", ["65535/sctp"]),
        ("8000-8002", ["8000/tcp", "8001/tcp", "8002/tcp"]),
        ("127.0.0.1:80:90", ["90/tcp"]),
        ("80:90/udp", ["90/udp"]),
        ("[::1]:80:90", ["90/tcp"]),
        ("::1:80:90", ["90/tcp"]),
        ("1-3:5-7", ["5/tcp", "6/tcp", "7/tcp"]),
        ("1-3:5", ["5/tcp"]),
        (":90", ["90/tcp"]),
    ],
)
def test_ports(spec: str, ports: list[str]) -> None:
    assert expand_ports([spec]) == ports


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("99999", "invalid containerPort: 99999"),
        ("x", "invalid containerPort: x"),
        ("-1", "invalid containerPort: -1"),
        ("3-1", "invalid containerPort: 3-1"),
        ("1-2-3", "invalid containerPort: 1-2-3"),
        ("1_0", "invalid containerPort: 1_0"),
        ("٣", "invalid containerPort: ٣"),
        ("9" * 5000, f"invalid containerPort: {'9' * 5000}"),
        ("80/http", "invalid proto: http"),
        ("/tcp", "no port specified: /tcp<empty>"),
        ("80:", "no port specified: <empty>"),
        ("x:80", "invalid hostPort: x"),
        ("1-2:5-7", "invalid ranges specified for container and host Ports: 5-7 and 1-2"),
        ("host:80:80", "invalid IP address: host"),
    ],
)
def test_malformed(spec: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        expand_ports([spec])
    assert caught.value.message == message


@given(st.text(alphabet="0123456789-/:tcpud[]. \n٣", max_size=20))
def test_anything_is_ports_or_one_clear_error(spec: str) -> None:
    with contextlib.suppress(DockerfileError):
        ports = expand_ports([spec])
        assert all(0 <= int(port.partition("/")[0]) <= 65535 for port in ports)


def test_ranges_are_not_repeated_without_bound() -> None:
    every = [f"0-65535/{protocol}" for protocol in ("tcp", "udp", "sctp")]
    assert len(set(expand_ports(every))) == 196608
    with pytest.raises(DockerfileError, match="more than 196608 ports"):
        expand_ports(["1-65535"] * 1_000_000)
