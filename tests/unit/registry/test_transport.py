"""TLS as we say and not as the environment says; nothing loaded or sent before it is needed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuild.errors import UnreachableError, UsageError
from imgbuild.oci import media_types
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import digest_bytes
from tests.support.certificates import Certificates, make_certificates
from tests.support.registry import FakeRegistry
from tests.unit.registry.conftest import Connect

BLOB = b"content" * 1000
LAYER = Descriptor(media_types.OCI_LAYER_GZIP, digest_bytes(BLOB), len(BLOB))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure(certificates: Certificates) -> Iterator[FakeRegistry]:
    with FakeRegistry(tls=certificates.server_context()) as registry:
        registry.add_blob("team/app", BLOB)
        yield registry


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_known_authority_is_trusted(
    name: str, secure: FakeRegistry, certificates: Certificates, connect: Connect
) -> None:
    client = connect(f"{name}:{secure.port}", ca_file=certificates.ca)
    with client.open(LAYER) as stream:
        assert stream.read() == BLOB


def test_unknown_authority_is_refused(
    secure: FakeRegistry, connect: Connect, waits: list[float]
) -> None:
    with pytest.raises(UnreachableError, match="cannot be reached") as caught:
        connect(secure.host).open(LAYER)
    assert "certificate" in (caught.value.hint or "")
    assert not secure.requests
    assert waits == []


def test_environment_does_not_change_whom_we_trust(
    secure: FakeRegistry,
    certificates: Certificates,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """requests lets REQUESTS_CA_BUNDLE override what a session was told to verify against."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(certificates.ca))
    with pytest.raises(UnreachableError):
        connect(secure.host).open(LAYER)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "missing"))
    connect(secure.host, ca_file=certificates.ca).open(LAYER).close()


def test_bundle_of_requests_is_not_trusted_besides(
    secure: FakeRegistry,
    certificates: Certificates,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import requests.adapters

    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(certificates.ca))
    with pytest.raises(UnreachableError):
        connect(secure.host).open(LAYER)


def test_name_of_the_certificate_counts(certificates: Certificates, connect: Connect) -> None:
    with FakeRegistry(tls=certificates.server_context()) as registry:
        client = connect(f"other.localhost:{registry.port}", ca_file=certificates.ca)
        with pytest.raises(UnreachableError):
            client.open(LAYER)
        assert not registry.requests


def test_https_does_not_lead_to_http(
    secure: FakeRegistry, certificates: Certificates, connect: Connect
) -> None:
    with FakeRegistry() as storage:
        storage.add_blob("team/app", BLOB)
        secure.redirect("GET", "/blobs/", f"{storage.url}{{path}}")
        with pytest.raises(Exception, match="not allowed"):
            connect(secure.host, ca_file=certificates.ca).open(LAYER)
        secure.fail(
            "POST", "/uploads/", 202, headers={"Location": f"{storage.url}/v2/x/blobs/uploads/y"}
        )
        other = Descriptor(media_types.OCI_LAYER_GZIP, digest_bytes(b"x"), 1)
        with pytest.raises(Exception, match="not allowed"):
            import io

            connect(secure.host, ca_file=certificates.ca).put(other, lambda: io.BytesIO(b"x"))
        assert not storage.requests


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_unusable_authority_is_named(
    content: bytes | None, fake: FakeRegistry, connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"ca\.pem"):
        connect(fake.host, ca_file=path).open(LAYER)


def test_plain_http_is_for_this_machine_only(
    fake: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads here is still not a name of this machine."""
    import socket

    look_up = socket.getaddrinfo

    def here(host: str, *rest: object, **named: object) -> object:
        return look_up("127.0.0.1", *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", here)
    with pytest.raises(UnreachableError) as caught:
        connect(f"registry.example:{fake.port}").open(LAYER)
    assert "plain http" in (caught.value.hint or "")
    assert not fake.requests


def test_every_request_names_us(fake: FakeRegistry, connect: Connect) -> None:
    connect(fake.host).exists(LAYER)
    assert all(r.headers["user-agent"].startswith("imgbuild/") for r in fake.requests)


def test_client_loads_nothing_heavy_before_its_first_request() -> None:
    code = (
        "from imgbuild.registry.client import Registry\n"
        "from imgbuild.oci.reference import parse_reference\n"
        "Registry(parse_reference('debian')).close()\n"
        "import sys\n"
        "print([m for m in ('requests', 'urllib3', 'ssl', 'socket') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
