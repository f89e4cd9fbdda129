import base64
from pathlib import Path

import pytest

from imgbuild.build.gitauth import authorization
from imgbuild.build.gitremote import parse_remote
from imgbuild.errors import ContextError

TOP = "https://h/app.git"


class Given(dict[str, bytes]):
    def ssh(self, name: str = "default") -> Path | None:
        return None


def sent(remote: str, top: str = TOP, **secrets: str) -> str:
    names = {name.replace("__", "."): value.encode() for name, value in secrets.items()}
    found = authorization(parse_remote(remote), parse_remote(top), Given(names))
    if found is None:
        return ""
    kind, _, value = found.value.partition(" ")
    return base64.b64decode(value).decode() if kind == "basic" else found.value


ALL = {
    "GIT_AUTH_HEADER__h": "Bearer of-h",
    "GIT_AUTH_TOKEN__h": "token-of-h",
    "GIT_AUTH_HEADER": "Bearer any",
    "GIT_AUTH_TOKEN": "token-any",
}


def test_the_order_of_secrets() -> None:
    left = dict(ALL)
    for name, header in (
        ("GIT_AUTH_HEADER__h", "Bearer of-h"),
        ("GIT_AUTH_TOKEN__h", "x-access-token:token-of-h"),
        ("GIT_AUTH_HEADER", "Bearer any"),
        ("GIT_AUTH_TOKEN", "x-access-token:token-any"),
    ):
        assert sent(TOP, **left) == header
        del left[name]
    assert sent(TOP) == ""
    assert sent("https://u:p@h/app.git") == "u:p"
    assert sent("https://u:p@h/app.git", **ALL) == "Bearer of-h"


@pytest.mark.parametrize(
    ("remote", "top", "header"),
    [
        ("https://h/other.git", TOP, "Bearer of-h"),
        ("https://other/x.git", TOP, ""),
        ("https://h.evil/x.git", TOP, ""),
        ("https://h:444/x.git", TOP, ""),
        ("http://h/x.git", TOP, ""),
        ("http://h/x.git", "http://h/app.git", "Bearer of-h"),
        ("https://h/x.git", "https://other/app.git", "Bearer of-h"),
        ("http://h/x.git", "https://other/app.git", ""),
        ("git://h/x.git", "git://h/app.git", ""),
        ("ssh://git@h/x.git", "ssh://git@h/x.git", ""),
    ],
)
def test_which_servers_get_them(remote: str, top: str, header: str) -> None:
    assert sent(remote, top, **ALL) == header


def test_secrets_without_a_host_are_for_the_first_server_alone() -> None:
    assert sent("https://other/x.git", GIT_AUTH_TOKEN="t", GIT_AUTH_HEADER="h") == ""


def test_ends_of_lines_around_a_secret_are_no_part_of_it() -> None:
    assert sent(TOP, GIT_AUTH_TOKEN=" t\r\n") == "x-access-token:t"


@pytest.mark.parametrize("value", ["a\nInjected: header", "a\rb", "a\0b", "", "\n"])
def test_what_is_no_header(value: str) -> None:
    with pytest.raises(ContextError, match="the secret GIT_AUTH_HEADER cannot be sent") as caught:
        sent(TOP, GIT_AUTH_HEADER=value)
    assert "Injected" not in f"{caught.value.message}{caught.value.hint}"


def test_what_must_not_be_shown() -> None:
    for text, names in (("https://u:p@h/a", ("dTpw", "p")), ("https://t@h/a", ("dDo=", "t"))):
        remote = parse_remote(text)
        found = authorization(remote, remote, Given())
        assert found is not None
        assert found.private == names
