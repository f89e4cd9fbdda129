"""Sizes as docker writes them: `64m`, `1.5GiB`. Units are powers of 1024."""

import math
import re

from imgbuild.dockerfile.quoting import quote

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_UNITS = "kmgtp"


def parse_size(text: str) -> int:
    """Return a size in bytes; raises `ValueError` in the words of go-units' RAMInBytes."""
    end = max(text.rfind(character) for character in "0123456789. ")
    if end < 0:
        raise ValueError(f"invalid size: '{text}'")
    number = text[:end] if text[end] == " " else text[: end + 1]
    suffix = text[end + 1 :].lower()
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"strconv.ParseFloat: parsing {quote(number)}: invalid syntax")
    size = float(number)
    if math.isinf(size):
        raise ValueError(f"strconv.ParseFloat: parsing {quote(number)}: value out of range")
    if size < 0:
        raise ValueError(f"invalid size: '{text}'")
    if suffix in {"", "b"}:
        return int(size)
    if suffix[0] not in _UNITS or suffix[1:] not in {"", "b", "ib"}:
        raise ValueError(f"invalid suffix: '{suffix}'")
    amount = size * 1024.0 ** (_UNITS.index(suffix[0]) + 1)
    if math.isinf(amount):
        raise ValueError(f"invalid size: '{text}'")
    return int(amount)
