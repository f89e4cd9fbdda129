"""Downloads of URLs: whole or an error, however the server behaves; credentials stay with their host."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from imgbuild.errors import (
    AuthenticationError,
    ImgbuildError,
    NotFoundError,
    RegistryError,
    UnreachableError,
)
from imgbuild.events import Event, TransferProgress
from imgbuild.options import RegistryOptions
from imgbuild.registry import transport, urls
from imgbuild.registry.urls import UrlClient, _keeps_credentials
from tests.support.certificates import Certificates, make_certificates
from tests.support.registry import Handler
from tests.support.web import MODIFIED, FakeWeb

BODY = bytes(range(256)) * 40
SECRET = "Bearer do-not-show"


class Out:
    """What was downloaded, and how often it was begun."""

    def __init__(self) -> None:
        self.data = b""
        self.begun = 0

    def begin(self) -> None:
        self.data = b""
        self.begun += 1

    def write(self, data: bytes, /) -> None:
        self.data += data


Download = Callable[..., tuple[Out, Any]]


@pytest.fixture
def web() -> Iterator[FakeWeb]:
    with FakeWeb() as server:
        yield server


@pytest.fixture
def other() -> Iterator[FakeWeb]:
    with FakeWeb() as server:
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def download(waits: list[float], events: list[Event]) -> Iterator[Download]:
    clients: list[UrlClient] = []

    def download(url: str, options: RegistryOptions | None = None, **given: Any) -> tuple[Out, Any]:
        client = UrlClient(options or RegistryOptions(), events.append, waits.append)
        clients.append(client)
        out = Out()
        rest: dict[str, Any] = {
            "authorization": None, "conditions": {}, "limit": 1 << 20, "pinned": False, **given
        }  # fmt: skip
        return out, client.download(url, out, **rest)

    yield download
    for client in clients:
        client.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_comes_with_its_headers(chunked: bool, web: FakeWeb, download: Download) -> None:
    url = web.put("/a", BODY, chunked=chunked, ETag='"1"', Last_Modified=MODIFIED)
    out, headers = download(url)
    assert out.data == BODY
    assert (headers["etag"], headers["Last-Modified"]) == ('"1"', MODIFIED)
    (seen,) = web.requests
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.authorization is None


@pytest.mark.parametrize(
    "conditions", [{"If-None-Match": '"1"'}, {"If-Modified-Since": MODIFIED}], ids=str
)
def test_what_did_not_change_is_not_sent(
    conditions: dict[str, str], web: FakeWeb, download: Download
) -> None:
    url = web.put("/a", BODY, ETag='"1"', Last_Modified=MODIFIED)
    out, headers = download(url, conditions=conditions)
    assert headers is None
    assert out.begun == 0
    url = web.put("/a", BODY, ETag='"2"', Last_Modified="Sun, 04 Jan 2015 04:05:06 GMT")
    out, headers = download(url, conditions=conditions)
    assert headers is not None
    assert out.data == BODY


def test_a_server_that_knows_tags_but_not_the_question(web: FakeWeb, download: Download) -> None:
    url = web.put("/a", BODY, ETag='"1"')

    def act(handler: Handler) -> bool:
        handler.reply(200, BODY, {"ETag": '"1"'})
        return True

    web.on("GET", "/a", act)
    out, headers = download(url, conditions={"If-None-Match": '"1"'})
    assert (out.begun, headers) == (0, None)


def test_not_modified_without_a_question_is_an_error(web: FakeWeb, download: Download) -> None:
    web.fail("GET", "/a", 304)
    with pytest.raises(RegistryError, match="invalid response status 304"):
        download(web.url + "/a")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_on_one_server_keep_credentials(
    status: int, web: FakeWeb, download: Download
) -> None:
    url = web.put("/b", BODY)
    web.redirect("GET", "/a", "/b", status=status)
    out, _ = download(f"{web.url}/a", authorization=SECRET)
    assert out.data == BODY
    assert [r.authorization for r in web.requests] == [SECRET, SECRET]
    assert url.endswith("/b")


def test_credentials_stay_with_their_host_even_when_led_back(
    web: FakeWeb, other: FakeWeb, download: Download
) -> None:
    web.put("/c", BODY)
    web.redirect("GET", "/a", f"{other.url}/b")
    other.redirect("GET", "/b", f"{web.url}/c")
    out, _ = download(f"{web.url}/a", authorization=SECRET)
    assert out.data == BODY
    assert [r.authorization for r in web.requests] == [SECRET, None]
    (seen,) = other.requests
    assert "do-not-show" not in str(seen)


def test_another_name_of_the_same_machine_is_another_host(web: FakeWeb, download: Download) -> None:
    web.put("/b", BODY)
    web.redirect("GET", "/a", f"http://localhost:{web.port}/b")
    download(f"{web.url}/a", authorization=SECRET)
    assert [r.authorization for r in web.requests] == [SECRET, None]


def test_https_leads_to_http_only_for_what_is_pinned(
    web: FakeWeb, certificates: Certificates, download: Download
) -> None:
    web.put("/b", BODY)
    options = RegistryOptions(ca_file=certificates.ca)
    with FakeWeb(tls=certificates.server_context()) as secure:
        secure.redirect("GET", "/a", f"{web.url}/b", times=2)
        with pytest.raises(RegistryError, match="anyone on the way could change") as caught:
            download(f"{secure.url}/a", options, authorization=SECRET)
        assert "--checksum" in (caught.value.hint or "")
        assert not web.requests
        out, _ = download(f"{secure.url}/a", options, authorization=SECRET, pinned=True)
    assert out.data == BODY
    assert [r.authorization for r in web.requests] == [None]


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://:80/", "//:x/"]
)
def test_redirects_to_what_is_no_web_server(target: str, web: FakeWeb, download: Download) -> None:
    web.redirect("GET", "/a", target)
    with pytest.raises(RegistryError):
        download(f"{web.url}/a")
    assert len(web.requests) == 1


def test_a_circle_of_redirects_ends(web: FakeWeb, download: Download) -> None:
    web.redirect("GET", "/", "/again", times=100)
    with pytest.raises(RegistryError, match="more than 10 redirects"):
        download(f"{web.url}/a")
    assert len(web.requests) == 11


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_passing_troubles_are_waited_for(
    status: int, web: FakeWeb, download: Download, waits: list[float]
) -> None:
    url = web.put("/a", BODY)
    web.fail("GET", "/a", status, times=2, headers={"Retry-After": "7"})
    out, _ = download(url)
    assert out.data == BODY
    assert waits == [7.0, 7.0]


def test_a_server_that_stays_in_trouble_is_given_up(
    web: FakeWeb, download: Download, waits: list[float]
) -> None:
    web.fail("GET", "/a", 503, times=100)
    with pytest.raises(RegistryError, match="invalid response status 503"):
        download(f"{web.url}/a")
    assert len(web.requests) == 5
    assert len(waits) == 4


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (401, AuthenticationError, "HTTP_AUTH_TOKEN_127.0.0.1"),
        (403, AuthenticationError, "HTTP_AUTH_HEADER_127.0.0.1"),
        (404, NotFoundError, "URL"),
        (410, NotFoundError, "URL"),
        (400, RegistryError, ""),
        (204, RegistryError, ""),
    ],
)
def test_refusals(
    status: int,
    kind: type[ImgbuildError],
    hint: str,
    web: FakeWeb,
    download: Download,
    waits: list[float],
) -> None:
    web.fail("GET", "/a", status)
    with pytest.raises(kind, match=f"invalid response status {status}") as caught:
        download(f"{web.url}/a?signature=secret", authorization=SECRET)
    assert type(caught.value) is kind
    assert hint in (caught.value.hint or "")
    assert "secret" not in str(caught.value) + (caught.value.hint or "").replace("--secret", "")
    assert waits == []


@pytest.mark.parametrize("reset", [False, True])
def test_a_body_that_breaks_off_is_taken_up_where_it_broke(
    reset: bool, web: FakeWeb, download: Download
) -> None:
    url = web.put("/a", BODY, ETag='"1"')
    web.cut("GET", "/a", 4000, reset=reset)
    out, _ = download(url)
    assert out.data == BODY
    if not reset:
        first, second = web.requests
        assert "range" not in first.headers
        assert (second.headers["range"], second.headers["if-range"]) == ("bytes=4000-", '"1"')
        assert out.begun == 1


@pytest.mark.parametrize(
    ("headers", "ranges"),
    [({}, True), ({"ETag": 'W/"1"'}, True), ({"ETag": '"1"'}, False)],
    ids=["no validator", "weak validator", "no ranges"],
)
def test_a_body_that_cannot_be_taken_up_is_begun_anew(
    headers: dict[str, str], ranges: bool, web: FakeWeb, download: Download
) -> None:
    url = web.put("/a", BODY, ranges=ranges, **headers)
    web.cut("GET", "/a", 4000, reset=False)
    out, _ = download(url)
    assert out.data == BODY
    assert out.begun == 2


def test_a_file_that_changes_meanwhile_is_not_mixed(web: FakeWeb, download: Download) -> None:
    url = web.put("/a", BODY, ETag='"1"')

    def act(handler: Handler) -> bool:
        web.put("/a", b"new", ETag='"2"')
        handler.cut_after = 4000
        handler.cut_by_reset = False
        handler.reply(200, BODY, {"ETag": '"1"'})
        return True

    web.on("GET", "/a", act)
    assert download(url)[0].data == b"new"


def test_another_range_than_was_asked_for_is_not_taken(web: FakeWeb, download: Download) -> None:
    url = web.put("/a", BODY, ETag='"1"')
    web.cut("GET", "/a", 4000, reset=False)

    def act(handler: Handler) -> bool:
        if "Range" in handler.headers:
            handler.reply(206, BODY[1:], {"Content-Range": f"bytes 1-{len(BODY) - 1}/{len(BODY)}"})
            return True
        return False

    web.on("GET", "/a", act, times=5)
    assert download(url)[0].data == BODY


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_always_breaks_off_is_no_file(
    chunked: bool, web: FakeWeb, download: Download
) -> None:
    url = web.put("/a", BODY, chunked=chunked, ranges=False)
    web.cut("GET", "/a", 4000, times=100, reset=False)
    with pytest.raises(UnreachableError, match="broke off") as caught:
        download(url)
    assert "IncompleteRead" not in caught.value.message
    if not chunked:
        assert caught.value.message.endswith(f": {len(BODY) - 4000} bytes are missing")
    assert caught.value.hint == "the server, or what is on the way to it, gave up: try again later"
    assert len(web.requests) == 5


def test_progress_that_is_thrown_away_does_not_count(web: FakeWeb, download: Download) -> None:
    url = web.put("/a", bytes(3 << 20), ranges=False)
    web.cut("GET", "/a", 2 << 20, times=100, reset=False)
    with pytest.raises(UnreachableError, match="broke off"):
        download(url, limit=1 << 30)
    assert len(web.requests) <= 6


def test_the_progress_of_what_takes_long_is_told(
    web: FakeWeb, download: Download, events: list[Event]
) -> None:
    size = 2 << 20
    download(web.put("/small", BODY))
    assert events == []
    url = web.put("/a", bytes(size))
    download(f"{url}?token=secret", limit=size)
    progress = [event for event in events if isinstance(event, TransferProgress)]
    assert {(event.what, event.total) for event in progress} == {(f"downloading {url}", size)}
    done = [event.done for event in progress]
    assert done == sorted(done)
    assert done.count(size) == 1


def test_a_body_that_stalls_is_given_up(
    web: FakeWeb, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "READ_TIMEOUT", 0.1)

    def act(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"01234")
        time.sleep(0.4)
        handler.close_connection = True
        return True

    web.on("GET", "/a", act, times=100)
    with pytest.raises(UnreachableError, match="does not answer"):
        download(f"{web.url}/a")


@pytest.mark.parametrize("chunked", [False, True])
def test_more_than_the_limit_is_refused(chunked: bool, web: FakeWeb, download: Download) -> None:
    url = web.put("/a", BODY, chunked=chunked)
    with pytest.raises(RegistryError, match=f"has more than {len(BODY) - 1} bytes") as caught:
        download(url, limit=len(BODY) - 1)
    assert "--download-limit (download_limit)" in (caught.value.hint or "")
    assert len(web.requests) == 1
    assert download(url, limit=len(BODY))[0].data == BODY


def test_an_encoded_body_is_refused(web: FakeWeb, download: Download) -> None:
    url = web.put("/a", BODY, Content_Encoding="gzip")
    with pytest.raises(RegistryError, match="Content-Encoding gzip"):
        download(url)


def test_nobody_there(web: FakeWeb, download: Download, waits: list[float]) -> None:
    with FakeWeb() as gone:
        url = f"{gone.url}/a?token=secret"
    with pytest.raises(UnreachableError, match=r"cannot be reached") as caught:
        download(url)
    assert "secret" not in str(caught.value)
    assert "is the server running" in (caught.value.hint or "")
    assert len(waits) == 2


def test_an_unknown_authority_is_refused_at_once(
    certificates: Certificates, download: Download, waits: list[float]
) -> None:
    with (
        FakeWeb(tls=certificates.server_context()) as secure,
        pytest.raises(UnreachableError, match="certificate"),
    ):
        download(f"{secure.url}/a")
    assert waits == []


@pytest.mark.parametrize(
    ("url", "target", "kept"),
    [
        ("http://h/a", "http://h:80/b", True),
        ("http://h/a", "https://h/b", True),
        ("https://h/a", "http://h/b", False),
        ("http://h:8080/a", "https://h/b", False),
        ("http://h/a", "https://h:8443/b", False),
        ("https://h/a", "https://sub.h/b", False),
        ("https://h/a", "https://h.example/b", False),
    ],
)
def test_whom_credentials_are_shown_to(url: str, target: str, kept: bool) -> None:
    assert _keeps_credentials(url, target) is kept


# --- servers that never come to an end


def dripping(head: bytes, drop: bytes) -> Callable[[Handler], bool]:
    """Send `head`, then `drop` again and again, faster than any read times out."""

    def act(handler: Handler) -> bool:
        handler.close_connection = True
        with suppress(OSError):
            handler.wfile.write(head)
            for _ in range(1000):
                handler.wfile.write(drop)
                handler.wfile.flush()
                time.sleep(0.02)
        return True

    return act


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
    ],
    ids=["length", "until closed", "chunks", "chunk extension", "trailers"],
)
def test_a_body_that_drips_is_given_up(
    head: bytes, drop: bytes, web: FakeWeb, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "_WINDOW", 0.3)
    web.on("GET", "/a", dripping(head, drop), times=100)
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="sends too slowly"):
        download(f"{web.url}/a")
    assert time.monotonic() - begun < 10
    assert len(web.requests) == 1


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"HTTP/1.1 ", b"2"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["status", "header", "continue"],
)
def test_a_head_that_drips_is_given_up(
    head: bytes, drop: bytes, web: FakeWeb, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "HEAD_TIMEOUT", 0.3)
    web.on("GET", "/a", dripping(head, drop), times=100)
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="broke off"):
        download(f"{web.url}/a")
    assert time.monotonic() - begun < 15


def test_a_download_takes_no_longer_than_a_day(
    web: FakeWeb, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "_WINDOW", 0.3)
    monkeypatch.setattr(urls, "_LONGEST", 0.5)
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    web.on("GET", "/a", dripping(head, b"x" * 100_000), times=100)
    with pytest.raises(UnreachableError, match="sends too slowly"):
        download(f"{web.url}/a", limit=1 << 40)


def test_a_slow_body_over_tls_is_given_up(
    certificates: Certificates, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "_WINDOW", 0.3)
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    with FakeWeb(tls=certificates.server_context()) as web:
        web.on("GET", "/a", dripping(head, b"x"), times=100)
        with pytest.raises(UnreachableError, match="sends too slowly"):
            download(f"{web.url}/a", RegistryOptions(ca_file=certificates.ca))


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nServer: x\r\n", b"HTTP/1.1 200 OK\r\nETag"],
)
def test_a_head_that_breaks_off_is_no_empty_file(
    head: bytes, web: FakeWeb, download: Download
) -> None:
    def act(handler: Handler) -> bool:
        handler.wfile.write(head)
        handler.close_connection = True
        return True

    web.on("GET", "/a", act, times=100)
    with pytest.raises(UnreachableError, match="broke off"):
        download(f"{web.url}/a")


@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nhello",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"Content-Length: -5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello",
    ],
    ids=["digits", "two lengths", "negative", "negative chunk", "huge chunk", "no number"],
)
def test_sizes_that_are_none_are_errors(answer: bytes, web: FakeWeb, download: Download) -> None:
    def act(handler: Handler) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + answer)
        handler.close_connection = True
        return True

    web.on("GET", "/a", act, times=100)
    with pytest.raises(RegistryError):
        download(f"{web.url}/a")
