"""Trying again: which failures are worth it, how long to wait, when to stop."""

import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from imgbuild.errors import RegistryError
from imgbuild.events import EventSink, Notice

T = TypeVar("T")

TRIES = 5
CONNECT_TRIES = 3
LONGEST_WAIT = 60.0
_FIRST_WAIT = 0.5
_WORTH_TELLING = 3.0

# 501 and 505 are answers, not troubles.
_PASSING = frozenset({408, 425, 429, *range(500, 600)} - {501, 505})


class Again(Exception):
    """A failure that may pass.

    `error` is what the caller gets when it does not; `after` is the number of seconds the
    server asked to wait; `tries` bounds the attempts this kind of failure is worth.
    """

    def __init__(
        self, error: RegistryError, *, after: float | None = None, tries: int = TRIES
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after
        self.tries = tries


def is_passing(status: int) -> bool:
    """Tell whether an HTTP status may be another one soon."""
    return status in _PASSING


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Read `Retry-After`: seconds, or a date (`now` is in seconds since 1970)."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


class Retry:
    """The waiting between attempts; `pause` takes seconds."""

    def __init__(self, events: EventSink, pause: Callable[[float], None] = time.sleep) -> None:
        self._events = events
        self._pause = pause

    def run(self, action: Callable[[], T]) -> T:
        """Call `action` until it does not raise `Again`; raise the error of the last one."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return action()
            except Again as again:
                self.wait(attempt, again)

    def wait(self, attempt: int, again: Again) -> None:
        """Wait before attempt number `attempt` + 1; raise the error when that is in vain."""
        if attempt >= again.tries or (again.after or 0.0) > LONGEST_WAIT:
            raise again.error from None
        # Half of the wait is chance, so that many builds do not come back in step.
        backoff = _FIRST_WAIT * 2 ** (attempt - 1) * (0.5 + random.random() / 2)  # noqa: S311 - no secret
        delay = min(LONGEST_WAIT, backoff if again.after is None else max(again.after, backoff))
        if delay >= _WORTH_TELLING:
            self._events(Notice(f"{again.error.message}; trying again in {delay:.0f} s"))
        self._pause(delay)
