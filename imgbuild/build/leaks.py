"""Find values of secrets in what becomes a layer, while it is written.

A value is looked for as it is and in base64, where it is long enough not to be there by chance.
What a command compressed or encrypted is not seen.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from imgbuild.errors import SecretInLayerError
from imgbuild.layer.entry import Entry

_SHORTEST = 8  # bytes
_SHORTEST_ENCODED = 12


class Needle(NamedTuple):
    """Bytes that tell of the value of a secret, and in which form they have it."""

    name: str
    form: str
    text: bytes


class Hit(NamedTuple):
    """Where a value was found: `offset` is its place in the tar."""

    needle: Needle
    offset: int


def needles(values: Mapping[str, bytes]) -> list[Needle]:
    """Return what to look for, given the values of secrets by name."""
    found = []
    for name, value in values.items():
        text = value.rstrip(b"\r\n")
        if len(text) >= _SHORTEST:
            found.append(Needle(name, "", text))
        if len(text) >= _SHORTEST_ENCODED:
            found += [Needle(name, " in base64", form) for form in _encoded(text)]
    return found


def _encoded(text: bytes) -> Iterator[bytes]:
    """Yield what all base64 texts with `text` in them have in common, for each way it can be aligned."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + text).rstrip(b"=")
        # The first and last characters hold bits of what is beside it.
        start = (8 * before + 5) // 6
        end = 8 * (before + len(text)) // 6
        yield whole[start:end]


class Search:
    """Looks for needles in bytes that come piece by piece; `hits` has the first of each secret."""

    def __init__(self, wanted: Sequence[Needle]) -> None:
        self._wanted = wanted
        self._overlap = max((len(needle.text) for needle in wanted), default=1) - 1
        self._tail = b""
        self._offset = 0
        self.hits: list[Hit] = []

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        tail = self._tail
        self._look(tail + data[: self._overlap], self._offset - len(tail))
        self._look(data, self._offset)
        self._offset += len(data)
        if self._overlap:
            self._tail = (
                (tail + data)[-self._overlap :]
                if len(data) < self._overlap
                else data[-self._overlap :]
            )

    def _look(self, data: bytes, start: int) -> None:
        known = {hit.needle.name for hit in self.hits}
        for needle in self._wanted:
            if needle.name not in known and (at := data.find(needle.text)) >= 0:
                self.hits.append(Hit(needle, start + at))
                known.add(needle.name)


def leak_error(hit: Hit, entries: Iterable[Entry]) -> SecretInLayerError:
    """Return the error for what was found in a layer of these entries; it does not tell the value."""
    where = "among the names and attributes of its files"
    for entry in entries:
        if entry.type == "file" and entry.offset <= hit.offset < entry.offset + entry.size:
            where = f"in /{entry.path.decode('utf-8', 'backslashreplace')}"
            break
    return SecretInLayerError(
        f"the layer would hold the value of the secret {hit.needle.name}{hit.needle.form}: {where}",
        hint="do not write it to a file that stays, or remove that in the same RUN; what is meant to"
        " be in the image can be allowed with --allow-secret-in-layer",
    )
