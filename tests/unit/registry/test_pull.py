"""Manifests and blobs: verified, resumed, refused when they are not what they should be."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from imgbuild.errors import DigestMismatchError, ImageError, NotFoundError, RegistryError
from imgbuild.oci import media_types
from imgbuild.oci.codec import MAX_DOCUMENT
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest, digest_bytes
from imgbuild.oci.manifest import Index, Manifest, dump_manifest
from tests.support.registry import FakeRegistry, Handler
from tests.unit.registry.conftest import Connect

BLOB = bytes(range(256)) * 4096
CONFIG = Descriptor(media_types.OCI_CONFIG, digest_bytes(b"{}"), 2)
MANIFEST = dump_manifest(Manifest(media_types.OCI_MANIFEST, CONFIG, ()))
INDEX = dump_manifest(Index(media_types.OCI_INDEX, ()))


def blob_of(data: bytes) -> Descriptor:
    return Descriptor(media_types.OCI_LAYER_GZIP, digest_bytes(data), len(data))


def read(client: object, descriptor: Descriptor) -> bytes:
    with client.open(descriptor) as stream:  # type: ignore[attr-defined]
        data: bytes = stream.read()
        return data


def test_blob_is_read_and_verified(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_blob("team/app", BLOB)
    assert read(connect(fake.host), blob_of(BLOB)) == BLOB


def test_content_encoding_is_not_undone(fake: FakeRegistry, connect: Connect) -> None:
    """GCS labels what is stored compressed; the digest is of what is stored."""
    import gzip

    data = gzip.compress(BLOB)

    def labelled(handler: Handler) -> bool:
        handler.reply(200, data, {"Content-Encoding": "gzip"})
        return True

    fake.on("GET", "/blobs/", labelled)
    assert read(connect(fake.host), blob_of(data)) == data
    assert fake.seen("GET", "/blobs/")[0].headers["accept-encoding"] == "identity"


def test_cut_blob_is_resumed_where_it_broke(
    fake: FakeRegistry, connect: Connect, waits: list[float]
) -> None:
    fake.add_blob("team/app", BLOB)
    fake.cut("GET", "/blobs/", 300_000)
    fake.cut("GET", "/blobs/", 200_000)
    assert read(connect(fake.host), blob_of(BLOB)) == BLOB
    ranges = [request.headers.get("range") for request in fake.seen("GET", "/blobs/")]
    assert ranges[0] is None
    assert len(ranges) == 3
    # A reset takes along what the client had not read yet.
    starts = [int(given.removeprefix("bytes=").partition("-")[0]) for given in ranges[1:] if given]
    assert 0 < starts[0] <= 300_000
    assert starts[0] < starts[1] <= 500_000
    # crane's registry knows closed ranges only.
    assert all(given.endswith(f"-{len(BLOB) - 1}") for given in ranges[1:] if given)
    assert len(waits) == 2


def test_server_that_ignores_ranges_is_read_anew(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_blob("team/app", BLOB)
    fake.cut("GET", "/blobs/", 300_000)

    def whole(handler: Handler) -> bool:
        handler.reply(200, BLOB)
        return True

    fake.on("GET", "/nothing/", whole)  # never used: keeps the order of faults plain
    fake.on("GET", "/blobs/", whole)
    assert read(connect(fake.host), blob_of(BLOB)) == BLOB


def test_nonsense_ranges_are_not_believed(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_blob("team/app", BLOB)
    fake.cut("GET", "/blobs/", 300_000)
    bogus = {"Content-Range": f"bytes 5-{len(BLOB) - 1}/{len(BLOB)}"}
    fake.fail("GET", "/blobs/", 206, headers=bogus, body=b"bogus")
    assert read(connect(fake.host), blob_of(BLOB)) == BLOB


def test_refused_range_is_read_anew(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_blob("team/app", BLOB)
    fake.cut("GET", "/blobs/", 300_000)
    fake.fail("GET", "/blobs/", 416)
    assert read(connect(fake.host), blob_of(BLOB)) == BLOB


def test_blob_that_always_breaks_ends_in_an_error(
    fake: FakeRegistry, connect: Connect, waits: list[float]
) -> None:
    fake.add_blob("team/app", BLOB)
    fake.cut("GET", "/blobs/", 1000, times=99)
    stream = connect(fake.host).open(blob_of(BLOB))
    with pytest.raises(RegistryError, match="broke off") as caught, stream:
        stream.read()
    assert fake.host in caught.value.message
    assert len(waits) == 4


def test_progress_renews_the_attempts(fake: FakeRegistry, connect: Connect) -> None:
    data = BLOB * 12
    fake.add_blob("team/app", data)
    fake.cut("GET", "/blobs/", 1_200_000, times=9, reset=False)
    assert read(connect(fake.host), blob_of(data)) == data


@pytest.mark.parametrize("change", [b"x" + BLOB[1:], BLOB[:-1], BLOB + b"x"])
def test_wrong_blob_raises_while_it_is_read(
    change: bytes, fake: FakeRegistry, connect: Connect
) -> None:
    wanted = blob_of(BLOB)
    fake.blobs["team/app", wanted.digest] = change
    with pytest.raises(DigestMismatchError):
        read(connect(fake.host), wanted)


def test_missing_blob(fake: FakeRegistry, connect: Connect) -> None:
    with pytest.raises(NotFoundError, match="blob unknown") as caught:
        connect(fake.host).open(blob_of(BLOB))
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_tag_is_resolved_by_head_alone(fake: FakeRegistry, connect: Connect) -> None:
    digest = fake.add_manifest("team/app", "v1", media_types.OCI_MANIFEST, MANIFEST)
    client = connect(fake.host)
    found = client.resolve("v1")
    assert found == Descriptor(media_types.OCI_MANIFEST, Digest(digest), len(MANIFEST))
    assert fake.seen("GET", "/manifests/") == []
    assert read(client, found) == MANIFEST
    assert client.resolve(digest) == found


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_all_manifest_types_are_accepted(method: str, fake: FakeRegistry, connect: Connect) -> None:
    fake.add_manifest("team/app", "v1", media_types.OCI_INDEX, INDEX)
    client = connect(fake.host)
    read(client, client.resolve("v1"))
    accepted = fake.seen(method, "/manifests/")[0].headers["accept"]
    for kind in media_types.MANIFESTS | media_types.INDEXES:
        assert kind in accepted


@pytest.mark.parametrize("status", [404, 405, 403])
def test_head_that_fails_is_replaced_by_get(
    status: int, fake: FakeRegistry, connect: Connect
) -> None:
    digest = fake.add_manifest("team/app", "v1", media_types.OCI_MANIFEST, MANIFEST)
    fake.fail("HEAD", "/manifests/", status)
    assert connect(fake.host).resolve("v1").digest == digest


@pytest.mark.parametrize(
    "served",
    [
        "text/plain",
        "application/json",
        "",
        "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
    ],
)
def test_type_of_the_document_counts_more_than_the_header(
    served: str, fake: FakeRegistry, connect: Connect
) -> None:
    fake.add_manifest("team/app", "v1", served, MANIFEST)
    assert connect(fake.host).resolve("v1").media_type == media_types.OCI_MANIFEST


def test_digest_header_must_fit(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_manifest("team/app", "v1", media_types.OCI_MANIFEST, MANIFEST)
    fake.fail("HEAD", "/manifests/", 405)
    lie = {"Docker-Content-Digest": digest_bytes(b"other")}
    fake.fail("GET", "/manifests/", 200, headers=lie, body=MANIFEST)
    with pytest.raises(DigestMismatchError):
        connect(fake.host).resolve("v1")


def test_asked_digest_must_fit(fake: FakeRegistry, connect: Connect) -> None:
    other = digest_bytes(b"other")
    fake.manifests["team/app", other] = (media_types.OCI_MANIFEST, MANIFEST)
    client = connect(fake.host)
    with pytest.raises(DigestMismatchError):
        client.resolve(other)
    with pytest.raises(DigestMismatchError):
        read(client, Descriptor(media_types.OCI_MANIFEST, other, len(MANIFEST)))


def test_head_that_lies_is_found_out(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_manifest("team/app", "v1", media_types.OCI_MANIFEST, MANIFEST)
    lie = {
        "Docker-Content-Digest": digest_bytes(MANIFEST),
        "Content-Type": media_types.OCI_MANIFEST,
        "Content-Length": "7",
    }
    fake.fail("HEAD", "/manifests/", 200, headers=lie)
    client = connect(fake.host)
    with pytest.raises(RegistryError, match="more than 7 bytes"):
        read(client, client.resolve("v1"))


def test_oversized_manifest_is_refused(fake: FakeRegistry, connect: Connect) -> None:
    huge = b'{"schemaVersion": 2, "x": "' + b"x" * MAX_DOCUMENT + b'"}'
    fake.add_manifest("team/app", "v1", media_types.OCI_MANIFEST, huge)
    client = connect(fake.host)
    with pytest.raises(RegistryError, match="are allowed"):
        client.open(client.resolve("v1"))
    fake.fail("HEAD", "/manifests/", 405)
    with pytest.raises(RegistryError, match="more than"):
        client.resolve("v1")


def test_schema_one_is_named(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_manifest("team/app", "v1", media_types.DOCKER_SCHEMA1, b'{"schemaVersion": 1}')
    with pytest.raises(ImageError, match="schema 1"):
        connect(fake.host).resolve("v1")


def test_cut_manifest_is_fetched_again(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_manifest("team/app", "v1", media_types.OCI_MANIFEST, MANIFEST)
    fake.cut("GET", "/manifests/", 10)
    client = connect(fake.host)
    assert read(client, client.resolve("v1")) == MANIFEST


def test_missing_tag(fake: FakeRegistry, connect: Connect) -> None:
    with pytest.raises(NotFoundError, match=r"team/app:v1: not found .*manifest unknown"):
        connect(fake.host).resolve("v1")


def test_many_threads_share_one_client(fake: FakeRegistry, connect: Connect) -> None:
    fake.auth, fake.public = "bearer", ("team/app",)
    parts = [hashlib.sha256(bytes([n])).digest() * 3000 for n in range(24)]
    for part in parts:
        fake.add_blob("team/app", part)
    client = connect(fake.host)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda part: read(client, blob_of(part)), parts)) == parts
    assert len(fake.seen("GET", "/token")) == 1


def test_small_reads_and_readinto(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_blob("team/app", BLOB)
    with connect(fake.host).open(blob_of(BLOB)) as stream:
        assert stream.read(10) == BLOB[:10]
        buffer = io.BytesIO()
        while data := stream.read(7000):
            buffer.write(data)
    assert buffer.getvalue() == BLOB[10:]


def test_stream_left_early_is_closed(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_blob("team/app", BLOB)
    with connect(fake.host).open(blob_of(BLOB)) as stream:
        assert stream.read(10) == BLOB[:10]


def test_empty_blob(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_blob("team/app", b"")
    assert read(connect(fake.host), blob_of(b"")) == b""
