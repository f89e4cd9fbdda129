"""What commands find in /etc/hosts and /etc/resolv.conf."""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from imgbuild.build.runrequest import GATEWAY, NO_DNS
from imgbuild.options import RunOptions

# The name of this machine in a container, as BuildKit has it.
HOSTNAME = "buildkitsandbox"
_LOOPBACK = "127.0.0.1"
_RESOLVER = Path("/etc/resolv.conf")


def hosts(options: RunOptions, hostname: str = HOSTNAME) -> str:
    """Return /etc/hosts as BuildKit writes it."""
    lines = [f"127.0.0.1\tlocalhost {hostname}", "::1\tlocalhost ip6-localhost ip6-loopback"]
    for name, address in options.add_hosts:
        lines.append(f"{_LOOPBACK if address == GATEWAY else address}\t{name}")
    return "\n".join(lines) + "\n"


def resolver(text: str, options: RunOptions, helper: str | None = None) -> str | None:
    """Return /etc/resolv.conf made of this machine's `text`; None to leave the image's.

    In a network of its own, a command cannot reach name servers on this machine itself: `helper`
    is then the address where they are reached.
    """
    if options.dns == NO_DNS:
        return None
    if not (options.dns or options.dns_search or options.dns_options):
        return text if helper is None else _rewritten(text, helper)
    servers = list(options.dns) or _values(text, "nameserver")
    if helper is not None and any(map(_is_here, servers)):
        servers = [helper]
    search = options.dns_search or _values(text, "search")[:]
    lines = [f"nameserver {server}" for server in servers]
    if words := [word for word in search if word != "."]:
        lines.append(f"search {' '.join(words)}")
    if words := list(options.dns_options or _values(text, "options")):
        lines.append(f"options {' '.join(words)}")
    return "\n".join(lines) + "\n"


def needs_helper(text: str, options: RunOptions) -> bool:
    """Tell whether commands in a network of their own ask the helper for names."""
    return resolver(text, options) != resolver(text, options, "helper")


def host_resolver() -> str:
    """Return this machine's /etc/resolv.conf; empty where there is none."""
    try:
        return _RESOLVER.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def _rewritten(text: str, helper: str) -> str:
    servers = _values(text, "nameserver")
    if servers and not any(map(_is_here, servers)):
        return text
    # Without a name server, resolvers ask loopback, where nobody is.
    others = [line for line in text.splitlines() if line.split()[:1] != ["nameserver"]]
    return "\n".join([f"nameserver {helper}", *others]) + "\n"


def _values(text: str, key: str) -> list[str]:
    lines: Sequence[list[str]] = [line.split() for line in text.splitlines()]
    found = [line[1:] for line in lines if line[:1] == [key]]
    if key == "nameserver":
        return [words[0] for words in found if words]
    return found[-1] if found else []


def _is_here(server: str) -> bool:
    """Whether an address is one of this machine's, on its loopback or not."""
    try:
        address = ip_address(server.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or _can_bind(address)


def _can_bind(address: IPv4Address | IPv6Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return True
