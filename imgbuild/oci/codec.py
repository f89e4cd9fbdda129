"""JSON of OCI documents: typed access with clear errors, unknown fields kept, one canonical writer."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from imgbuild.errors import ImageError
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import parse_digest
from imgbuild.oci.platform import Platform

T = TypeVar("T")

# image-spec asks registries to accept 4 MiB; docker and containerd refuse more.
MAX_DOCUMENT = 8 << 20


def load_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse `data` as one JSON object; raise `ImageError` that names `what` otherwise."""
    if len(data) > MAX_DOCUMENT:
        raise ImageError(f"{what} is larger than {MAX_DOCUMENT} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ImageError(f"{what} is not a JSON object")
    if b"\\ud" in data.lower():
        return expect(_without_halves(value), dict, what)
    return value


def _without_halves(value: Any) -> Any:
    """Replace what is half a character, and stands for no byte, as Go does when it reads JSON."""
    if isinstance(value, str):
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in value)
    if isinstance(value, list):
        return [_without_halves(item) for item in value]
    if isinstance(value, dict):
        return {_without_halves(key): _without_halves(item) for key, item in value.items()}
    return value


def dump_compact(value: object) -> bytes:
    """Write JSON without blanks, as BuildKit writes configs."""
    return _as_go(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def dump_indented(value: object) -> bytes:
    """Write JSON indented by two, as BuildKit writes manifests."""
    return _as_go(json.dumps(value, ensure_ascii=False, indent=2))


# What Go's encoding/json escapes beyond what JSON asks for (https://pkg.go.dev/encoding/json#Marshal).
# Outside of strings none of these occurs in JSON.
_GO_ESCAPES = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


def _as_go(text: str) -> bytes:
    text = text.translate(_GO_ESCAPES)
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Bytes that are no UTF-8 reach us as lone surrogates; Go writes each as this escape.
        return "".join(r"\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text).encode()


def expect(value: object, kind: type[T], what: str) -> T:
    """Return `value` when it is a `kind`; raise `ImageError` that names `what` otherwise."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ImageError(f"{what} has the wrong type: expected {kind.__name__}")
    return value


def optional(value: object, kind: type[T], what: str, default: T) -> T:
    """Return `value` as a `kind`, or `default` when it is absent or null."""
    return default if value is None else expect(value, kind, what)


def string_list(value: object, what: str) -> tuple[str, ...] | None:
    """Return a list of strings as a tuple; None stays None."""
    if value is None:
        return None
    return tuple(expect(item, str, what) for item in expect(value, list, what))


def string_map(value: object, what: str) -> dict[str, str]:
    """Return an object of strings; None is the empty one."""
    if value is None:
        return {}
    items = expect(value, dict, what).items()
    return {expect(k, str, what): expect(v, str, what) for k, v in items}


def platform_from_json(value: object) -> Platform:
    """Read a descriptor's `platform` (image-spec image-index.md)."""
    data = expect(value, dict, "platform")
    return Platform(
        os=optional(data.get("os"), str, "platform os", ""),
        architecture=optional(data.get("architecture"), str, "platform architecture", ""),
        variant=optional(data.get("variant"), str, "platform variant", ""),
        os_version=optional(data.get("os.version"), str, "platform os.version", ""),
        os_features=string_list(data.get("os.features"), "platform os.features") or (),
    )


def platform_to_json(platform: Platform) -> dict[str, Any]:
    """Write a platform with the key order BuildKit uses."""
    out: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
    if platform.os_version:
        out["os.version"] = platform.os_version
    if platform.os_features:
        out["os.features"] = list(platform.os_features)
    if platform.variant:
        out["variant"] = platform.variant
    return out


_DESCRIPTOR_FIELDS = frozenset({"mediaType", "digest", "size", "platform", "annotations"})


def descriptor_from_json(value: object, what: str = "descriptor") -> Descriptor:
    """Read a descriptor; raise `ImageError` when a required field is missing or wrong."""
    data = expect(value, dict, what)
    size = expect(data.get("size"), int, f"{what} size")
    if size < 0:
        raise ImageError(f"{what} has a negative size")
    platform = data.get("platform")
    return Descriptor(
        media_type=expect(data.get("mediaType"), str, f"{what} mediaType"),
        digest=parse_digest(data.get("digest")),
        size=size,
        platform=None if platform is None else platform_from_json(platform),
        annotations=string_map(data.get("annotations"), f"{what} annotations"),
        extra=rest(data, _DESCRIPTOR_FIELDS),
    )


def descriptor_to_json(descriptor: Descriptor) -> dict[str, Any]:
    """Write a descriptor: media type, digest, size, then what is set of the rest."""
    out: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    out.update(descriptor.extra)
    if descriptor.annotations:
        out["annotations"] = dict(descriptor.annotations)
    if descriptor.platform is not None:
        out["platform"] = platform_to_json(descriptor.platform)
    return out


def rest(data: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """Return the fields of `data` that are not `known`: they are kept and written back."""
    return {key: value for key, value in data.items() if key not in known}
