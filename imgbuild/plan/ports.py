"""EXPOSE: `[[ip:]host:]container[-last][/protocol]` -> `port/protocol`.

Source of the rules and words: BuildKit's convert_expose.go.
"""

import re
from collections.abc import Iterable

from imgbuild.errors import DockerfileError

_PROTOCOLS = frozenset({"tcp", "udp", "sctp"})
_DIGITS = re.compile(r"[0-9]{1,32}")
_MAX_PORT = 65535
# Every port of every protocol; ranges that are said again and again would take hours.
_MOST = (_MAX_PORT + 1) * len(_PROTOCOLS)


def expand_ports(specs: Iterable[str]) -> list[str]:
    """Return each port of `specs` as `port/protocol`; raise `DockerfileError` in BuildKit's words."""
    ports: list[str] = []
    for spec in specs:
        ports += _expand(spec)
        if len(ports) > _MOST:
            raise DockerfileError(
                f"EXPOSE lists more than {_MOST} ports", hint="write each range once"
            )
    return ports


def _expand(spec: str) -> list[str]:
    address, host, container = split_port(spec)
    ports, _, protocol = container.partition("/")
    if not ports:
        raise DockerfileError(f"no port specified: {container}<empty>")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise DockerfileError(f"invalid proto: {protocol}", hint="use tcp, udp or sctp")
    _check_address(address)
    span = _port_range(ports)
    if span is None:
        raise DockerfileError(
            f"invalid containerPort: {ports}", hint=f"ports go from 0 to {_MAX_PORT}"
        )
    if host:
        host_span = _port_range(host)
        if host_span is None:
            raise DockerfileError(f"invalid hostPort: {host}")
        if span[1] != span[0] and span[1] - span[0] != host_span[1] - host_span[0]:
            raise DockerfileError(
                f"invalid ranges specified for container and host Ports: {ports} and {host}"
            )
    return [f"{port}/{protocol}" for port in range(span[0], span[1] + 1)]


def split_port(spec: str) -> tuple[str, str, str]:
    """Split into the address, the port of the host and the rest; what is not there is empty."""
    pieces = spec.split(":")
    container = pieces.pop()
    host = pieces.pop() if pieces else ""
    return ":".join(pieces), host, container


def _check_address(address: str) -> None:
    if not address:
        return
    import ipaddress  # costs 5 ms and almost no Dockerfile needs it

    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise DockerfileError(f"invalid IP address: {bare}") from None


def _port_range(text: str) -> tuple[int, int] | None:
    numbers = text.split("-")
    if len(numbers) > 2 or not all(map(_DIGITS.fullmatch, numbers)):
        return None
    first, last = int(numbers[0]), int(numbers[-1])
    return (first, last) if first <= last <= _MAX_PORT else None
