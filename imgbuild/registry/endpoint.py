"""Where a registry is: hosts, origins, and when plain http may be spoken."""

from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from imgbuild.oci.reference import HUB

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

_HUB_HOST = "registry-1.docker.io"


def wire_host(domain: str) -> str:
    """Return the host[:port] that serves `domain`; Docker Hub is served by another host."""
    return _HUB_HOST if domain == HUB else domain


def hostname(netloc: str) -> str:
    """Return the host of `host[:port]`, without the brackets of an IPv6 address; "" when malformed."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Tell whether `host` (no port) is this machine whatever a name server says (RFC 6761)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def is_private(host: str) -> bool:
    """Tell whether `host` is an address, given in figures, that the internet does not route."""
    if is_loopback(host):
        return True
    address = _address(host)
    return address is not None and not address.is_global


def _address(host: str) -> "IPv4Address | IPv6Address | None":
    if ":" not in host and not host.replace(".", "").isdigit():
        return None
    import ipaddress

    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port: credentials for one origin are never sent to another.

    Raises ValueError for a URL whose port is not a number.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    port = parts.port or {"https": 443, "http": 80}.get(scheme, 0)
    return scheme, (parts.hostname or "").lower(), port


def same_origin(one: str, other: str) -> bool:
    try:
        return origin(one) == origin(other)
    except ValueError:
        return False


def may_go(url: str, base: str) -> bool:
    """Tell whether a registry at `base` may send us to `url`.

    https may lead to https only; a registry that is itself reached over plain http (which is
    on this machine then) may also lead to plain http on this machine.
    """
    try:
        scheme, host, _ = origin(url)
    except ValueError:
        return False
    if scheme == "https":
        return bool(host)
    return scheme == "http" and urlsplit(base).scheme == "http" and is_loopback(host)


def may_ask_for_token(realm: str, base: str) -> bool:
    """Tell whether credentials may be shown to `realm`, which the registry at `base` named.

    Addresses of private networks given in figures are refused unless the registry is on one
    itself: a public registry must not make us talk to a machine behind the user's firewall.
    """
    if not may_go(realm, base):
        return False
    host, own = origin(realm)[1], origin(base)[1]
    return host == own or not is_private(host) or is_private(own)


def join(base: str, location: str) -> str:
    """Return where a server's `location` leads; one that is no URL comes back as it is."""
    try:
        return urljoin(base, location)
    except ValueError:
        return location


def without_query(url: str) -> str:
    """Return `url` as it may be shown: signatures and user names are left out."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a malformed URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
