"""What a plan depends on beside the Dockerfile."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from imgbuild.oci.platform import Platform
from imgbuild.options import NetworkMode


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """`platform` is what is built for, `build_platform` what this machine is.

    `proxies` maps names such as `HTTP_PROXY` to values, and counts as build arguments that
    `build_args` may override. `contexts` are the names given by --build-context;
    `directory_contexts` are those of them that stand for a tree of files, not for an image.
    `allow` is what RUN may ask for beyond the usual, as `RunOptions` has it.
    """

    platform: Platform
    build_platform: Platform
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    network: NetworkMode = "default"
    allow: tuple[str, ...] = ()
    contexts: frozenset[str] = frozenset()
    directory_contexts: frozenset[str] = frozenset()
    proxies: Mapping[str, str] = field(default_factory=dict)
