"""Manifests and indexes, read and written; unknown fields are kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imgbuild.errors import ImageError
from imgbuild.oci import media_types
from imgbuild.oci.codec import (
    descriptor_from_json,
    descriptor_to_json,
    dump_indented,
    expect,
    load_object,
    optional,
    rest,
    string_map,
)
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.platform import Platform

_MANIFEST_FIELDS = frozenset({"schemaVersion", "mediaType", "config", "layers", "annotations"})
_INDEX_FIELDS = frozenset({"schemaVersion", "mediaType", "manifests", "annotations"})
_REFERENCE_TYPE = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform (image-spec manifest.md)."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def children(self) -> tuple[Descriptor, ...]:
        return (self.config, *self.layers)


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests (image-spec image-index.md)."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def children(self) -> tuple[Descriptor, ...]:
        return self.manifests


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """Read a manifest or an index.

    `media_type` is what the descriptor or the server said; a document that says otherwise is
    refused, since a document read two ways is an attack (image-spec manifest.md, mediaType).
    """
    document = load_object(data, "manifest")
    own = optional(document.get("mediaType"), str, "manifest mediaType", "")
    if own and media_type and own != media_type:
        raise ImageError(f"manifest says it is {own} but was served as {media_type}")
    kind = own or media_type or _guess(document)
    if kind in media_types.SCHEMA1 or document.get("schemaVersion") == 1:
        raise ImageError(
            "the image has a docker schema 1 manifest, which was withdrawn in 2020",
            hint="push the image again with a current tool",
        )
    if kind in media_types.INDEXES:
        if "layers" in document or "config" in document:
            raise ImageError("an image index may not have layers or a config")
        listed = expect(document.get("manifests"), list, "index manifests")
        return Index(
            kind,
            tuple(descriptor_from_json(item, "index entry") for item in listed),
            string_map(document.get("annotations"), "index annotations"),
            rest(document, _INDEX_FIELDS),
        )
    if kind in media_types.MANIFESTS:
        if "manifests" in document:
            raise ImageError("an image manifest may not list manifests")
        layers = optional(document.get("layers"), list, "manifest layers", [])
        return Manifest(
            kind,
            descriptor_from_json(document.get("config"), "manifest config"),
            tuple(descriptor_from_json(item, "manifest layer") for item in layers),
            string_map(document.get("annotations"), "manifest annotations"),
            rest(document, _MANIFEST_FIELDS),
        )
    raise ImageError(f"unsupported manifest type: {kind or 'none given'}")


def _guess(document: Mapping[str, Any]) -> str:
    if "manifests" in document:
        return media_types.OCI_INDEX
    return media_types.OCI_MANIFEST if "layers" in document else ""


def dump_manifest(manifest: Manifest | Index) -> bytes:
    """Write a manifest or index, indented by two as BuildKit does."""
    out: dict[str, Any] = {"schemaVersion": 2, "mediaType": manifest.media_type}
    match manifest:
        case Manifest():
            out["config"] = descriptor_to_json(manifest.config)
            out["layers"] = [descriptor_to_json(layer) for layer in manifest.layers]
        case Index():
            out["manifests"] = [descriptor_to_json(item) for item in manifest.manifests]
    out.update(manifest.extra)
    if manifest.annotations:
        out["annotations"] = dict(manifest.annotations)
    return dump_indented(out)


def select_platform(index: Index, wanted: Platform) -> Descriptor:
    """Return the entry for `wanted`: an exact match first, else the best compatible variant.

    Entries of unknown platform and attestations are passed over. Raises `ImageError` that
    lists what the index offers.
    """
    usable = [
        item
        for item in index.manifests
        if _REFERENCE_TYPE not in item.annotations
        and item.media_type in media_types.MANIFESTS | media_types.INDEXES
        and (item.platform is None or item.platform.os != "unknown")
    ]
    matching = [item for item in usable if item.platform and item.platform.matches(wanted)]
    if matching:
        want = wanted.normalised()
        exact = [
            i for i in matching if i.platform and i.platform.normalised().variant == want.variant
        ]
        if exact:
            return exact[0]
        return max(matching, key=lambda i: i.platform.normalised().variant if i.platform else "")
    if len(usable) == 1 and usable[0].platform is None:
        return usable[0]
    offered = ", ".join(sorted({str(i.platform) for i in usable if i.platform})) or "nothing"
    raise ImageError(
        f"no match for platform {wanted} in the image index", hint=f"it offers: {offered}"
    )
