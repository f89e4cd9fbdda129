"""Content digests: `algorithm:hex`, validated where they come in."""

import hashlib
import re

from imgbuild.errors import ImageError

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class Digest(str):
    """A digest string that was checked against the grammar of the OCI image-spec (descriptor.md)."""

    __slots__ = ()

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        return self.partition(":")[2]


def parse_digest(text: object) -> Digest:
    """Return `text` as a `Digest`; raise `ImageError` when it is not sha256 or sha512 in lower hex."""
    if not isinstance(text, str) or not _PATTERN.fullmatch(text):
        raise ImageError(f"invalid digest: {text!r}", hint="expected sha256: and 64 hex digits")
    return Digest(text)


def digest_bytes(data: bytes) -> Digest:
    """Return the sha256 digest of `data`."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())
