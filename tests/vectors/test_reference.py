"""References and platforms against what docker's and containerd's own libraries answered."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from imgbuild.errors import ImgbuildError
from imgbuild.oci.platform import Platform, parse_platform
from imgbuild.oci.reference import parse_reference

_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "vectors"
VECTORS = Path(os.environ.get("IMGBUILD_VECTORS") or _DEFAULT)
HOST = Platform("linux", "amd64")


def load(name: str) -> list[Any]:
    path = VECTORS / name
    if not path.exists():
        reason = f"the vectors are not here: {path}"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    return [
        pytest.param(case, id=repr(case["input"])[:60]) for case in json.loads(path.read_text())
    ]


@pytest.mark.parametrize("case", load("reference/references.json"))
def test_references(case: dict[str, Any]) -> None:
    if case["error"]:
        with pytest.raises(ImgbuildError):
            parse_reference(case["input"])
        return
    found = parse_reference(case["input"])
    assert (found.domain, found.path) == (case["domain"], case["path"])
    assert str(found) == case["tag_name_only"]
    assert found.digest == case.get("digest")
    if case.get("tag") or case.get("digest"):
        assert found.tag == case.get("tag", "")
        assert found.familiar == case["familiar"]
    else:
        assert found.familiar == case["familiar"] + ":latest"


def as_json(platform: Platform) -> dict[str, Any]:
    out: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
    optional = {"variant": platform.variant, "os.version": platform.os_version}
    out.update({key: value for key, value in optional.items() if value})
    if platform.os_features:
        out["os.features"] = list(platform.os_features)
    return out


@pytest.mark.parametrize("case", load("misc/platforms.json"))
def test_platforms(case: dict[str, Any]) -> None:
    if case["error"]:
        with pytest.raises(ImgbuildError):
            parse_platform(case["input"], HOST)
        return
    found = parse_platform(case["input"], HOST)
    assert as_json(found) == case["normalized"]
    assert as_json(found.normalised()) == case["normalized"]
    assert str(found) == case["format"]
