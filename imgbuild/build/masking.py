"""Values of secrets are replaced in what commands write, before anyone sees it.

A value may come in pieces: the end of what has come is held back while it may be the beginning
of one.
"""

import re
from collections.abc import Iterable

MASK = b"***"
# Less is no secret, and would tear holes into everything.
_SHORTEST = 4
_SHORTEST_LINE = 8


class Masker:
    """One stream of output; `values` are what must not be seen in it."""

    def __init__(self, values: Iterable[bytes]) -> None:
        # Longest first: one may begin with another.
        self._words = sorted(_words(values), key=lambda word: (-len(word), word))
        self._pattern = re.compile(b"|".join(map(re.escape, self._words)))
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Take what has come; return what can be shown of all that has."""
        if not self._words:
            return data
        data = self._held + data
        end = self._first_beginning(data)
        # A value that reaches into what is held back is replaced when it is whole.
        shown = bytearray()
        at = 0
        for found in self._pattern.finditer(data):
            if found.start() >= end:
                break
            shown += data[at : found.start()] + MASK
            at = found.end()
        end = max(end, at)
        self._held = data[end:]
        return bytes(shown + data[at:end])

    def flush(self) -> bytes:
        """Return what was held back; nothing comes, or not soon enough."""
        held, self._held = self._held, b""
        return self._pattern.sub(MASK, held) if held else b""

    def _first_beginning(self, data: bytes) -> int:
        """Find where, at the end of the data, a value may begin that is not whole yet."""
        return min((_beginning(word, data) for word in self._words), default=len(data))


def _beginning(word: bytes, data: bytes) -> int:
    """Find where the end of `data` is how `word` begins, without being all of it."""
    head = word[:_SHORTEST]
    start = max(0, len(data) - len(word) + 1)
    while (start := data.find(head, start)) >= 0:
        if word.startswith(data[start:]):
            return start
        start += 1
    for length in range(min(len(head), len(data) + 1) - 1, 0, -1):
        if data.endswith(head[:length]):
            return len(data) - length
    return len(data)


def _words(values: Iterable[bytes]) -> set[bytes]:
    """Give what of values to look for: each whole, and lines that say something by themselves."""
    found: set[bytes] = set()
    for value in values:
        whole = value.strip()
        if len(whole) >= _SHORTEST:
            found.add(whole)
        lines = [line.strip() for line in whole.split(b"\n")]
        if len(lines) > 1:
            found |= {line for line in lines if len(line) >= _SHORTEST_LINE}
    return found
