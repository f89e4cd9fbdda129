"""Values as Go prints them: BuildKit writes its history texts with fmt, and so must we.

Strings in quotes are `dockerfile/quoting.py`'s; here is the rest.
"""

from collections.abc import Iterable

_SMALL_UNITS = ((1_000_000, "ms"), (1_000, "µs"), (1, "ns"))
_SECOND = 1_000_000_000


def plain_list(items: Iterable[str]) -> str:
    """Return what `%v` prints for a slice: `[a b]`."""
    return f"[{' '.join(items)}]"


def duration(nanoseconds: int) -> str:
    """Return a duration as Go's `time.Duration` prints it: `1m30s`, `1.5s`, `100ms`, `0s`."""
    sign, value = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if 0 < value < _SECOND:
        size, unit = next(pair for pair in _SMALL_UNITS if value >= pair[0])
        return f"{sign}{_with_fraction(value, size)}{unit}"
    minutes, rest = divmod(value, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    text = f"{_with_fraction(rest, _SECOND)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else sign + text


def _with_fraction(value: int, size: int) -> str:
    whole, part = divmod(value, size)
    if not part:
        return str(whole)
    return f"{whole}.{str(size + part)[1:].rstrip('0')}"
