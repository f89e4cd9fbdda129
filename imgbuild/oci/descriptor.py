"""Descriptors: what content is, what it is called and how large it is (image-spec descriptor.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imgbuild.oci.digest import Digest
from imgbuild.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Descriptor:
    """`size` is in bytes; `extra` keeps the fields this class has no name for."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layer:
    """One change set, named both ways OCI names it.

    `descriptor` is of the stored (usually compressed) blob, `diff_id` of the tar inside it;
    `uncompressed_size` is the tar's size in bytes, -1 while nobody has read it.
    """

    descriptor: Descriptor
    diff_id: Digest
    uncompressed_size: int = -1
