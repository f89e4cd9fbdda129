"""What every `BlobSource`, `BlobSink` and `ImageNames` promises, tried on each of them."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbuild.errors import DigestMismatchError, ImgbuildError
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest, digest_bytes
from imgbuild.oci.reference import parse_reference
from imgbuild.registry.client import Registry
from imgbuild.store.layout import OciLayout
from imgbuild.store.store import Store
from imgbuild.transfer import copy_image
from tests.support.memory import MemoryStore, add_image
from tests.support.registry import FakeRegistry

NAME = "docker.io/library/app:latest"


class StorePort:
    """A store behind the three ports at once."""

    def __init__(self, store: Store) -> None:
        self.open, self.exists, self.put = store.blobs.open, store.blobs.exists, store.blobs.put
        self.resolve, self.tag = store.names.resolve, store.names.tag


class RegistryPort:
    """A repository, whose names are tags."""

    def __init__(self, client: Registry) -> None:
        self.open, self.exists, self.put = client.open, client.exists, client.put
        self.client = client

    def resolve(self, name: str) -> Descriptor:
        return self.client.resolve(parse_reference(name).tag)

    def tag(self, name: str, descriptor: Descriptor) -> None:
        self.client.tag(parse_reference(name).tag, descriptor)


# Each factory takes an empty directory and yields one object that has all three ports.
def memory(_path: Path) -> Iterator[Any]:
    yield MemoryStore()


def store(path: Path) -> Iterator[Any]:
    with Store.open(path / "store") as opened:
        yield StorePort(opened)


def layout(path: Path) -> Iterator[Any]:
    opened = OciLayout(path / "layout", create=True)
    yield opened
    opened.close()


def registry(_path: Path) -> Iterator[Any]:
    with FakeRegistry() as fake:
        reference = parse_reference(f"{fake.host}/library/app")
        with Registry(reference, pause=lambda _: None) as client:
            yield RegistryPort(client)


FACTORIES = [memory, store, layout, registry]


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    yield from request.param(tmp_path)


def blob(data: bytes) -> Descriptor:
    return Descriptor("application/octet-stream", digest_bytes(data), len(data))


class TestBlobPorts:
    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 9000], ids=len)
    def test_what_was_put_comes_back(self, port: Any, data: bytes) -> None:
        port.put(blob(data), lambda: io.BytesIO(data))
        assert port.exists(blob(data))
        with port.open(blob(data)) as stream:
            assert stream.read() == data

    def test_it_can_be_read_in_pieces(self, port: Any) -> None:
        data = bytes(range(256)) * 9000
        port.put(blob(data), lambda: io.BytesIO(data))
        with port.open(blob(data)) as stream:
            assert b"".join(iter(lambda: stream.read(1000), b"")) == data

    def test_putting_twice_is_harmless(self, port: Any) -> None:
        for _ in range(2):
            port.put(blob(b"same"), lambda: io.BytesIO(b"same"))
        with port.open(blob(b"same")) as stream:
            assert stream.read() == b"same"

    def test_what_is_there_is_not_asked_for_again(self, port: Any) -> None:
        port.put(blob(b"same"), lambda: io.BytesIO(b"same"))
        port.put(blob(b"same"), lambda: pytest.fail("opened"))

    @pytest.mark.parametrize(
        "sent", [b"", b"shor", b"short?", b"shirt"], ids=["none", "cut", "long", "flipped"]
    )
    def test_other_content_is_refused_and_not_kept(self, port: Any, sent: bytes) -> None:
        with pytest.raises(DigestMismatchError):
            port.put(blob(b"short"), lambda: io.BytesIO(sent))
        assert not port.exists(blob(b"short"))

    def test_a_failing_stream_leaves_nothing(self, port: Any) -> None:
        class Broken(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                raise ImgbuildError("cut off")

        with pytest.raises(ImgbuildError, match="cut off"):
            port.put(blob(b"data"), Broken)
        assert not port.exists(blob(b"data"))

    def test_a_missing_blob_is_an_error_of_ours(self, port: Any) -> None:
        assert not port.exists(blob(b"missing"))
        with pytest.raises(ImgbuildError), port.open(blob(b"missing")) as stream:
            stream.read()

    def test_a_wrong_size_shows_when_reading(self, port: Any) -> None:
        port.put(blob(b"data"), lambda: io.BytesIO(b"data"))
        for size in (3, 5):
            wrong = Descriptor("x", digest_bytes(b"data"), size)
            with pytest.raises(DigestMismatchError), port.open(wrong) as stream:
                stream.read()
        # The descriptor was wrong, not the content.
        assert port.exists(blob(b"data"))

    def test_sha512_is_content_too(self, port: Any) -> None:
        import hashlib

        digest = Digest("sha512:" + hashlib.sha512(b"data").hexdigest())
        descriptor = Descriptor("application/octet-stream", digest, 4)
        port.put(descriptor, lambda: io.BytesIO(b"data"))
        with port.open(descriptor) as stream:
            assert stream.read() == b"data"


class TestImageNames:
    def test_a_name_stands_for_what_it_was_given_to(self, port: Any) -> None:
        source = MemoryStore()
        root = add_image(source)
        copy_image(source, port, root)
        port.tag(NAME, root)
        found = port.resolve(NAME)
        assert (found.digest, found.size, found.media_type) == (
            root.digest,
            root.size,
            root.media_type,
        )

    def test_a_name_moves(self, port: Any) -> None:
        source = MemoryStore()
        for content in (b"old", b"new"):
            root = add_image(source, (content,))
            copy_image(source, port, root)
            port.tag(NAME, root)
        assert port.resolve(NAME).digest == root.digest

    def test_an_unknown_name_is_an_error_of_ours(self, port: Any) -> None:
        with pytest.raises(ImgbuildError):
            port.resolve("docker.io/library/nothing:here")
