"""Durations as Go writes them: `1h30m`, `1.5s`, `500ms`."""

import re

from imgbuild.dockerfile.quoting import quote

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "\N{MICRO SIGN}s": 10**3,
    "\N{GREEK SMALL LETTER MU}s": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_MOST = 1 << 63
_NUMBER = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?")
_UNIT = re.compile(r"[^.0-9]*")


def parse_duration(text: str) -> int:
    """Return a duration in nanoseconds; raises `ValueError` in the words of Go's time.ParseDuration."""
    negative = text.startswith("-")
    rest = text[1:] if text[:1] in {"-", "+"} else text
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f"time: invalid duration {quote(text)}")
    total = 0
    while rest:
        part, rest = _leading_part(rest, text)
        total += part
        if total > _MOST:
            raise ValueError(f"time: invalid duration {quote(text)}")
    if not negative and total == _MOST:
        raise ValueError(f"time: invalid duration {quote(text)}")
    return -total if negative else total


def _leading_part(rest: str, text: str) -> tuple[int, str]:
    number = _NUMBER.match(rest)
    # A number of more digits overflows anyway, and is a pain for int().
    if number is None or not (number[1] or number[3]) or len(number[1].lstrip("0")) > 19:
        raise ValueError(f"time: invalid duration {quote(text)}")
    rest = rest[number.end() :]
    found = _UNIT.match(rest)
    name = found[0] if found else ""
    if not name:
        raise ValueError(f"time: missing unit in duration {quote(text)}")
    unit = _UNITS.get(name)
    if unit is None:
        raise ValueError(f"time: unknown unit {quote(name)} in duration {quote(text)}")
    fraction = number[3] or ""
    # Digits beyond these are below a nanosecond even in hours.
    part = int(number[1] or "0") * unit + int(fraction[:18] or "0") * unit // 10 ** len(
        fraction[:18]
    )
    if part > _MOST:
        raise ValueError(f"time: invalid duration {quote(text)}")
    return part, rest[len(name) :]
