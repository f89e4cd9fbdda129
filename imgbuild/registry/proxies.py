"""Which proxy a URL is fetched through: what HTTP_PROXY, HTTPS_PROXY and NO_PROXY mean. Pure."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from imgbuild.registry.endpoint import is_loopback, origin


def proxy_for(url: str, proxies: Mapping[str, str]) -> str:
    """Return the proxy's URL, or "" to connect directly.

    `proxies` has the keys `http`, `https` and `no`. This machine itself is never asked for
    through a proxy, as in Go and unlike in requests.
    """
    scheme, host, port = origin(url)
    proxy = proxies.get(scheme, "").strip()
    if not proxy or is_loopback(host) or _is_exempt(host, port, proxies.get("no", "")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_exempt(host: str, port: int, rules: str) -> bool:
    return any(_matches(host, port, rule.strip().lower()) for rule in rules.split(","))


def _matches(host: str, port: int, rule: str) -> bool:
    """A rule is `*`, a domain (its subdomains too), an address or a network, maybe with a port."""
    if not rule:
        return False
    if rule == "*":
        return True
    if "/" in rule:
        return _in_network(host, rule)
    name = rule
    if rule.count(":") == 1 or rule.startswith("["):
        try:
            parts = urlsplit(f"//{rule}")
            name, wanted = parts.hostname or "", parts.port
        except ValueError:
            return False
        if wanted is not None and wanted != port:
            return False
    name = name.removeprefix("*").removeprefix(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _in_network(host: str, rule: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        return False


def shown(proxy: str) -> str:
    """Return a proxy's URL without its user name and password."""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
