import io
import json
import os
from pathlib import Path

import pytest

from imgbuild.errors import DigestMismatchError, ImageError, StoreError, UsageError
from imgbuild.oci import media_types
from imgbuild.oci.descriptor import Descriptor
from imgbuild.store.layout import OciLayout, new_layout, split_location
from imgbuild.store.names import FULL_NAME, REF_NAME
from imgbuild.transfer import copy_image
from tests.support import validate
from tests.support.memory import MemoryStore, add_image

APP = "docker.io/library/app:v1"


def write(path: Path, *names: str, layers: tuple[bytes, ...] = (b"one",)) -> Descriptor:
    source = MemoryStore()
    root = add_image(source, layers)
    with new_layout(path) as layout:
        copy_image(source, layout, root)
        layout.name_all(names, root)
    return root


def blob_path(path: Path, descriptor: Descriptor) -> Path:
    return path / "blobs" / "sha256" / descriptor.digest.encoded


def entries(path: Path) -> list[dict[str, str]]:
    listed = json.loads((path / "index.json").read_bytes())["manifests"]
    return [entry.get("annotations", {}) for entry in listed]


def test_a_written_layout_is_valid_and_holds_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "out", APP)
    assert validate.layout(tmp_path / "out") == []
    assert sorted(os.listdir(tmp_path / "out")) == ["blobs", "index.json", "oci-layout"]
    assert os.listdir(tmp_path) == ["out"]


def test_names_are_as_buildkit_writes_them(tmp_path: Path) -> None:
    write(tmp_path / "one", APP, "docker.io/me/app:v2")
    assert entries(tmp_path / "one") == [
        {FULL_NAME: APP, REF_NAME: "v1"},
        {FULL_NAME: "docker.io/me/app:v2", REF_NAME: "v2"},
    ]
    # A tag that two names share would name both: then the whole name is the reference.
    write(tmp_path / "two", APP, "docker.io/me/app:v1")
    assert [notes[REF_NAME] for notes in entries(tmp_path / "two")] == [APP, "docker.io/me/app:v1"]
    write(tmp_path / "none")
    assert entries(tmp_path / "none") == [{}]


@pytest.mark.parametrize("name", ["", "v1", APP, "latest"])
def test_an_image_answers_to_its_names(tmp_path: Path, name: str) -> None:
    root = write(tmp_path / "out", APP)
    assert OciLayout(tmp_path / "out").resolve(name) == root


def test_an_image_answers_to_its_digest_listed_or_not(tmp_path: Path) -> None:
    root = write(tmp_path / "out", APP)
    other = write(tmp_path / "other", layers=(b"other",))
    os.rename(blob_path(tmp_path / "other", other), blob_path(tmp_path / "out", other))
    layout = OciLayout(tmp_path / "out")
    assert layout.resolve(root.digest) == root
    assert layout.resolve(other.digest) == other
    with pytest.raises(ImageError):
        layout.resolve("sha256:" + "0" * 64)


def test_what_is_not_there_or_not_clear_tells_what_is(tmp_path: Path) -> None:
    write(tmp_path / "out", APP)
    write(tmp_path / "out", "docker.io/me/b:v2", layers=(b"b",))
    layout = OciLayout(tmp_path / "out")
    for name in ("", "v3", "latest"):
        with pytest.raises(ImageError) as caught:
            layout.resolve(name)
        assert caught.value.hint == "it has: v1, v2"


def test_a_layout_is_added_to_and_a_name_moves(tmp_path: Path) -> None:
    write(tmp_path / "out", APP)
    root = write(tmp_path / "out", APP, layers=(b"new",))
    assert OciLayout(tmp_path / "out").resolve("v1") == root
    assert len(entries(tmp_path / "out")) == 1
    write(tmp_path / "out", APP, layers=(b"new",))
    assert len(entries(tmp_path / "out")) == 1
    assert validate.layout(tmp_path / "out") == []


def test_a_failure_leaves_no_new_layout(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_layout(tmp_path / "out") as layout:
        layout.put(*_blob(b"data"))
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_an_existing_layout_as_it_was_listed(tmp_path: Path) -> None:
    write(tmp_path / "out", APP)
    before = (tmp_path / "out" / "index.json").read_bytes()
    with pytest.raises(RuntimeError), new_layout(tmp_path / "out") as layout:
        layout.put(*_blob(b"data"))
        raise RuntimeError
    assert (tmp_path / "out" / "index.json").read_bytes() == before
    assert validate.layout(tmp_path / "out") == []


def _blob(data: bytes) -> tuple[Descriptor, object]:
    descriptor = MemoryStore().add("a/b", data)
    return descriptor, lambda: io.BytesIO(data)


def test_a_directory_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(UsageError, match=r"it has thesis\.txt"), new_layout(tmp_path):
        pass
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_what_is_no_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no complete OCI layout"):
        OciLayout(tmp_path)
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
    with pytest.raises(ImageError, match="unknown version"):
        OciLayout(tmp_path)
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    with pytest.raises(ImageError, match=r"no index\.json"):
        OciLayout(tmp_path).resolve("x")
    (tmp_path / "index.json").write_text('{"manifests":[7]}')
    with pytest.raises(ImageError):
        OciLayout(tmp_path).resolve("x")


class TestHostileLayouts:
    def test_links_are_refused_wherever_they_are(self, tmp_path: Path) -> None:
        for number, part in enumerate(("blobs", "blobs/sha256", "index.json", "file")):
            out = tmp_path / str(number)
            root = write(out, APP)
            where = blob_path(out, root) if part == "file" else out / part
            os.rename(where, tmp_path / f"away{number}")
            where.symlink_to(tmp_path / f"away{number}")
            with pytest.raises(ImageError, match="symbolic link"):
                OciLayout(out).open(OciLayout(out).resolve("v1")).close()

    def test_what_is_no_file_is_refused_without_waiting(self, tmp_path: Path) -> None:
        root = write(tmp_path / "out", APP)
        where = blob_path(tmp_path / "out", root)
        where.unlink()
        os.mkfifo(where)
        with pytest.raises(ImageError, match="not a plain file"):
            OciLayout(tmp_path / "out").open(root)
        where.unlink()
        where.mkdir()
        with pytest.raises((ImageError, StoreError)):
            OciLayout(tmp_path / "out").open(root)

    def test_other_content_is_found(self, tmp_path: Path) -> None:
        root = write(tmp_path / "out", APP)
        where = blob_path(tmp_path / "out", root)
        where.write_bytes(where.read_bytes()[:-1] + b" ")
        with (
            pytest.raises(DigestMismatchError),
            OciLayout(tmp_path / "out").open(root) as stream,
        ):
            stream.read()
        # It is not ours to remove.
        assert where.exists()

    def test_a_huge_manifest_is_not_read(self, tmp_path: Path) -> None:
        root = write(tmp_path / "out")
        os.truncate(blob_path(tmp_path / "out", root), 1 << 40)
        index = tmp_path / "out" / "index.json"
        index.write_text('{"manifests":[]}')
        with pytest.raises(ImageError, match="too large"):
            OciLayout(tmp_path / "out").resolve(root.digest)
        os.truncate(index, 1 << 40)
        with pytest.raises(ImageError, match="larger"):
            OciLayout(tmp_path / "out").resolve("x")

    def test_an_entry_of_a_wrong_size_is_found(self, tmp_path: Path) -> None:
        root = write(tmp_path / "out")
        wrong = Descriptor(media_types.OCI_MANIFEST, root.digest, root.size - 1)
        with (
            pytest.raises(DigestMismatchError),
            OciLayout(tmp_path / "out").open(wrong) as stream,
        ):
            stream.read()


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        ("", ""),
        (":v1", "v1"),
        (":docker.io/library/app:v1", "docker.io/library/app:v1"),
        ("@sha256:" + "a" * 64, "sha256:" + "a" * 64),
        (":v1@sha256:" + "a" * 64, "sha256:" + "a" * 64),
    ],
)
@pytest.mark.parametrize("folder", ["plain", "with:colon", "with@at"])
def test_locations_are_split(tmp_path: Path, folder: str, suffix: str, name: str) -> None:
    (tmp_path / folder).mkdir()
    found = split_location(f"oci-layout://{tmp_path}/{folder}{suffix}")
    assert found == (tmp_path / folder, name)


@pytest.mark.parametrize("rest", ["nowhere", "nowhere:v1", "nowhere@sha256:abc"])
def test_a_location_that_is_nowhere_is_an_error(tmp_path: Path, rest: str) -> None:
    with pytest.raises((UsageError, ImageError)):
        split_location(f"oci-layout://{tmp_path}/{rest}")
