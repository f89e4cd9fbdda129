"""Platforms: `os[(version)]/architecture[/variant]`, normalised as containerd does."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from imgbuild.errors import UsageError

_ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
}
_KNOWN_SYSTEMS = frozenset(
    [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "illumos",
        "ios",
        "js",
        "linux",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "wasip1",
        "windows",
    ]
)
_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_SYSTEM = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.-]*)((?:\+[A-Za-z0-9_.-]+)*)\))?")


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def normalised(self) -> "Platform":
        """Return the canonical spelling: `aarch64` is `arm64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`."""
        name, variant = self.architecture.lower(), self.variant.lower()
        architecture, implied = _ARCHITECTURES.get(name, (name, ""))
        variant = variant or implied
        if architecture == "arm64" and variant in {"8", "v8"}:
            variant = ""
        elif architecture == "arm":
            variant = {"": "v7", "7": "v7", "6": "v6", "5": "v5", "8": "v8"}.get(variant, variant)
        elif architecture == "amd64" and variant == "v1":
            variant = ""
        system = {"macos": "darwin"}.get(self.os.lower(), self.os.lower())
        return Platform(system, architecture, variant, self.os_version, self.os_features)

    def matches(self, wanted: "Platform") -> bool:
        """Tell whether an image for `self` can run where `wanted` is asked for."""
        have, want = self.normalised(), wanted.normalised()
        if (have.os, have.architecture) != (want.os, want.architecture):
            return False
        if have.variant == want.variant or not have.variant:
            return True
        if not (have.variant.startswith("v") and want.variant.startswith("v")):
            # amd64 without a variant is v1; arm64 without one is v8.
            return have.architecture == "arm64" and have.variant == "v8"
        return have.variant <= want.variant


def parse_platform(text: str, default: Platform) -> Platform:
    """Parse `text`; a single word is an operating system or an architecture.

    `default` gives what the text leaves out. Raises `UsageError`.
    """
    if "," in text:
        raise UsageError(
            f"invalid platform: {text!r}",
            hint="give one; several platforms in one build are not supported yet",
        )
    parts = text.split("/")
    head = _SYSTEM.fullmatch(parts[0])
    if head is None or len(parts) > 3 or not all(_WORD.fullmatch(p) for p in parts[1:]):
        raise UsageError(
            f"invalid platform: {text!r}", hint="write it as os/architecture, e.g. linux/arm64"
        )
    system, version = head[1], head[2] or ""
    features = tuple((head[3] or "").split("+")[1:])
    if len(parts) == 1:
        if system.lower() in _KNOWN_SYSTEMS or system.lower() == "macos":
            guess = (default.architecture, default.variant)
            return Platform(system, *guess, version, features).normalised()
        known = {"amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "ppc64", "s390x"}
        known |= {"mips64", "mips64le", "mips", "mipsle", "loong64", "wasm"} | set(_ARCHITECTURES)
        if system.lower() not in known:
            raise UsageError(
                f"unknown operating system or architecture: {text!r}",
                hint="write it as os/architecture, e.g. linux/arm64",
            )
        return Platform(default.os, system).normalised()
    variant = parts[2] if len(parts) == 3 else ""
    return Platform(system, parts[1], variant, version, features).normalised()
