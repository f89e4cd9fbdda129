"""Blobs, manifests and tags go up; what breaks is begun anew, what was changed on the way is noticed."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from imgbuild.errors import DigestMismatchError, ImageError, RegistryError
from imgbuild.oci import media_types
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import digest_bytes
from imgbuild.oci.manifest import Manifest, dump_manifest
from tests.support.registry import FakeRegistry, Handler
from tests.unit.registry.conftest import Connect

BLOB = bytes(range(256)) * 8192
CONFIG = Descriptor(media_types.OCI_CONFIG, digest_bytes(b"{}"), 2)
MANIFEST = dump_manifest(Manifest(media_types.OCI_MANIFEST, CONFIG, ()))
ROOT = Descriptor(media_types.OCI_MANIFEST, digest_bytes(MANIFEST), len(MANIFEST))
LAYER = Descriptor(media_types.OCI_LAYER_GZIP, digest_bytes(BLOB), len(BLOB))


class Opened:
    """An opener that counts its calls and the streams that were closed."""

    def __init__(self, data: bytes) -> None:
        self.data, self.streams = data, []  # type: ignore[var-annotated]

    def __call__(self) -> BinaryIO:
        self.streams.append(io.BytesIO(self.data))
        stream: BinaryIO = self.streams[-1]
        return stream


def test_blob_is_put_once_in_one_piece(fake: FakeRegistry, connect: Connect) -> None:
    client, opener = connect(fake.host), Opened(BLOB)
    assert not client.exists(LAYER)
    client.put(LAYER, opener)
    client.put(LAYER, opener)
    assert client.exists(LAYER)
    assert fake.blobs["team/app", LAYER.digest] == BLOB
    assert len(opener.streams) == 1
    assert all(stream.closed for stream in opener.streams)
    sent = fake.seen("PUT")
    assert [request.headers["content-length"] for request in sent] == [str(len(BLOB))]
    assert sent[0].query == {"_state": ["a=="], "digest": [LAYER.digest]}
    assert "content-range" not in sent[0].headers
    assert sent[0].headers["content-type"] == "application/octet-stream"
    # Asked whether it is there once, by exists(): put() remembers the answer.
    assert len(fake.seen("HEAD")) == 2


def test_blob_that_is_there_is_not_sent(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_blob("team/app", BLOB)
    connect(fake.host).put(LAYER, Opened(b""))
    assert not fake.seen("POST")


@pytest.mark.parametrize("status", [403, 405])
def test_existence_that_cannot_be_asked_is_no_existence(
    status: int, fake: FakeRegistry, connect: Connect
) -> None:
    fake.add_blob("team/app", BLOB)
    fake.fail("HEAD", "/blobs/", status)
    assert not connect(fake.host).exists(LAYER)


def test_empty_blob(fake: FakeRegistry, connect: Connect) -> None:
    empty = Descriptor(media_types.OCI_LAYER, digest_bytes(b""), 0)
    connect(fake.host).put(empty, Opened(b""))
    assert fake.blobs["team/app", empty.digest] == b""
    assert fake.seen("PUT")[0].headers["content-length"] == "0"


def test_cut_upload_begins_anew(fake: FakeRegistry, connect: Connect, waits: list[float]) -> None:
    fake.cut_upload("/uploads/", 100_000, times=2)
    opener = Opened(BLOB)
    connect(fake.host).put(LAYER, opener)
    assert fake.blobs["team/app", LAYER.digest] == BLOB
    assert len(fake.seen("POST")) == len(fake.seen("PUT")) == len(opener.streams) == 3
    assert len({request.path for request in fake.seen("PUT")}) == 3
    assert all(stream.closed for stream in opener.streams)
    assert len(waits) == 2


def test_upload_that_always_breaks_ends_in_an_error(fake: FakeRegistry, connect: Connect) -> None:
    fake.cut_upload("/uploads/", 1000, times=99)
    with pytest.raises(RegistryError, match="broke off"):
        connect(fake.host).put(LAYER, Opened(BLOB))
    assert len(fake.seen("PUT")) == 5


@pytest.mark.parametrize(("status", "tries"), [(503, 5), (404, 2), (400, 2), (413, 1)])
def test_refused_upload(status: int, tries: int, fake: FakeRegistry, connect: Connect) -> None:
    fake.fail("PUT", "/uploads/", status, times=99)
    with pytest.raises(RegistryError, match=str(status) if status != 404 else "not found"):
        connect(fake.host).put(LAYER, Opened(BLOB))
    assert len(fake.seen("PUT")) == len(fake.seen("POST")) == tries


@pytest.mark.parametrize("data", [BLOB[:-1], BLOB + b"x", b"x" + BLOB[1:]])
def test_damaged_content_is_not_sent_to_the_end(
    data: bytes, fake: FakeRegistry, connect: Connect
) -> None:
    with pytest.raises(DigestMismatchError):
        connect(fake.host).put(LAYER, Opened(data))
    assert fake.blobs == {}
    assert len(fake.seen("POST")) == 1


def test_trouble_of_the_opener_is_passed_on(fake: FakeRegistry, connect: Connect) -> None:
    """An OSError of a local file is no trouble of the connection: it is not tried again."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "local disk")

    with pytest.raises(OSError, match="local disk"):
        connect(fake.host).put(LAYER, lambda: Broken(BLOB))

    def missing() -> BinaryIO:
        raise ImageError("gone")

    with pytest.raises(ImageError, match="gone"):
        connect(fake.host).put(LAYER, missing)


def test_mount_saves_the_upload(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_blob("library/debian", BLOB)
    connect(fake.host).put(LAYER, Opened(b""), f"{fake.host}/library/debian")
    assert fake.blobs["team/app", LAYER.digest] == BLOB
    (asked,) = fake.seen("POST")
    assert asked.query == {"mount": [LAYER.digest], "from": ["library/debian"]}
    assert not fake.seen("PUT")


def test_mount_that_opens_a_session_is_used(fake: FakeRegistry, connect: Connect) -> None:
    connect(fake.host).put(LAYER, Opened(BLOB), "library/debian")
    assert len(fake.seen("POST")) == 1
    assert fake.blobs["team/app", LAYER.digest] == BLOB


@pytest.mark.parametrize("status", [401, 403, 404, 500, 405])
def test_refused_mount_becomes_an_upload(status: int, fake: FakeRegistry, connect: Connect) -> None:
    def refuse(handler: Handler) -> bool:
        if "mount" not in handler.query:
            return False
        handler.reply(status)
        return True

    fake.on("POST", "/uploads/", refuse, times=99)
    connect(fake.host).put(LAYER, Opened(BLOB), "library/debian")
    assert fake.blobs["team/app", LAYER.digest] == BLOB


def test_mount_that_breaks_becomes_an_upload(fake: FakeRegistry, connect: Connect) -> None:
    def reset(handler: Handler) -> bool:
        handler.reset()
        return True

    fake.on("POST", "/uploads/", reset)
    connect(fake.host).put(LAYER, Opened(BLOB), "library/debian")
    assert fake.blobs["team/app", LAYER.digest] == BLOB


@pytest.mark.parametrize("origin", [None, "", "team/app", "quay.io/other/image", "other:5000/x/y"])
def test_no_mount_from_nowhere_or_elsewhere(
    origin: str | None, fake: FakeRegistry, connect: Connect
) -> None:
    connect(fake.host).put(LAYER, Opened(BLOB), origin)
    assert [request.query for request in fake.seen("POST")] == [{}]


def test_mount_asks_for_both_repositories_and_falls_back(
    fake: FakeRegistry, connect: Connect, login: Callable[..., Path]
) -> None:
    fake.auth = "bearer"
    fake.add_blob("library/debian", BLOB)
    client = connect(fake.host, docker_config=login(fake.host))
    client.put(LAYER, Opened(b""), "library/debian")
    scopes = [request.query["scope"] for request in fake.seen("GET", "/token")]
    assert scopes[-1] == ["repository:library/debian:pull", "repository:team/app:pull,push"]
    assert not fake.seen("PUT")


@pytest.mark.parametrize("kind", ["absolute", "wrong scheme", "relative"])
def test_location_is_joined(kind: str, fake: FakeRegistry, connect: Connect) -> None:
    where = "/v2/team/app/blobs/uploads/here"
    if kind == "absolute":
        where = f"{fake.url}{where}"
    if kind == "wrong scheme":
        # Behind a proxy that ends TLS; here the other way round.
        where = f"https://{fake.host}{where}"
    fake.uploads.add("here")
    fake.fail("POST", "/uploads/", 202, headers={"Location": where})
    connect(fake.host).put(LAYER, Opened(BLOB))
    assert fake.seen("PUT")[0].query == {"digest": [LAYER.digest]}


def test_missing_location_is_named(fake: FakeRegistry, connect: Connect) -> None:
    fake.fail("POST", "/uploads/", 202)
    with pytest.raises(RegistryError, match="did not say where"):
        connect(fake.host).put(LAYER, Opened(BLOB))


def test_blob_stored_under_another_digest_is_noticed(fake: FakeRegistry, connect: Connect) -> None:
    other = {"Docker-Content-Digest": digest_bytes(b"other")}
    fake.fail("PUT", "/uploads/", 201, headers=other)
    with pytest.raises(RegistryError, match="stored it as"):
        connect(fake.host).put(LAYER, Opened(BLOB))


def test_manifest_is_put_by_digest_and_tagged(fake: FakeRegistry, connect: Connect) -> None:
    client = connect(fake.host)
    client.put(ROOT, lambda: io.BytesIO(MANIFEST))
    client.tag("v1", ROOT)
    client.tag("v2", ROOT)
    assert fake.manifests["team/app", "v2"] == (media_types.OCI_MANIFEST, MANIFEST)
    assert client.exists(ROOT)
    assert client.resolve("v1") == ROOT
    sent = [request.path.rpartition("/")[2] for request in fake.seen("PUT")]
    assert sent == [ROOT.digest, "v1", "v2"]
    # What was just put need not be fetched to be tagged.
    assert not fake.seen("GET", "/manifests/")


def test_what_is_there_already_can_be_tagged(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_manifest("team/app", "old", media_types.OCI_MANIFEST, MANIFEST)
    connect(fake.host).tag("new", ROOT)
    assert fake.manifests["team/app", "new"][1] == MANIFEST


def test_damaged_manifest_is_not_sent(fake: FakeRegistry, connect: Connect) -> None:
    with pytest.raises(DigestMismatchError):
        connect(fake.host).put(ROOT, lambda: io.BytesIO(MANIFEST + b" "))
    assert not fake.seen("PUT")


def test_changed_manifest_is_noticed(fake: FakeRegistry, connect: Connect) -> None:
    other = {"Docker-Content-Digest": digest_bytes(b"other")}
    fake.fail("PUT", "/manifests/", 201, headers=other)
    with pytest.raises(RegistryError, match="stored it as"):
        connect(fake.host).put(ROOT, lambda: io.BytesIO(MANIFEST))
