import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.errors import ImageError, ImgbuildError
from imgbuild.oci import media_types
from imgbuild.oci.codec import MAX_DOCUMENT
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import digest_bytes
from imgbuild.oci.manifest import (
    Index,
    Manifest,
    dump_manifest,
    parse_manifest,
    select_platform,
)
from imgbuild.oci.platform import Platform

DIGEST = str(digest_bytes(b""))
CONFIG = {"mediaType": media_types.OCI_CONFIG, "digest": DIGEST, "size": 0}
LAYER = {"mediaType": media_types.OCI_LAYER_GZIP, "digest": DIGEST, "size": 0}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": media_types.OCI_MANIFEST,
    "config": CONFIG,
    "layers": [LAYER],
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": media_types.OCI_INDEX,
    "manifests": [{**CONFIG, "mediaType": media_types.OCI_MANIFEST}],
}


def encode(document: object) -> bytes:
    return json.dumps(document).encode()


def test_unknown_fields_survive() -> None:
    document = {
        **MANIFEST,
        "artifactType": "application/x",
        "config": {**CONFIG, "data": "", "urls": ["https://example.com"]},
        "annotations": {"a": "b"},
    }
    again = json.loads(dump_manifest(parse_manifest(encode(document))))
    assert again == document


def test_an_index_survives() -> None:
    entry = {
        **INDEX["manifests"][0],
        "platform": {
            "architecture": "arm",
            "os": "linux",
            "os.version": "1",
            "os.features": ["a"],
            "variant": "v7",
        },
    }
    document = {**INDEX, "manifests": [entry], "subject": LAYER}
    assert json.loads(dump_manifest(parse_manifest(encode(document)))) == document


def test_bytes_are_as_buildkit_writes_them() -> None:
    text = dump_manifest(parse_manifest(encode(MANIFEST))).decode()
    assert text.startswith('{\n  "schemaVersion": 2,\n  "mediaType": "application/vnd.oci')
    assert text.endswith("\n  ]\n}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"manifests": []}, "may not list manifests"),
        ({"config": None}, "manifest config"),
        ({"layers": {}}, "manifest layers"),
        ({"layers": [{**LAYER, "size": -1}]}, "negative"),
        ({"layers": [{**LAYER, "size": True}]}, "wrong type"),
        ({"layers": [{**LAYER, "size": "1"}]}, "wrong type"),
        ({"layers": [{**LAYER, "digest": "sha256:../x"}]}, "invalid digest"),
        ({"annotations": {"a": 1}}, "annotations"),
        ({"mediaType": "text/html"}, "unsupported"),
        ({"mediaType": 7}, "mediaType"),
        ({"mediaType": media_types.DOCKER_SCHEMA1}, "schema 1"),
        ({"mediaType": None, "schemaVersion": 1}, "schema 1"),
    ],
)
def test_malformed_manifests_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        parse_manifest(encode({**MANIFEST, **change}))


def test_a_document_that_can_be_read_two_ways_is_refused() -> None:
    with pytest.raises(ImageError, match="served as"):
        parse_manifest(encode(MANIFEST), media_types.OCI_INDEX)
    for key in ("layers", "config"):
        with pytest.raises(ImageError, match="may not have"):
            parse_manifest(encode({**INDEX, key: []}))


def test_without_a_media_type_the_shape_decides() -> None:
    bare = {key: value for key, value in MANIFEST.items() if key != "mediaType"}
    assert isinstance(parse_manifest(encode(bare)), Manifest)
    assert isinstance(parse_manifest(encode({"manifests": []})), Index)
    with pytest.raises(ImageError, match="none given"):
        parse_manifest(b"{}")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100000, b'{"a":' * 100000],
    ids=["empty", "list", "null", "cut", "binary", "deep", "deeper"],
)
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        parse_manifest(data)


def test_a_huge_document_is_refused() -> None:
    with pytest.raises(ImageError, match="larger"):
        parse_manifest(b" " * (MAX_DOCUMENT + 1))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["mediaType", "digest", "size", "config", "layers", "manifests", "platform"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_json_is_a_manifest_or_an_error_of_ours(document: object) -> None:
    try:
        parse_manifest(encode(document), media_types.OCI_MANIFEST)
    except ImgbuildError:
        return


def entry(platform: Platform | None, content: bytes, **annotations: str) -> Descriptor:
    return Descriptor(
        media_types.OCI_MANIFEST, digest_bytes(content), 1, platform, dict(annotations)
    )


def index_of(*entries: Descriptor) -> Index:
    return Index(media_types.OCI_INDEX, entries)


AMD = entry(Platform("linux", "amd64"), b"amd")
ARM6 = entry(Platform("linux", "arm", "v6"), b"6")
ARM7 = entry(Platform("linux", "arm", "v7"), b"7")
UNKNOWN = Descriptor(
    media_types.OCI_MANIFEST,
    digest_bytes(b"attestation"),
    1,
    Platform("unknown", "unknown"),
    {"vnd.docker.reference.type": "attestation-manifest"},
)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (Platform("linux", "amd64"), AMD),
        (Platform("linux", "arm", "v7"), ARM7),
        (Platform("linux", "arm", "v6"), ARM6),
        (Platform("linux", "arm", "v8"), ARM7),
        (Platform("linux", "arm"), ARM7),
    ],
)
def test_the_best_platform_is_chosen(wanted: Platform, chosen: Descriptor) -> None:
    assert select_platform(index_of(UNKNOWN, ARM6, ARM7, AMD), wanted) == chosen


def test_what_is_offered_is_told() -> None:
    with pytest.raises(ImageError, match="no match for platform linux/s390x") as caught:
        select_platform(index_of(AMD, ARM6, UNKNOWN), Platform("linux", "s390x"))
    assert caught.value.hint == "it offers: linux/amd64, linux/arm/v6"


def test_a_single_entry_without_platform_is_taken() -> None:
    lone = entry(None, b"lone")
    assert select_platform(index_of(lone, UNKNOWN), Platform("linux", "amd64")) == lone
