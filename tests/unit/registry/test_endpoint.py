"""Hosts, origins, and where a registry may send us."""

import pytest

from imgbuild.registry.endpoint import (
    hostname,
    is_loopback,
    is_private,
    may_ask_for_token,
    may_go,
    same_origin,
    wire_host,
    without_query,
)
from imgbuild.registry.proxies import proxy_for, shown


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("localhost", True),
        ("x.localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("notlocalhost", False),
        ("1.2.3", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_private_addresses() -> None:
    for host in ("10.1.2.3", "192.168.0.1", "169.254.169.254", "fd00::1", "fe80::1%eth0", "::1"):
        assert is_private(host)
    for host in ("registry.example", "8.8.8.8", "2606:4700::1"):
        assert not is_private(host)


def test_hosts() -> None:
    assert wire_host("docker.io") == "registry-1.docker.io"
    assert wire_host("quay.io:443") == "quay.io:443"
    assert hostname("[::1]:5000") == "::1"
    assert hostname("a.example:5000") == "a.example"
    assert hostname("[") == ""


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a/x", "https://A:443/y?z", True),
        ("http://a/", "http://a:80/", True),
        ("https://a/", "http://a/", False),
        ("https://a/", "https://a:444/", False),
        ("https://a/", "https://b/", False),
        ("https://a/", "https://a@b/", False),
        ("https://a/", "https://a:x/", False),
        ("https://a/", "https://a.b/", False),
    ],
)
def test_origins(one: str, other: str, same: bool) -> None:
    assert same_origin(one, other) is same


@pytest.mark.parametrize(
    ("url", "base", "allowed"),
    [
        ("https://cdn/", "https://r/", True),
        ("http://cdn/", "https://r/", False),
        ("http://r/", "https://r/", False),
        ("http://127.0.0.1/", "https://r/", False),
        ("http://127.0.0.1:1/", "http://127.0.0.1:2/", True),
        ("http://cdn/", "http://127.0.0.1/", False),
        ("https://cdn/", "http://127.0.0.1/", True),
        ("file:///etc/passwd", "http://127.0.0.1/", False),
        ("https:///x", "https://r/", False),
        ("https://[", "https://r/", False),
    ],
)
def test_where_one_may_go(url: str, base: str, allowed: bool) -> None:
    assert may_go(url, base) is allowed


@pytest.mark.parametrize(
    ("realm", "base", "allowed"),
    [
        ("https://auth.docker.io/token", "https://registry-1.docker.io", True),
        ("https://169.254.169.254/token", "https://r.example", False),
        ("https://10.0.0.1/token", "https://r.example", False),
        ("https://10.0.0.1/token", "https://10.0.0.1:5000", True),
        ("https://10.0.0.2/token", "https://10.0.0.1", True),
        ("https://localhost/token", "https://r.example", False),
        ("http://localhost:5/token", "http://127.0.0.1:6", True),
        ("http://r.example/token", "https://r.example", False),
    ],
)
def test_who_may_see_credentials(realm: str, base: str, allowed: bool) -> None:
    assert may_ask_for_token(realm, base) is allowed


def test_shown_urls_hold_no_secrets() -> None:
    assert without_query("https://user:pw@h:1/a?sig=x#y") == "https://h:1/a"
    assert shown("http://user:pw@proxy:3128") == "http://proxy:3128"


@pytest.mark.parametrize(
    ("url", "no", "proxied"),
    [
        ("https://r.example/", "", True),
        ("https://r.example/", "*", False),
        ("https://r.example/", "example", False),
        ("https://r.example/", " .example , x", False),
        ("https://r.example/", "*.example", False),
        ("https://r.example/", "ample", True),
        ("https://r.example/", "R.EXAMPLE", False),
        ("https://r.example/", "r.example:443", False),
        ("https://r.example/", "r.example:5000", True),
        ("https://r.example/", "r.example:x", True),
        ("https://10.1.2.3/", "10.0.0.0/8", False),
        ("https://11.1.2.3/", "10.0.0.0/8", True),
        ("https://10.1.2.3/", "10.0.0.0/x", True),
        ("https://[fd00::1]/", "fd00::1", False),
        ("https://[fd00::1]/", "[fd00::1]:443", False),
        ("https://localhost/", "", False),
        ("https://127.0.0.1:5000/", "", False),
    ],
)
def test_proxies(url: str, no: str, proxied: bool) -> None:
    proxies = {"https": "http://proxy:3128", "no": no}
    assert proxy_for(url, proxies) == ("http://proxy:3128" if proxied else "")


def test_proxy_of_the_other_scheme() -> None:
    assert proxy_for("http://r.example/", {"https": "http://proxy"}) == ""
    assert proxy_for("http://r.example/", {"http": "proxy:3128"}) == "http://proxy:3128"
