"""The client against the real docker-registry: plain, with a password, with tokens, over TLS."""

import hashlib
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuild import api
from imgbuild.errors import AuthenticationError, NotFoundError, RegistryError, UnreachableError
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest, digest_bytes
from imgbuild.oci.reference import parse_reference
from imgbuild.options import RegistryOptions
from imgbuild.registry.client import Registry
from imgbuild.transfer import copy_image
from tests.support.certificates import make_certificates
from tests.support.docker_registry import Running, docker_registry, login
from tests.support.memory import MemoryStore, add_image

pytestmark = pytest.mark.system

LAYERS = (os.urandom(3 << 20), b"second layer", b"")


def client_of(running: Running, repository: str, options: RegistryOptions) -> Registry:
    reference = parse_reference(running.name(repository))
    return Registry(reference, options, pause=lambda _: None)


def push_and_pull(
    running: Running, repository: str, options: RegistryOptions, origin: str | None = None
) -> Descriptor:
    source, sink = MemoryStore(), MemoryStore()
    root = add_image(source, LAYERS)
    with client_of(running, repository, options) as client:
        copy_image(source, client, root, origin=lambda _: origin)
        client.tag("v1", root)
    with client_of(running, repository, options) as client:
        found = client.resolve("v1")
        assert (found.digest, found.size, found.media_type) == (
            root.digest,
            root.size,
            root.media_type,
        )
        assert client.resolve(root.digest) == found
        copy_image(client, sink, found)
        assert sink.exists(root)
    return root


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Running]:
    with docker_registry(tmp_path / "plain") as running:
        yield running


def test_plain(plain: Running) -> None:
    push_and_pull(plain, "team/app", RegistryOptions())
    push_and_pull(plain, "team/app", RegistryOptions())


def test_mount_from_another_repository(plain: Running) -> None:
    push_and_pull(plain, "library/debian", RegistryOptions())
    push_and_pull(plain, "team/app", RegistryOptions(), "library/debian")
    asked = [line for line in plain.log.read_text().splitlines() if "mount=" in line]
    assert asked
    assert not any("PUT" in line and "/team/app/blobs/" in line for line in asked)


def test_layers_are_mounted_across_repositories(plain: Running, tmp_path: Path) -> None:
    """What was pushed, or pulled, is not sent again to another repository of the registry."""
    (tmp_path / "f").write_bytes(os.urandom(100_000))
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY f /\n")
    first, second, third = (plain.name(f"{name}/app:v1") for name in ("one", "two", "three"))
    built = api.build(tmp_path, tags=[first], store=tmp_path / "store")
    api.push(first, store=tmp_path / "store")
    api.push(first, second, store=tmp_path / "store")
    pulled = api.pull(second, store=tmp_path / "other")
    api.push(second, third, store=tmp_path / "other")
    assert pulled.digest == built.digest
    lines = plain.log.read_text().splitlines()
    sent = [line for line in lines if '"PUT ' in line and "/blobs/" in line]
    assert len(sent) == 2, "a layer and a config, once"
    assert all("/v2/one/app/" in line for line in sent)
    assert sum("mount=" in line and "from=two%2Fapp" in line for line in lines) >= 2


def test_what_is_not_there(plain: Running) -> None:
    with client_of(plain, "team/app", RegistryOptions()) as client:
        with pytest.raises(NotFoundError):
            client.resolve("v1")
        with pytest.raises(NotFoundError):
            client.open(Descriptor("x", digest_bytes(b"none"), 4))
        assert not client.exists(Descriptor("x", digest_bytes(b"none"), 4))


def test_sha512_is_not_stored_silently_as_sha256(plain: Running) -> None:
    digest = Digest("sha512:" + hashlib.sha512(b"data").hexdigest())
    with (
        client_of(plain, "team/app", RegistryOptions()) as client,
        pytest.raises(RegistryError, match="stored it as sha256"),
    ):
        client.put(Descriptor("x", digest, 4), lambda: io.BytesIO(b"data"))


def test_password(tmp_path: Path) -> None:
    with docker_registry(tmp_path / "guarded", auth="htpasswd") as running:
        options = RegistryOptions(docker_config=login(tmp_path / "docker", running.host))
        push_and_pull(running, "team/app", options)
        with pytest.raises(AuthenticationError, match=running.host) as caught:
            push_and_pull(running, "team/app", RegistryOptions())
        assert f"docker login {running.host}" in (caught.value.hint or "")
        login(tmp_path / "docker", running.host, username="alice", password="wrong")
        with pytest.raises(AuthenticationError, match="refused the credentials"):
            push_and_pull(running, "team/app", options)


def test_tokens(tmp_path: Path) -> None:
    with docker_registry(tmp_path / "guarded", auth="token") as running:
        options = RegistryOptions(docker_config=login(tmp_path / "docker", running.host))
        push_and_pull(running, "public/debian", options)
        push_and_pull(running, "team/app", options, "public/debian")
        # One for pushing, one for pulling: a token is kept while it lasts.
        pushes = [line for line in running.tokens if "public/debian:pull,push" in line]
        assert len(pushes) == 1
        assert any("public/debian:pull repository:team/app:pull,push" in t for t in running.tokens)
        anonymous = RegistryOptions()
        with client_of(running, "public/debian", anonymous) as client:
            copy_image(client, MemoryStore(), client.resolve("v1"))
        denied = pytest.raises(AuthenticationError, match="asks for credentials")
        with client_of(running, "team/app", anonymous) as client, denied:
            client.resolve("v1")
        with pytest.raises(AuthenticationError):
            push_and_pull(running, "public/debian", anonymous)
        login(tmp_path / "docker", running.host, username="alice", password="wrong")
        with pytest.raises(AuthenticationError, match="refused the credentials of alice"):
            push_and_pull(running, "team/app", options)


def test_identity_token(tmp_path: Path) -> None:
    with docker_registry(tmp_path / "guarded", auth="token") as running:
        folder = login(tmp_path / "docker", running.host, identitytoken="identity")
        push_and_pull(running, "team/app", RegistryOptions(docker_config=folder))
        assert all(line.startswith("POST alice") for line in running.tokens)


def test_tls_with_password(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with docker_registry(
        tmp_path / "secure", auth="htpasswd", certificates=certificates
    ) as running:
        folder = login(tmp_path / "docker", running.host)
        options = RegistryOptions(docker_config=folder, ca_file=certificates.ca)
        push_and_pull(running, "team/app", options)
        with pytest.raises(UnreachableError):
            push_and_pull(running, "team/app", RegistryOptions(docker_config=folder))


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_reads_what_was_pushed(plain: Running) -> None:
    root = push_and_pull(plain, "team/app", RegistryOptions())
    done = subprocess.run(
        [
            "skopeo",
            "inspect",
            "--raw",
            "--tls-verify=false",
            f"docker://{plain.name('team/app:v1')}",
        ],
        capture_output=True,
        check=True,
    )
    assert digest_bytes(done.stdout) == root.digest
