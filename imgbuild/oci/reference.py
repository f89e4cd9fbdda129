"""Image references, normalised as docker does: `[domain/]path[:tag][@digest]`.

Grammar: https://github.com/distribution/reference (reference.go).
"""

import re
from dataclasses import dataclass

from imgbuild.errors import ImageError, UsageError
from imgbuild.oci.digest import Digest, parse_digest

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha(256|512):[0-9a-f]{1,128}")
_MAX_NAME = 255

HUB = "docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised image name: `domain` and `path` are always set, `tag` or `digest` may be empty."""

    domain: str
    path: str
    tag: str = ""
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """The repository: `docker.io/library/debian`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """The name as people write it: `debian:bookworm`."""
        name = self.name
        if self.domain == HUB:
            name = self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path
        return name + self._suffix()

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return tag + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Parse and normalise `text`; raise `UsageError` with docker's words.

    Without tag and digest the tag is `latest`; without a domain the image is on Docker Hub.
    """
    if _HEX64.fullmatch(text):
        raise _invalid(text, "cannot be a 64-character hex string")
    rest, at, digest_text = text.partition("@")
    digest = _digest(text, digest_text) if at else None
    head, slash, tail = rest.rpartition("/")
    last, colon, tag = tail.partition(":")
    name = head + slash + last
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, "the tag is malformed")
    domain, path = _split_domain(name)
    if path.lower() != path:
        raise _invalid(text, "repository name must be lowercase")
    if not _PATH.fullmatch(path) or not _DOMAIN.fullmatch(domain):
        raise _invalid(text)
    if len(f"{domain}/{path}") > _MAX_NAME:
        raise _invalid(text, f"the name is longer than {_MAX_NAME} characters")
    if not colon and not at:
        tag = "latest"
    return Reference(domain, path, tag, digest)


def is_digest(text: str) -> bool:
    """Tell whether `text` is a digest, or the beginning of one, and not a name."""
    return _DIGEST.fullmatch(text) is not None


def _digest(text: str, digest: str) -> Digest:
    try:
        return parse_digest(digest)
    except ImageError:
        raise _invalid(text, "the digest is malformed") from None


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, remainder = name.partition("/")
    is_domain = slash and (
        first == "localhost" or "." in first or ":" in first or first.lower() != first
    )
    domain, path = (first, remainder) if is_domain else (HUB, name)
    if domain == "index.docker.io":
        domain = HUB
    if domain == HUB and "/" not in path:
        path = f"library/{path}"
    return domain, path


def _invalid(text: str, why: str = "") -> UsageError:
    detail = f": {why}" if why else ""
    return UsageError(
        f"invalid reference format{detail}: {text!r}",
        hint="write it as [registry/]repository[:tag][@digest]",
    )
