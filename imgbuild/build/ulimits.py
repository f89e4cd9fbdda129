"""Resource limits as docker writes them: `nofile=1024:2048`."""

import re
from typing import NamedTuple

from imgbuild.dockerfile.quoting import quote

_NAMES = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
_INTEGER = re.compile(r"[+-]?[0-9]+")
_UNLIMITED = -1


class Ulimit(NamedTuple):
    """A limit of setrlimit(2); -1 is no limit."""

    name: str
    soft: int
    hard: int


def parse_ulimit(text: str) -> Ulimit:
    """Read `name=soft[:hard]`; raises `ValueError` in the words of go-units' ParseUlimit."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _NAMES:
        raise ValueError(f"invalid ulimit type: {name}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise ValueError(
            f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
        )
    soft, hard = _integer(parts[0]), _integer(parts[-1])
    if hard != _UNLIMITED and (soft == _UNLIMITED or soft > hard):
        shown = f"soft: -1 (unlimited), hard: {hard}" if soft == _UNLIMITED else f"{soft} > {hard}"
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {shown}")
    return Ulimit(name, soft, hard)


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax")
    # More digits overflow anyway.
    if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 63:
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    return int(text)
