"""Configs and manifests of real BuildKit builds, read and written again: same bytes, so same digest."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbuild.oci.codec import dump_indented
from imgbuild.oci.config import check_history, dump_config, parse_config
from imgbuild.oci.digest import digest_bytes
from imgbuild.oci.manifest import dump_manifest, parse_manifest

_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "vectors"
GOLDEN = Path(os.environ.get("IMGBUILD_VECTORS") or _DEFAULT) / "golden"


def images(value: object) -> Iterator[dict[str, Any]]:
    """Find what has a manifest and an image config, at any depth."""
    if isinstance(value, dict):
        config = value.get("config")
        if "manifest" in value and isinstance(config, dict) and "rootfs" in config:
            yield value
        for inner in value.values():
            yield from images(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from images(inner)


def cases() -> list[Any]:
    found = [
        pytest.param(image, id=f"{path.stem}-{number}")
        for path in sorted(GOLDEN.glob("*.json"))
        for number, image in enumerate(images(json.loads(path.read_text())))
    ]
    skip = pytest.mark.skip(reason=f"the vectors are not here: {GOLDEN}")
    return found or [pytest.param(None, marks=skip)]


@pytest.mark.parametrize("image", cases())
def test_configs_come_back_byte_for_byte(image: dict[str, Any]) -> None:
    config = parse_config(json.dumps(image["config"]).encode())
    check_history(config)
    written = dump_config(config)
    if config.created is None and not config.history:
        pytest.skip("cannot apply: BuildKit writes null for what an empty image lacks")
    assert len(written) == image["manifest"]["config"]["size"]
    assert digest_bytes(written) == image["manifest"]["config"]["digest"]


@pytest.mark.parametrize("image", cases())
def test_manifests_come_back_as_they_were(image: dict[str, Any]) -> None:
    # BuildKit writes null for no layers, which the schema of the image-spec forbids.
    data = dump_indented({**image["manifest"], "layers": image["manifest"]["layers"] or []})
    assert dump_manifest(parse_manifest(dump_indented(image["manifest"]))) == data
