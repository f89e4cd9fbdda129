"""FROM's images: --build-context, the store, and the registry through a callback."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from imgbuild.build.bases import Bases, Lookup
from imgbuild.build.platforms import host_platform
from imgbuild.errors import (
    DigestMismatchError,
    ImageError,
    UnreachableError,
    UsageError,
)
from imgbuild.oci import media_types
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.manifest import Index, dump_manifest
from imgbuild.oci.platform import Platform
from imgbuild.oci.reference import Reference
from imgbuild.store.layout import OciLayout
from imgbuild.store.store import Store
from imgbuild.transfer import copy_image
from tests.unit.build.building import build, config, names, no_pull

HOST = host_platform()
OTHER = Platform("linux", "s390x" if HOST.architecture != "s390x" else "amd64")


def bases(store: Store, contexts: Mapping[str, str] | None = None, **more: object) -> Bases:
    lookup = Lookup(store, contexts or {}, no_pull, lambda _e: None, "/usr/bin:/bin")
    return Bases(lookup._replace(**more))


@pytest.fixture
def image(store: Store, context: Path) -> Descriptor:
    """A small image in the store, unnamed."""
    (context / "f").write_text("F")
    return build(store, context, "FROM scratch\nCOPY f /f\nENV FROM_BASE=1\n", clamp=0).descriptor


@pytest.fixture
def layout(tmp_path: Path, store: Store, image: Descriptor) -> Path:
    path = tmp_path / "layout"
    out = OciLayout(path, create=True)
    copy_image(store.blobs, out, image)
    out.tag("docker.io/library/thing:v1", image)
    out.close()
    return path


@pytest.fixture
def other_store(tmp_path: Path) -> "Store":
    return Store.open(tmp_path / "other")


@pytest.mark.parametrize("suffix", ["", ":v1", "@DIGEST"])
def test_a_layout_is_copied_once(
    layout: Path, image: Descriptor, tmp_path: Path, suffix: str
) -> None:
    with Store.open(tmp_path / "other") as store:
        where = f"oci-layout://{layout}{suffix.replace('DIGEST', image.digest)}"
        found = bases(store, {"base": where})
        resolved = found.resolve("base", HOST)
        assert resolved.digest == image.digest
        assert dict(resolved.config.run.env)["FROM_BASE"] == "1"
        assert found.fresh == {"base"}
        again = bases(store, {"base": where})
        assert again.resolve("base", HOST) == resolved
        assert again.fresh == set()


def test_a_build_on_a_layout(layout: Path, context: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other") as store, store.build_lock():
        text = "FROM base\nCOPY f /g\nCOPY --from=base /f /h\n"
        built = build(store, context, text, contexts={"base": f"oci-layout://{layout}"}, clamp=0)
        assert names(store, built, 0) == ["f"]
        assert names(store, built, 2) == ["h"]
        history = [h["created_by"] for h in config(store, built)["history"]]
        assert history[:2] == ["COPY f /f # buildkit", "ENV FROM_BASE=1"]


def test_a_layout_that_lacks_what_is_asked(layout: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other") as store:
        with pytest.raises(ImageError, match="v9"):
            bases(store, {"base": f"oci-layout://{layout}:v9"}).resolve("base", HOST)
        with pytest.raises(UsageError, match="no such OCI layout"):
            bases(store, {"base": f"oci-layout://{tmp_path}/none"}).resolve("base", HOST)


def test_a_damaged_layout_stores_nothing(layout: Path, image: Descriptor, tmp_path: Path) -> None:
    manifest = json.loads((layout / "blobs/sha256" / image.digest.encoded).read_bytes())
    layer = layout / "blobs/sha256" / manifest["layers"][0]["digest"].removeprefix("sha256:")
    data = bytearray(layer.read_bytes())
    data[-1] ^= 1
    layer.write_bytes(data)
    with Store.open(tmp_path / "other") as store:
        with pytest.raises(DigestMismatchError):
            bases(store, {"base": f"oci-layout://{layout}"}).resolve("base", HOST)
        store.blobs.flush()
        assert not store.blobs.exists(image)
        assert not (store.paths.blobs / "sha256" / layer.name).exists()


def test_a_layer_that_is_not_what_the_config_says(
    store: Store, image: Descriptor, context: Path
) -> None:
    """Every digest of the manifest holds, but the layer unpacks to something else."""
    manifest = json.loads(store.blobs.read(image.digest))
    old = manifest["layers"][0]
    with store.blobs.open(replace(image, digest=_digest(old), size=old["size"])) as stream:
        tar = gzip.decompress(stream.read())
    forged = gzip.compress(tar.replace(b"F\0\0", b"G\0\0", 1))
    descriptor = store.blobs.add(old["mediaType"], forged)
    manifest["layers"][0] |= {"digest": descriptor.digest, "size": descriptor.size}
    root = store.blobs.add(image.media_type, json.dumps(manifest).encode())
    store.names.tag("docker.io/library/forged:latest", root)
    index = json.loads(store.blobs.read(_digest(manifest["config"])))["rootfs"]["diff_ids"][0]
    store.blobs.flush()
    store.paths.index(_digest({"digest": index})).unlink()
    with pytest.raises(DigestMismatchError, match="config says") as caught:
        build(store, context, "FROM forged\nCOPY f /x\n")
    assert caught.value.span is not None
    assert not store.blobs.has_index(_digest({"digest": index}))


def _digest(item: Mapping[str, str]) -> "object":
    from imgbuild.oci.digest import parse_digest

    return parse_digest(item["digest"])


def test_the_store_is_asked_before_the_registry(store: Store, image: Descriptor) -> None:
    store.names.tag("docker.io/library/debian:12", image)
    assert bases(store).resolve("debian:12", HOST).digest == image.digest
    with pytest.raises(UnreachableError):
        bases(store).resolve("debian:13", HOST)
    with pytest.raises(UnreachableError):
        bases(store, always_pull=True).resolve("debian:12", HOST)
    assert bases(store).resolve(f"debian@{image.digest}", HOST).digest == image.digest


def test_an_image_for_another_platform_is_pulled(store: Store, image: Descriptor) -> None:
    store.names.tag("docker.io/library/debian:12", image)
    said = []
    with pytest.raises(UnreachableError):
        bases(store, events=said.append).resolve("debian:12", OTHER)
    assert "pulling for" in said[0].message


def test_what_was_pulled_is_named(store: Store, image: Descriptor) -> None:
    asked: list[tuple[Reference, Platform]] = []

    def pull(reference: Reference, platform: Platform) -> Descriptor:
        asked.append((reference, platform))
        return image

    found = bases(store, pull=pull)
    assert found.resolve("debian", HOST) == found.resolve("debian", HOST)
    assert [(str(r), p) for r, p in asked] == [("docker.io/library/debian:latest", HOST)]
    assert found.fresh == {"debian"}
    assert store.names.resolve("docker.io/library/debian:latest").digest == image.digest


def test_images_for_several_platforms_live_under_one_name(
    store: Store, image: Descriptor, context: Path
) -> None:
    """As `FROM --platform=$BUILDPLATFORM x` and `FROM x` in one Dockerfile ask for."""
    foreign = build(store, context, "FROM scratch\nCOPY f /f\n", platform=OTHER).descriptor
    images = {HOST: image, OTHER: foreign}
    pulled: list[Platform] = []

    def pull(_reference: Reference, platform: Platform) -> Descriptor:
        pulled.append(platform)
        return images[platform]

    for _ in range(2):
        for platform in (OTHER, HOST):
            found = bases(store, pull=pull).resolve("debian", platform)
            assert found.digest == images[platform].digest
            assert found.config.platform.matches(platform)
    assert pulled == [OTHER, HOST]
    # The name is for what runs here.
    assert store.names.resolve("docker.io/library/debian:latest").digest == image.digest
    bases(store, pull=pull, always_pull=True).resolve("debian", OTHER)
    assert store.names.resolve("docker.io/library/debian:latest").digest == image.digest


def test_what_is_made_on_the_build_platform_is_shared_by_all_targets(
    store: Store, image: Descriptor, context: Path
) -> None:
    foreign = build(store, context, "FROM scratch\nCOPY f /f\n", platform=OTHER).descriptor
    images = {HOST: image, OTHER: foreign}
    text = """\
FROM --platform=$BUILDPLATFORM base AS tools
COPY f /g
FROM base
COPY --from=tools /g /
"""
    verdicts = []
    for platform in (HOST, OTHER):
        built = build(store, context, text, platform=platform, pull=lambda _r, p: images[p])
        verdicts.append([step.verdict for step in built.steps if step.layer])
    assert verdicts == [["done", "done"], ["cached", "done"]]


@pytest.mark.parametrize("name", ["debian@{}", "debian:12@{}"])
def test_what_was_pulled_by_digest_is_asked_for_once_and_moves_no_tag(
    store: Store, image: Descriptor, name: str
) -> None:
    """The digest is often that of an index, of which the store keeps one image only."""
    text = name.format("sha256:" + "ab" * 32)
    assert bases(store, pull=lambda *_: image).resolve(text, HOST).digest == image.digest
    for always in (False, True):
        again = bases(store, always_pull=always)
        assert again.resolve(text, HOST).digest == image.digest
        assert again.fresh == set()
    with pytest.raises(UnreachableError):
        bases(store).resolve("debian:12", HOST)


@pytest.mark.parametrize("name", ["debian", "debian:latest", "docker.io/library/debian"])
def test_docker_image_contexts_and_names_spelt_another_way(
    store: Store, image: Descriptor, context: Path, name: str
) -> None:
    store.names.tag("docker.io/library/mine:1", image)
    contexts = {"debian": "docker-image://mine:1", "none": "docker-image://scratch"}
    built = build(store, context, f"FROM {name}\nLABEL a=b\n", contexts=contexts)
    assert dict(built.config.run.env)["FROM_BASE"] == "1"
    assert bases(store, contexts).resolve("none", HOST).layers == ()


def test_an_index_gives_the_platform(store: Store, image: Descriptor) -> None:
    index = Index(media_types.OCI_INDEX, (replace(image, platform=HOST),))
    root = store.blobs.add(media_types.OCI_INDEX, dump_manifest(index))
    store.names.tag("docker.io/library/multi:latest", root)
    assert bases(store).resolve("multi", HOST).digest == image.digest
    with pytest.raises(ImageError, match="no match for platform"):
        bases(store).resolve("multi", OTHER)


def test_manifests_and_configs_that_disagree(store: Store, image: Descriptor) -> None:
    manifest = json.loads(store.blobs.read(image.digest))
    manifest["layers"] *= 2
    root = store.blobs.add(image.media_type, json.dumps(manifest).encode())
    store.names.tag("docker.io/library/odd:latest", root)
    with pytest.raises(ImageError, match="2 layers, but the config names 1"):
        bases(store).resolve("odd", HOST)
