"""PAX extended header records: `LENGTH KEY=VALUE` lines, LENGTH counting itself.

Source: POSIX.1-2001, pax, "pax Extended Header". Keys and values are kept as bytes, because
names need not be UTF-8; GNU tar, Go and Python read raw bytes.
"""

from collections.abc import Mapping

from imgbuild.errors import ImageError
from imgbuild.layer import ustar
from imgbuild.layer.entry import quoted

XATTR_PREFIX = b"SCHILY.xattr."
_SMALLEST_RECORD = 5


def pack(records: Mapping[bytes, bytes], name: bytes) -> bytes:
    """Return the header and the body blocks that give `records` to the entry that follows.

    `name` is of that entry, only for those who read the archive without knowing PAX.
    """
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    base = ustar.to_ascii(name.rstrip(b"/").rpartition(b"/")[2])[:80]
    head = ustar.pack(b"PaxHeaders.0/" + base, 0o644, 0, 0, len(body), 0, b"x")
    return head + body + bytes(-len(body) % ustar.BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %b=%b\n" % (key, value)
    length = len(rest) + len(str(len(rest)))
    if len(str(length)) + len(rest) != length:
        length += 1
    return b"%d%b" % (length, rest)


def parse(body: bytes) -> dict[bytes, bytes]:
    """Return the records of an extended header; raise `ImageError` when it is malformed."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        digits = body[at:space] if space > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        end = at + length
        if length < _SMALLEST_RECORD or end > len(body) or body[end - 1] != 0x0A:
            raise _malformed(body[at : at + 20])
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise _malformed(body[at : at + 20])
        records[key] = value
        at = end
    return records


def number(value: bytes, what: str) -> int:
    """Parse a record that counts something; raise `ImageError` when it is no such number."""
    if not value.isdigit() or len(value) > 19:
        raise ImageError(
            f"the archive has a PAX header with an impossible {what}: {quoted(value[:40])}"
        )
    return int(value)


def seconds(value: bytes) -> int:
    """Parse a time in decimal seconds, rounded down."""
    whole, _, fraction = value.partition(b".")
    negative = whole.startswith(b"-")
    digits = whole[1:] if negative else whole
    if not (digits.isdigit() and len(digits) <= 16 and (fraction.isdigit() or not fraction)):
        raise ImageError(
            f"the archive has a PAX header with an impossible mtime: {quoted(value[:40])}"
        )
    if not negative:
        return int(digits)
    return -int(digits) - bool(fraction.strip(b"0"))


def _malformed(start: bytes) -> ImageError:
    return ImageError(
        f"the archive has a malformed PAX header at {quoted(start)}",
        hint="it is damaged, or it was written by a broken tool",
    )
