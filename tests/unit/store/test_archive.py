import errno
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from imgbuild.errors import DigestMismatchError, DiskFullError, ImageError, UsageError
from imgbuild.oci import media_types
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import digest_bytes
from imgbuild.oci.manifest import Manifest, dump_manifest
from imgbuild.oci.platform import Platform
from imgbuild.store.archive import write_docker_archive, write_oci_archive
from imgbuild.store.names import FULL_NAME, REF_NAME
from tests.support import validate
from tests.support.memory import MemoryStore, add_image, add_index

APP = "docker.io/library/app:v1"
WRITERS = pytest.mark.parametrize("writer", [write_oci_archive, write_docker_archive])


def unpack(archive: Path, into: Path) -> Path:
    with tarfile.open(archive) as tar:
        for member in tar:
            assert (member.uid, member.gid, member.mtime, member.uname) == (0, 0, 0, "")
            assert member.isdir() or member.isreg()
        # Python 3.11.3 and older have no filters.
        tar.extractall(into, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return into


@WRITERS
def test_an_archive_is_a_valid_layout(tmp_path: Path, writer: object) -> None:
    source = MemoryStore()
    root = add_image(source)
    writer(source, root, [APP], tmp_path / "x.tar")  # type: ignore[operator]
    assert validate.layout(unpack(tmp_path / "x.tar", tmp_path / "out")) == []
    assert sorted(os.listdir(tmp_path)) == ["out", "x.tar"]


@WRITERS
def test_the_bytes_depend_on_image_and_names_alone(tmp_path: Path, writer: object) -> None:
    source = MemoryStore()
    root = add_image(source)
    again = MemoryStore()
    again.blobs = dict(reversed(source.blobs.items()))
    old = os.umask(0o077)
    try:
        writer(source, root, [APP], tmp_path / "a.tar")  # type: ignore[operator]
    finally:
        os.umask(old)
    out = io.BytesIO()
    writer(again, root, [APP], out)  # type: ignore[operator]
    assert out.getvalue() == (tmp_path / "a.tar").read_bytes()
    assert len(out.getvalue()) % 10240 == 0


def test_an_oci_archive_names_as_buildkit_does(tmp_path: Path) -> None:
    source = MemoryStore()
    write_oci_archive(source, add_image(source), [APP], tmp_path / "x.tar")
    out = unpack(tmp_path / "x.tar", tmp_path / "out")
    (entry,) = json.loads((out / "index.json").read_bytes())["manifests"]
    assert entry["annotations"] == {FULL_NAME: APP, REF_NAME: "v1"}


def test_a_docker_archive_lists_what_docker_loads(tmp_path: Path) -> None:
    source = MemoryStore()
    root = add_image(source)
    names = [APP, f"docker.io/library/app@{root.digest}"]
    write_docker_archive(source, root, names, tmp_path / "x.tar")
    out = unpack(tmp_path / "x.tar", tmp_path / "out")
    (image,) = json.loads((out / "manifest.json").read_bytes())
    assert image["RepoTags"] == [APP]
    config = json.loads((out / image["Config"]).read_bytes())
    assert len(image["Layers"]) == len(config["rootfs"]["diff_ids"]) == 2
    assert all((out / layer).exists() for layer in image["Layers"])


def test_an_index_of_many_platforms_is_for_oci_alone(tmp_path: Path) -> None:
    source = MemoryStore()
    both = add_index(
        source, add_image(source), add_image(source, (b"arm",), Platform("linux", "arm64"))
    )
    write_oci_archive(source, both, [APP], tmp_path / "x.tar")
    assert validate.layout(unpack(tmp_path / "x.tar", tmp_path / "out")) == []
    with pytest.raises(ImageError, match="one platform, this image has 2"):
        write_docker_archive(source, both, [APP], tmp_path / "y.tar")
    assert not (tmp_path / "y.tar").exists()


def test_an_index_of_one_platform_is_for_docker_too(tmp_path: Path) -> None:
    source = MemoryStore()
    attestation = add_image(source, (b"proof",), Platform("unknown", "unknown"))
    unknown = Descriptor(
        attestation.media_type, attestation.digest, attestation.size, Platform("unknown", "unknown")
    )
    root = add_index(source, add_image(source), unknown)
    write_docker_archive(source, root, [APP], tmp_path / "x.tar")
    assert validate.layout(unpack(tmp_path / "x.tar", tmp_path / "out")) == []


@pytest.mark.parametrize("kind", [media_types.OCI_LAYER_ZSTD, media_types.OCI_LAYER_FOREIGN])
def test_layers_that_docker_cannot_load_are_refused(tmp_path: Path, kind: str) -> None:
    source = MemoryStore()
    manifest = Manifest(
        media_types.OCI_MANIFEST,
        source.add(media_types.OCI_CONFIG, b"{}"),
        (source.add(kind, b"layer"),),
    )
    root = source.add(media_types.OCI_MANIFEST, dump_manifest(manifest))
    with pytest.raises(ImageError, match="docker cannot load") as caught:
        write_docker_archive(source, root, [APP], tmp_path / "x.tar")
    assert caught.value.hint is not None
    assert os.listdir(tmp_path) == []


def test_a_layer_beyond_eight_gigabytes_fits(tmp_path: Path) -> None:
    from imgbuild.store.archive import _header

    header = _header("blobs/sha256/" + "0" * 64, 0o644, 9 << 30)
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 9 << 30


@WRITERS
def test_damaged_content_leaves_no_archive(tmp_path: Path, writer: object) -> None:
    source = MemoryStore()
    root = add_image(source)
    layer = min(d for d, data in source.blobs.items() if data[:2] == b"\x1f\x8b")
    source.blobs[layer] = source.blobs[layer][:-1] + b"?"
    (tmp_path / "x.tar").write_text("the old one")
    with pytest.raises(DigestMismatchError):
        writer(source, root, [APP], tmp_path / "x.tar")  # type: ignore[operator]
    assert os.listdir(tmp_path) == ["x.tar"]
    assert (tmp_path / "x.tar").read_text() == "the old one"


def test_a_full_disk_leaves_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    source = MemoryStore()
    root = add_image(source)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFullError):
        write_oci_archive(source, root, [APP], tmp_path / "x.tar")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="cannot apply: no /dev/full")
def test_a_device_is_written_to_and_not_replaced() -> None:
    source = MemoryStore()
    with pytest.raises(DiskFullError):
        write_oci_archive(source, add_image(source), [APP], Path("/dev/full"))
    write_oci_archive(source, add_image(source), [APP], Path("/dev/null"))
    assert not os.path.isfile("/dev/null")


def test_a_stream_is_written_to_and_stays_open() -> None:
    class Dribble(io.BytesIO):
        """Takes a few bytes at a time, as a pipe may."""

        def write(self, data: object, /) -> int:
            return super().write(bytes(data)[:700])  # type: ignore[call-overload]

    source = MemoryStore()
    root = add_image(source)
    slow, fast = Dribble(), io.BytesIO()
    write_oci_archive(source, root, [APP], slow)
    write_oci_archive(source, root, [APP], fast)
    assert slow.getvalue() == fast.getvalue()


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    source = MemoryStore()
    (tmp_path / "link.tar").symlink_to("real.tar")
    write_oci_archive(source, add_image(source), [APP], tmp_path / "link.tar")
    assert (tmp_path / "link.tar").is_symlink()
    assert tarfile.is_tarfile(tmp_path / "real.tar")


def test_a_place_that_cannot_be_is_the_callers_mistake(tmp_path: Path) -> None:
    source = MemoryStore()
    root = add_image(source)
    with pytest.raises(UsageError, match="is a directory"):
        write_oci_archive(source, root, [APP], tmp_path)
    with pytest.raises(UsageError, match="not a directory"):
        write_oci_archive(source, root, [APP], tmp_path / "nowhere" / "x.tar")


def test_layers_are_streamed(tmp_path: Path) -> None:
    class Endless(io.RawIOBase):
        """A layer larger than one would hold: 300 MiB of zeros, one piece at a time."""

        left = 300 << 20

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]
            assert len(buffer) <= 2 << 20
            count = min(len(buffer), self.left)
            buffer[:count] = bytes(count)
            self.left -= count
            return count

    class Source(MemoryStore):
        def open(self, descriptor: Descriptor) -> "io.BufferedReader":  # type: ignore[override]
            if descriptor.media_type == media_types.OCI_LAYER:
                return io.BufferedReader(Endless())
            return super().open(descriptor)  # type: ignore[return-value]

    source = Source()
    layer = Descriptor(media_types.OCI_LAYER, digest_bytes(b"zeros"), 300 << 20)
    manifest = Manifest(
        media_types.OCI_MANIFEST, source.add(media_types.OCI_CONFIG, b"{}"), (layer,)
    )
    root = source.add(media_types.OCI_MANIFEST, dump_manifest(manifest))
    write_oci_archive(source, root, [APP], Path("/dev/null"))
