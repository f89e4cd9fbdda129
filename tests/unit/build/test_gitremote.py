import pytest

from imgbuild.build.gitremote import Remote, parse_remote, redirected, relative_remote
from imgbuild.errors import ContextError


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("https://h/a.git", Remote("https", "h", "https://h/a.git")),
        ("http://H:8080/a.git", Remote("http", "h:8080", "http://h:8080/a.git")),
        ("https://u:p%40@h/a", Remote("https", "h", "https://h/a", "u:p@")),
        ("https://token@h/a", Remote("https", "h", "https://h/a", "token:")),
        ("git://h/a", Remote("git", "h", "git://h/a")),
        ("ssh://git:pw@h:22/~/a", Remote("ssh", "h:22", "ssh://git@h:22/~/a")),
        ("https://[::1]:80/a", Remote("https", "[::1]:80", "https://[::1]:80/a")),
        ("git@h:group/a.git", Remote("ssh", "h", "git@h:group/a.git")),
        ("h:a", Remote("ssh", "h", "h:a")),
    ],
)
def test_addresses(text: str, remote: Remote) -> None:
    assert parse_remote(text) == remote


@pytest.mark.parametrize(
    "text",
    [
        "ext::sh -c harm", "ext::ssh://h/a", "file:///a", "/a", "./a", "a", "", "-u", "--upload-pack=x",
        "ssh://-oProxyCommand=harm/a", "ssh://-x@h/a", "ssh://h/-a", "git@-h:a", "h:-a", "ftp://h/a",
        "https://h/a\nb", "https://h:port/a", "https:///a", "https://h a/b", "http://[::1/a",
        "transport::h:a", "\x1b[0m",
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ContextError, match="not a git address that can be fetched"):
        parse_remote(text)


def test_a_password_in_an_address_that_is_refused_is_not_shown() -> None:
    with pytest.raises(ContextError) as caught:
        parse_remote("ftp://me:hidden@h/a")
    assert caught.value.message == "not a git address that can be fetched: ftp://h/a"


@pytest.mark.parametrize(
    ("base", "text", "url"),
    [
        ("https://h/group/a.git", "../b.git", "https://h/group/b.git"),
        ("https://h/group/a.git/", "../b.git", "https://h/group/b.git"),
        ("https://h/group/a.git", "../../b.git", "https://h/b.git"),
        ("https://h/group/a.git", "./b.git", "https://h/group/a.git/b.git"),
        ("https://h/group/a.git", ".././b.git", "https://h/group/b.git"),
        ("git@h:group/a.git", "../b.git", "git@h:group/b.git"),
        ("git@h:a.git", "../b.git", "git@h:b.git"),
        ("ssh://git@h/a.git", "../b.git", "ssh://git@h/b.git"),
        ("https://h/a.git", "https://other/b.git", "https://other/b.git"),
    ],
)
def test_relative_addresses(base: str, text: str, url: str) -> None:
    assert relative_remote(parse_remote(base), text).url == url


def test_a_relative_address_keeps_the_login_and_another_one_does_not() -> None:
    base = parse_remote("https://u:p@h/a.git")
    assert relative_remote(base, "../b.git").login == "u:p"
    assert relative_remote(base, "https://h/b.git").login == ""


@pytest.mark.parametrize("base", ["https://h/a.git", "git@h:a.git", "ssh://git@h/a.git"])
@pytest.mark.parametrize("text", ["../../b.git", "../../../b.git"])
def test_relative_addresses_stay_on_their_server(base: str, text: str) -> None:
    with pytest.raises(ContextError):
        relative_remote(parse_remote(base), text)


@pytest.mark.parametrize(
    ("base", "location", "url"),
    [
        ("https://h/a", "https://h/b/info/refs?service=x", "https://h/b"),
        ("https://h/a", "/b/info/refs?service=x", "https://h/b"),
        ("http://h/a", "https://h/a/info/refs", "https://h/a"),
        ("https://h/a", "http://h/a/info/refs", None),
        ("https://h/a", "https://h:444/a/info/refs", None),
        ("https://h/a", "https://h.other/a/info/refs", None),
        ("https://h/a", "https://other/a/info/refs", None),
        ("https://h/a", "//other/a/info/refs", None),
        ("https://h/a", "https://h/a/info/refs", None),
        ("https://h/a", "ext::harm", None),
    ],
)
def test_where_credentials_may_follow(base: str, location: str, url: str | None) -> None:
    found = redirected(parse_remote(base), location)
    assert (found and found.url) == url
