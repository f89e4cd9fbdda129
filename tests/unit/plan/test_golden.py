"""Whole plans: testdata/plan/<case> holds a Dockerfile, the images it names, and the plan or the error.

`pytest tests/unit/plan --regold` writes the results anew; read the difference before it is committed.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError
from imgbuild.oci.config import parse_config
from imgbuild.oci.descriptor import Descriptor, Layer
from imgbuild.oci.digest import digest_bytes
from imgbuild.oci.media_types import OCI_LAYER_GZIP
from imgbuild.oci.platform import Platform, parse_platform
from imgbuild.oci.reference import parse_reference
from imgbuild.plan.model import BaseImage
from imgbuild.plan.planner import PlanOptions, make_plan
from imgbuild.plan.render import render_plan
from tests.unit.plan.planning import HOST

CASES = Path(__file__).resolve().parents[3] / "testdata" / "plan"


def load(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return data


def bases(case: Path) -> dict[str, BaseImage]:
    """Images as bases.json tells them: `layers` is how many, digests follow from the name."""
    found = {}
    for name, data in load(case / "bases.json").items():
        document = data.get("config", {"architecture": "amd64", "os": "linux"})
        digests = [digest_bytes(f"{name} {n}".encode()) for n in range(data["layers"])]
        layers = tuple(Layer(Descriptor(OCI_LAYER_GZIP, one, 1), one) for one in digests)
        config = parse_config(json.dumps(document).encode())
        reference = str(parse_reference(name))
        found[name] = BaseImage(reference, digest_bytes(name.encode()), config, layers)
    return found


def options(case: Path) -> PlanOptions:
    given = load(case / "options.json")
    for name in ("platform", "build_platform"):
        given[name] = parse_platform(given[name], HOST) if name in given else HOST
    for name in ("contexts", "directory_contexts"):
        given[name] = frozenset(given.get(name, ()))
    return PlanOptions(**given)


def outcome(case: Path) -> str:
    images = bases(case)

    def resolve(name: str, platform: Platform) -> BaseImage:
        return images[name]

    try:
        return render_plan(
            make_plan(parse((case / "Dockerfile").read_bytes()), options(case), resolve)
        )
    except DockerfileError as error:
        place = error.span and f"{error.span.file}:{error.span.first}-{error.span.last}"
        return f"error: {error.message}\nhint: {error.hint}\nat: {place}\n"


@pytest.mark.parametrize("case", sorted(CASES.iterdir()), ids=lambda case: case.name)
def test_plan(case: Path, request: pytest.FixtureRequest) -> None:
    found = outcome(case)
    expected = case / "plan"
    if request.config.getoption("--regold"):
        expected.write_text(found)
    assert found == expected.read_text()
