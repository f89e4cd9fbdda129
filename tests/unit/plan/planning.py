"""Plans of short Dockerfiles over images that exist in the test alone."""

import textwrap
from collections.abc import Mapping
from typing import Any

import pytest

from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError, NotFoundError
from imgbuild.oci.config import HistoryEntry, ImageConfig, RunConfig
from imgbuild.oci.descriptor import Descriptor, Layer
from imgbuild.oci.digest import digest_bytes
from imgbuild.oci.media_types import OCI_LAYER_GZIP
from imgbuild.oci.platform import Platform
from imgbuild.plan.model import BaseImage, BuildPlan, MetaStep, Stage
from imgbuild.plan.planner import PlanOptions, make_plan

HOST = Platform("linux", "amd64")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def image(name: str, run: RunConfig | None = None, *, layers: int = 1, **fields: Any) -> BaseImage:
    """An image with `layers` layers, whose digests follow from its name."""
    found = tuple(
        Layer(Descriptor(OCI_LAYER_GZIP, digest, 1), digest)
        for digest in (digest_bytes(f"{name} {n}".encode()) for n in range(layers))
    )
    config = ImageConfig(
        fields.pop("platform", HOST),
        run or RunConfig(env=(("PATH", "/bin"),)),
        tuple(layer.diff_id for layer in found),
        tuple(HistoryEntry("2020-01-01T00:00:00Z", f"made {name}") for _ in found),
        **fields,
    )
    return BaseImage(f"docker.io/library/{name}:latest", digest_bytes(name.encode()), config, found)


class Images:
    """Resolves the images it was given, and remembers what it was asked for."""

    def __init__(self, images: Mapping[str, BaseImage] | None = None) -> None:
        self._images = {"debian": image("debian"), "alpine": image("alpine"), **(images or {})}
        self.asked: list[tuple[str, str]] = []

    def __call__(self, name: str, platform: Platform) -> BaseImage:
        self.asked.append((name, str(platform)))
        if name not in self._images:
            raise NotFoundError(f"{name}: not found")
        return self._images[name]


def plan(
    text: str, images: Images | Mapping[str, BaseImage] | None = None, **options: Any
) -> BuildPlan:
    options.setdefault("platform", HOST)
    options.setdefault("build_platform", HOST)
    resolve = images if isinstance(images, Images) else Images(images)
    return make_plan(parse(textwrap.dedent(text)), PlanOptions(**options), resolve)


def target(text: str, *args: Any, **options: Any) -> Stage:
    """The stage that a plan ends in."""
    built = plan(text, *args, **options)
    return built.stage(built.target)


def history(stage: Stage) -> list[str]:
    return [step.created_by for step in stage.steps]


def names(built: BuildPlan) -> list[str]:
    """What progress would show."""
    found: list[str] = []
    for stage in built.stages:
        found += [stage.title] if stage.title else []
        found += [step.name for step in stage.steps if not isinstance(step, MetaStep)]
    return found


def error(text: str, *args: Any, **options: Any) -> DockerfileError:
    """The error that planning ends in; its place and source are checked."""
    with pytest.raises(DockerfileError) as caught:
        plan(text, *args, **options)
    found = caught.value
    if found.span is not None:
        assert found.source == textwrap.dedent(text)
    return found
