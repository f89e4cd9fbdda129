"""Which troubles are tried again, how often, and what is said when it was in vain."""

import socket
from collections.abc import Callable

import pytest

from imgbuild.errors import RegistryError, UnreachableError
from imgbuild.events import Event, Notice
from imgbuild.oci import media_types
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import digest_bytes
from imgbuild.registry import transport
from imgbuild.registry.retry import Again, Retry, is_passing, retry_after
from tests.support.registry import FakeRegistry, Handler
from tests.unit.registry.conftest import Connect

BLOB = b"content" * 1000
LAYER = Descriptor(media_types.OCI_LAYER_GZIP, digest_bytes(BLOB), len(BLOB))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 524])
def test_passing_troubles_pass(
    status: int, fake: FakeRegistry, connect: Connect, waits: list[float]
) -> None:
    fake.add_blob("team/app", BLOB)
    fake.fail("GET", "/blobs/", status, times=4)
    with connect(fake.host).open(LAYER) as stream:
        assert stream.read() == BLOB
    assert len(waits) == 4
    # Each wait is longer than the one before could be.
    assert [0.25 * 2**n <= wait <= 0.5 * 2**n for n, wait in enumerate(waits)] == [True] * 4


@pytest.mark.parametrize("status", [503, 429])
def test_troubles_that_stay_end_in_an_error(
    status: int, fake: FakeRegistry, connect: Connect, waits: list[float]
) -> None:
    fake.fail("GET", "/blobs/", status, times=99, body=b'{"errors":[{"code":"TOOMANYREQUESTS"}]}')
    with pytest.raises(RegistryError, match=f"answered {status}: TOOMANYREQUESTS") as caught:
        connect(fake.host).open(LAYER)
    assert caught.value.hint
    assert len(fake.seen("GET", "/blobs/")) == 5
    assert len(waits) == 4


@pytest.mark.parametrize("status", [400, 402, 410, 451, 501, 505])
def test_answers_are_not_asked_for_again(
    status: int, fake: FakeRegistry, connect: Connect, waits: list[float]
) -> None:
    fake.fail("GET", "/blobs/", status, times=99)
    with pytest.raises(RegistryError, match=str(status)):
        connect(fake.host).open(LAYER)
    assert len(fake.seen("GET", "/blobs/")) == 1
    assert waits == []


def test_registry_says_how_long_to_wait(
    fake: FakeRegistry, connect: Connect, waits: list[float], events: list[Event]
) -> None:
    fake.add_blob("team/app", BLOB)
    fake.fail("GET", "/blobs/", 429, headers={"Retry-After": "17"})
    connect(fake.host).open(LAYER).close()
    assert waits == [17.0]
    (notice,) = events
    assert isinstance(notice, Notice)
    assert "17 s" in notice.message


def test_nobody_waits_for_hours(fake: FakeRegistry, connect: Connect, waits: list[float]) -> None:
    fake.fail("GET", "/blobs/", 429, headers={"Retry-After": "21600"})
    with pytest.raises(RegistryError, match="429") as caught:
        connect(fake.host).open(LAYER)
    assert waits == []
    assert "docker login" in (caught.value.hint or "")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_unreachable_registry_is_named(connect: Connect, waits: list[float]) -> None:
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(UnreachableError, match="cannot be reached: connection refused") as caught:
        connect(host).resolve("v1")
    assert host in caught.value.message
    # No proxy stands between this machine and itself.
    assert caught.value.hint == "it is on this machine: is the registry running, and on this port?"
    assert caught.value.exit_code == 3
    assert len(waits) == 2


def test_unreachable_proxy_is_named_without_its_password(connect: Connect) -> None:
    proxy = f"http://user:hidden@127.0.0.1:{free_port()}"
    client = connect("registry.example", proxies={"https": proxy})
    with pytest.raises(UnreachableError, match=r"registry\.example") as caught:
        client.resolve("v1")
    text = f"{caught.value.message} {caught.value.hint}"
    assert proxy.rpartition("@")[2] in text
    assert "NO_PROXY" in text
    assert "hidden" not in text


def test_unknown_name_is_named(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UnreachableError, match=r"registry\.invalid .*name is not known") as caught:
        connect("registry.invalid").resolve("v1")
    assert "HTTPS_PROXY" in (caught.value.hint or "")


def test_silence_is_not_waited_for(
    fake: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr(transport, "READ_TIMEOUT", 0.05)

    def sleep(_handler: Handler) -> bool:
        time.sleep(0.3)
        return False

    fake.on("GET", "/blobs/", sleep, times=99)
    with pytest.raises(UnreachableError, match="does not answer"):
        connect(fake.host).open(LAYER)
    assert len(fake.seen("GET", "/blobs/")) == 5


def test_blob_that_stalls_is_resumed(
    fake: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr(transport, "READ_TIMEOUT", 0.1)
    fake.add_blob("team/app", BLOB)

    def stall(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BLOB)))
        handler.end_headers()
        handler.wfile.write(BLOB[:100])
        handler.wfile.flush()
        time.sleep(0.4)
        handler.close_connection = True
        return True

    fake.on("GET", "/blobs/", stall)
    with connect(fake.host).open(LAYER) as stream:
        assert stream.read() == BLOB


def test_reset_before_an_answer_is_tried_again(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_blob("team/app", BLOB)

    def reset(handler: Handler) -> bool:
        handler.reset()
        return True

    fake.on("GET", "/blobs/", reset, times=3)
    with connect(fake.host).open(LAYER) as stream:
        assert stream.read() == BLOB


def test_warnings_are_told_once(fake: FakeRegistry, connect: Connect, events: list[Event]) -> None:
    fake.add_blob("team/app", BLOB)
    header = {"Warning": '299 - "old \\"image\\"\x1b[31m"', "Content-Length": str(len(BLOB))}
    fake.fail("GET", "/blobs/", 200, times=2, headers=header, body=BLOB)
    client = connect(fake.host)
    for _ in range(2):
        client.open(LAYER).close()
    (notice,) = events
    assert isinstance(notice, Notice)
    assert 'says: old "image"' in notice.message
    assert "\x1b" not in notice.message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("5", 5.0),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("٥", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": text}, now=60.0) == seconds


def test_success_is_not_passing() -> None:
    assert not any(map(is_passing, (200, 301, 401, 403, 404, 416)))


def test_error_of_the_last_attempt_counts(waits: list[float]) -> None:
    errors = iter([RegistryError("first"), RegistryError("second")])

    def action() -> None:
        raise Again(next(errors), tries=2)

    run: Callable[[], None] = lambda: Retry(lambda _: None, waits.append).run(action)  # noqa: E731
    with pytest.raises(RegistryError, match="second"):
        run()
    assert len(waits) == 1
