"""The last station: plan and layers -> config and manifest, with BuildKit's times and key order."""

import time
from collections.abc import Sequence
from dataclasses import replace

from imgbuild.oci import media_types
from imgbuild.oci.config import HistoryEntry, ImageConfig, dump_config
from imgbuild.oci.descriptor import Descriptor, Layer
from imgbuild.oci.manifest import Manifest, dump_manifest
from imgbuild.plan.model import Stage
from imgbuild.store.blobs import BlobStore

COMMENT = "buildkit.dockerfile.v0"
# An OCI manifest names layers by OCI media types; the bytes are the same.
_OCI_TYPES = {
    media_types.DOCKER_LAYER: media_types.OCI_LAYER,
    media_types.DOCKER_LAYER_GZIP: media_types.OCI_LAYER_GZIP,
    media_types.DOCKER_LAYER_ZSTD: media_types.OCI_LAYER_ZSTD,
}


def timestamp(clamp: int | None) -> str:
    """Return when something was made, RFC 3339: the clamp where there is one, else now."""
    now = time.time_ns() if clamp is None else clamp * 1_000_000_000
    seconds, nanoseconds = divmod(now, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{text}{fraction}Z"


def history_entry(created_by: str, created: str | None, *, empty: bool) -> HistoryEntry:
    """Return the line of one instruction; `created` is None for what made no layer."""
    return HistoryEntry(created, created_by, comment=COMMENT, empty_layer=empty)


def fill_times(history: Sequence[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """Give entries without a time one: the first new layer's, later the layer's before them.

    Source: BuildKit exporter/containerimage/writer.go, normalizeLayersAndHistory.
    """
    missing = next((i for i, entry in enumerate(history) if not entry.created), len(history))
    before = [entry.created for entry in history[:missing]]
    after = [entry.created for entry in history[missing:] if entry.created]
    created = (after or before[-1:] or [None])[0]
    out = list(history[:missing])
    for entry in history[missing:]:
        if entry.created:
            created = entry.created
            out.append(entry)
        else:
            out.append(replace(entry, created=created))
    return tuple(out)


def write_image(
    blobs: BlobStore,
    stage: Stage,
    layers: Sequence[Layer],
    history: Sequence[HistoryEntry],
    clamp: int | None,
) -> tuple[Descriptor, ImageConfig]:
    """Write config and manifest of a finished stage; return the manifest's descriptor."""
    if clamp is not None:
        history = [
            replace(entry, created=timestamp(clamp)) if not entry.created else entry
            for entry in history
        ]
    filled = fill_times(history)
    config = replace(
        stage.config,
        diff_ids=tuple(layer.diff_id for layer in layers),
        history=filled,
        created=filled[-1].created if filled else None,
    )
    config_descriptor = blobs.add(media_types.OCI_CONFIG, dump_config(config))
    manifest = Manifest(
        media_types.OCI_MANIFEST,
        config_descriptor,
        tuple(_oci_layer(layer.descriptor) for layer in layers),
    )
    descriptor = blobs.add(media_types.OCI_MANIFEST, dump_manifest(manifest))
    return replace(descriptor, platform=config.platform), config


def _oci_layer(descriptor: Descriptor) -> Descriptor:
    media_type = _OCI_TYPES.get(descriptor.media_type, descriptor.media_type)
    return Descriptor(media_type, descriptor.digest, descriptor.size)
