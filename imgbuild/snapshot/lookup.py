"""What one layer has and hides, by path: what a view asks of the index of each of its layers."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from imgbuild.layer.entry import Entry, ImagePath
from imgbuild.layer.links import follow


class LayerIndex(Protocol):
    """The entries of one layer, as unpacking it would place them; `layer.sortedindex` has another."""

    def close(self) -> None: ...

    def get(self, path: ImagePath) -> Entry | None:
        """Return what the layer has at `path`, whiteouts left out."""

    def is_implicit(self, path: ImagePath) -> bool:
        """Tell of a path that `get` finds whether no entry says so."""

    def hides(self, path: ImagePath, *, below: bool = False) -> bool:
        """Tell whether lower layers cannot show `path` (or, with `below`, what it contains)."""

    def names(self, directory: ImagePath) -> Sequence[bytes]:
        """Return what this layer brings into a directory."""

    def gone(self, directory: ImagePath) -> Sequence[bytes]:
        """Return the names that this layer takes out of a directory."""

    def hard_links(self) -> Iterator[ImagePath]:
        """Yield the paths of all hard links."""


class MemoryIndex:
    """The entries of one layer, by path, as unpacking it would place them.

    Directories that the tar left out are implicit: where a lower layer has them, they look as they
    do there.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries: dict[ImagePath, Entry] = {}
        self._implicit: set[ImagePath] = set()
        self._whiteouts: set[ImagePath] = set()
        self._opaque: set[ImagePath] = set()
        self._names: dict[ImagePath, list[bytes]] | None = None
        self._gone: dict[ImagePath, list[bytes]] | None = None
        # What is in each directory, once an entry took the place of one.
        self._below: dict[ImagePath, set[bytes]] | None = None
        for entry in entries:
            if entry.type == "whiteout":
                self._whiteouts.add(entry.path)
            elif entry.type == "opaque":
                self._opaque.add(entry.path)
            else:
                self._add(entry)

    def _add(self, entry: Entry) -> None:
        known = self._entries
        path = self._through_links(entry.path)
        if path != entry.path:
            entry = entry._replace(path=path)
        if entry.type == "hardlink":
            entry = entry._replace(linkname=self._through_links(entry.linkname))
        previous = known.get(path)
        if previous is not None and previous.type == "dir" and entry.type != "dir":
            self._remove_below(path)
        self._put(path, entry)
        self._implicit.discard(path)
        parent = path.rpartition(b"/")[0]
        while parent and parent not in known:
            self._put(parent, Entry(parent, "dir", 0o755))
            self._implicit.add(parent)
            parent = parent.rpartition(b"/")[0]

    def _put(self, path: ImagePath, entry: Entry) -> None:
        self._entries[path] = entry
        if self._below is not None:
            parent, _, name = path.rpartition(b"/")
            self._below.setdefault(parent, set()).add(name)

    def _remove_below(self, directory: ImagePath) -> None:
        """Forget what is below a directory; it costs what it removes, however often it is asked."""
        if self._below is None:
            listed = _by_directory(self._entries)
            self._below = {above: set(names) for above, names in listed.items()}
        waiting = [directory]
        while waiting:
            above = waiting.pop()
            for name in self._below.pop(above, ()):
                gone = above + b"/" + name
                self._entries.pop(gone, None)
                waiting.append(gone)

    def _through_links(self, path: ImagePath) -> ImagePath:
        """Follow links of this layer on the way to `path`, not at its end."""
        parent, _, name = path.rpartition(b"/")
        known = self._entries.get(parent)
        if not parent or (known is not None and known.type == "dir"):
            return path
        real = follow(parent, self._entries.get)
        return real + b"/" + name if real else name

    def close(self) -> None:
        """Do nothing: there is nothing open."""

    def get(self, path: ImagePath) -> Entry | None:
        return self._entries.get(path)

    def is_implicit(self, path: ImagePath) -> bool:
        return path in self._implicit

    def hard_links(self) -> Iterator[ImagePath]:
        return (path for path, entry in self._entries.items() if entry.type == "hardlink")

    def names(self, directory: ImagePath) -> Sequence[bytes]:
        """Return what this layer brings into a directory."""
        if self._names is None:
            self._names = _by_directory(self._entries)
        return self._names.get(directory, ())

    def gone(self, directory: ImagePath) -> Sequence[bytes]:
        """Return the names that this layer takes out of a directory."""
        if self._gone is None:
            self._gone = _by_directory(self._whiteouts)
        return self._gone.get(directory, ())

    def hides(self, path: ImagePath, *, below: bool = False) -> bool:
        """Tell whether lower layers cannot show `path` (or, with `below`, what it contains)."""
        for end in _ends(path):
            prefix = path[:end]
            if prefix in self._whiteouts:
                return True
            if end < len(path) or below:
                if prefix in self._opaque:
                    return True
                entry = self._entries.get(prefix)
                if entry is not None and entry.type != "dir":
                    return True
        return False


def _by_directory(paths: Iterable[ImagePath]) -> dict[ImagePath, list[bytes]]:
    found: dict[ImagePath, list[bytes]] = {}
    for path in paths:
        if path:
            parent, _, name = path.rpartition(b"/")
            found.setdefault(parent, []).append(name)
    return found


def _ends(path: ImagePath) -> Iterator[int]:
    """Give where each prefix of `path` ends, from the root (0) to the whole path."""
    yield 0
    end = path.find(b"/")
    while end >= 0:
        yield end
        end = path.find(b"/", end + 1)
    if path:
        yield len(path)
