"""The checker of the other tests is itself checked: each damage has to be found."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbuild.store.layout import new_layout
from imgbuild.transfer import copy_image
from tests.support import validate
from tests.support.memory import MemoryStore, add_image

needs_schemas = pytest.mark.skipif(
    validate.schemas_dir() is None, reason="the OCI schemas are not here (IMGBUILD_SCHEMAS)"
)


class Damage:
    """A layout whose documents can be changed and put together again."""

    def __init__(self, path: Path) -> None:
        source = MemoryStore()
        root = add_image(source)
        with new_layout(path) as layout:
            copy_image(source, layout, root)
            layout.tag("docker.io/library/app:v1", root)
        self.path = path
        self.index = self.load("index.json")
        self.entry = self.index["manifests"][0]
        self.manifest = self.blob(self.entry["digest"])
        self.config = self.blob(self.manifest["config"]["digest"])

    def load(self, name: str) -> Any:
        return json.loads((self.path / name).read_bytes())

    def file(self, digest: str) -> Path:
        return self.path / "blobs" / digest.replace(":", "/")

    def blob(self, digest: str) -> Any:
        return json.loads(self.file(digest).read_bytes())

    def put(self, descriptor: dict[str, Any], data: bytes) -> None:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.file(digest).write_bytes(data)
        descriptor.update(digest=digest, size=len(data))

    def layer(self) -> Path:
        return self.file(self.manifest["layers"][0]["digest"])

    def new_layer(self, tar: bytes) -> None:
        self.put(self.manifest["layers"][0], gzip.compress(tar, mtime=0))
        self.config["rootfs"]["diff_ids"][0] = "sha256:" + hashlib.sha256(tar).hexdigest()

    def rebuild(self) -> None:
        self.put(self.manifest["config"], json.dumps(self.config).encode())
        self.put(self.entry, json.dumps(self.manifest).encode())
        (self.path / "index.json").write_text(json.dumps(self.index))


def wrong_diff_id(d: Damage) -> None:
    d.config["rootfs"]["diff_ids"][0] = "sha256:" + "0" * 64


def wrong_size(d: Damage) -> None:
    d.manifest["layers"][0]["size"] += 1


def flipped_byte(d: Damage) -> None:
    data = bytearray(d.layer().read_bytes())
    data[len(data) // 2] ^= 1
    d.layer().write_bytes(data)


def missing_layer(d: Damage) -> None:
    d.layer().unlink()


def linked_layer(d: Damage) -> None:
    d.layer().rename(d.path / "elsewhere")
    d.layer().symlink_to(d.path / "elsewhere")


def cut_gzip(d: Damage) -> None:
    d.put(d.manifest["layers"][0], d.layer().read_bytes()[:-6])


def wrong_layer_type(d: Damage) -> None:
    d.manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar"


def wrong_manifest_type(d: Damage) -> None:
    d.manifest["mediaType"] = "application/vnd.oci.image.index.v1+json"


def too_much_history(d: Damage) -> None:
    d.config["history"].append({"created_by": "RUN more"})


def missing_diff_id(d: Damage) -> None:
    d.config["rootfs"]["diff_ids"].pop()


def bad_created(d: Damage) -> None:
    d.config["created"] = "yesterday"


def empty_annotation(d: Damage) -> None:
    d.entry["annotations"]["base"] = ""


def other_platform(d: Damage) -> None:
    d.entry["platform"] = {"os": "linux", "architecture": "arm64"}


def escaping_member(d: Damage) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../escape"))
    d.new_layer(out.getvalue())


def repeated_member(d: Damage) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("twice"))
        tar.addfile(tarfile.TarInfo("twice"))
    d.new_layer(out.getvalue())


def no_architecture(d: Damage) -> None:
    del d.config["architecture"]


def env_is_text(d: Damage) -> None:
    d.config["config"]["Env"] = "A=b"


def annotation_is_number(d: Damage) -> None:
    d.manifest["annotations"] = {"a": 1}


ALWAYS = [
    wrong_diff_id,
    wrong_size,
    flipped_byte,
    missing_layer,
    linked_layer,
    cut_gzip,
    wrong_layer_type,
    wrong_manifest_type,
    too_much_history,
    missing_diff_id,
    bad_created,
    empty_annotation,
    other_platform,
    escaping_member,
    repeated_member,
]
BY_SCHEMA = [no_architecture, env_is_text, annotation_is_number]


def test_a_good_image_has_no_problems(tmp_path: Path) -> None:
    damage = Damage(tmp_path / "layout")
    assert validate.layout(damage.path) == []
    for which in (None, "v1", "app:v1", "docker.io/library/app:v1", damage.entry["digest"]):
        assert validate.image(damage.path, which) == []


def test_an_unknown_name_is_a_problem(tmp_path: Path) -> None:
    assert validate.image(Damage(tmp_path / "layout").path, "other") != []


@pytest.mark.parametrize("harm", ALWAYS, ids=lambda harm: harm.__name__)
def test_damage_is_found(tmp_path: Path, harm: Callable[[Damage], None]) -> None:
    damage = Damage(tmp_path / "layout")
    harm(damage)
    damage.rebuild()
    assert validate.image(damage.path) != []


@needs_schemas
@pytest.mark.parametrize("harm", BY_SCHEMA, ids=lambda harm: harm.__name__)
def test_what_the_schemas_forbid_is_found(tmp_path: Path, harm: Callable[[Damage], None]) -> None:
    damage = Damage(tmp_path / "layout")
    harm(damage)
    damage.rebuild()
    assert any("schema" in problem for problem in validate.image(damage.path))


def test_a_wrong_layout_version_is_found(tmp_path: Path) -> None:
    damage = Damage(tmp_path / "layout")
    (damage.path / "oci-layout").write_text('{"imageLayoutVersion": "9.9.9"}')
    assert validate.layout(damage.path) != []
