"""What the library's calls return."""

from dataclasses import dataclass

from imgbuild.oci.descriptor import Layer


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step went: `verdict` is `cached` or `done`, `seconds` wall time, `layer` what it made."""

    name: str
    verdict: str
    seconds: float
    layer: Layer | None


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build made: `digest` is of the manifest, `config_digest` what docker calls the image ID."""

    digest: str
    config_digest: str
    names: tuple[str, ...]
    layers: tuple[Layer, ...]
    steps: tuple[StepResult, ...]


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image of the store: `size` is of its blobs in bytes, `created` RFC 3339; `name` may be ""."""

    name: str
    familiar: str
    digest: str
    size: int
    created: str | None


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """An image's documents, as they are stored; `name` may be ""."""

    name: str
    digest: str
    manifest: bytes
    config: bytes
