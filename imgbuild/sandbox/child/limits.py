"""Limits of a command that every process of it has for itself: setrlimit(2)."""

import os
import resource

from imgbuild.sandbox.child import wire
from imgbuild.sandbox.child.failure import Failed

# asm-generic/resource.h; the names are docker's.
_NUMBERS = {
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}


def apply(spec: wire.Message) -> None:
    """Limit this process and all that it starts as a spec says."""
    limit(spec["rlimits"])
    keep_to(spec["processors"])


def limit(limits: list[tuple[str, int, int]]) -> None:
    """Set limits of this process and all that it starts, given as name, soft and hard (-1: none).

    Raises `Failed` for a hard limit above this process's own, which nothing here may raise.
    """
    for name, soft, hard in limits:
        number = _NUMBERS[name]
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError):  # ValueError: what Python makes of EPERM and EINVAL
            own = resource.getrlimit(number)[1]
            raise Failed("limits", f"{name} {_shown(hard)} is above {_shown(own)}") from None


def keep_to(processors: int) -> None:
    """Run on so many of the processors only, other ones for each command; 0 is all."""
    allowed = sorted(os.sched_getaffinity(0))
    if 0 < processors < len(allowed):
        first = int.from_bytes(os.urandom(4), "little")
        chosen = [allowed[(first + number) % len(allowed)] for number in range(processors)]
        os.sched_setaffinity(0, chosen)


def _shown(value: int) -> str:
    return "no limit" if value == resource.RLIM_INFINITY else str(value)
