"""Look things up in an image without unpacking it: the merged view over layer indexes, read only.

Layers shadow each other exactly as they would once unpacked and stacked: a whiteout, an opaque
marker or anything that is no directory hides what lies below it in lower layers, never what the
same layer brings itself (image-spec layer.md).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self

from imgbuild.errors import ImageError
from imgbuild.layer.entry import Entry, ImagePath
from imgbuild.layer.links import MAX_LINKS, follow
from imgbuild.snapshot.content import ContentReader, LayerCursor
from imgbuild.snapshot.lookup import LayerIndex, MemoryIndex

if TYPE_CHECKING:
    from imgbuild.layer.sortedindex import SortedIndex

_ROOT = Entry(b"", "dir", 0o755)
_REMEMBERED = 4096  # paths that were looked up


class LayerFiles(NamedTuple):
    """A layer as a view needs it: its entries and a way to its uncompressed tar, from the start."""

    entries: Callable[[], "Sequence[Entry] | SortedIndex"]
    open_raw: Callable[[], BinaryIO]


class RootView:
    """An image's files. `layers` come bottom first; no index is read before the first look-up.

    `scratch` is where a temporary file may be made when contents are read out of order. `where`
    is what errors call the image, where it has a name.
    """

    def __init__(
        self, layers: Sequence[LayerFiles], scratch: Path | None = None, where: str = ""
    ) -> None:
        self.where = where
        self._layers = tuple(layers)
        self._scratch = scratch
        self._loaded: list[LayerIndex] | None = None
        self._cursors: dict[int, LayerCursor] = {}
        self._found: dict[ImagePath, tuple[int, Entry] | None] = {}

    @property
    def _indexes(self) -> Sequence[LayerIndex]:
        if self._loaded is None:
            self._loaded = []
            for files in self._layers:
                found = files.entries()
                self._loaded.append(MemoryIndex(found) if isinstance(found, Sequence) else found)
        return self._loaded

    def lstat(self, path: ImagePath) -> Entry | None:
        """Return what is at `path`, or None; no symlink is followed, not even in its parents.

        A hard link comes back as what it links to, under its own path.
        """
        found = self._lookup(path)
        return found[1] if found else None

    def inode(self, path: ImagePath) -> tuple[int, int] | None:
        """Return a key that two names share when they are hard links to one regular file."""
        found = self._lookup(path)
        if found is None or found[1].type != "file":
            return None
        return found[0], found[1].offset

    def linked(self) -> frozenset[tuple[int, int]]:
        """Return the keys of the files that have more than one name, as `inode` gives them."""
        found = set()
        for index in self._indexes:
            for path in index.hard_links():
                if (inode := self.inode(path)) is not None:
                    found.add(inode)
        return frozenset(found)

    def readlink(self, path: ImagePath) -> bytes:
        """Return the text of the symlink at `path`; raise `ImageError` when it is none."""
        entry = self.lstat(path)
        if entry is None or entry.type != "symlink":
            raise ImageError(f"/{_show(path)} is not a symbolic link in the image")
        return entry.linkname

    def listdir(self, path: ImagePath) -> list[bytes]:
        """Return the sorted names in a directory; nothing for what is no directory."""
        entry = self.lstat(path)
        if entry is None or entry.type != "dir":
            return []
        names: set[bytes] = set()
        gone: set[bytes] = set()
        for index in reversed(self._indexes):
            names.update(name for name in index.names(path) if name not in gone)
            if index.hides(path, below=True):
                break
            gone.update(index.gone(path))
        return sorted(names)

    def walk(self, path: ImagePath) -> Iterator[tuple[ImagePath, Entry]]:
        """Give everything below `path` (not `path` itself), parents first, by path components."""
        pending = self._below(path)
        while pending:
            current = pending.pop()
            entry = self.lstat(current)
            if entry is None:
                continue
            yield current, entry
            if entry.type == "dir":
                pending.extend(self._below(current))

    def _below(self, path: ImagePath) -> list[ImagePath]:
        prefix = path + b"/" if path else b""
        return [prefix + name for name in reversed(self.listdir(path))]

    def open(self, path: ImagePath) -> BinaryIO:
        """Open the content of a regular file (or a hard link to one).

        Cheapest in the order of `walk`. Raises `ImageError` for anything else.
        """
        found = self._lookup(path)
        if found is None or found[1].type != "file":
            raise ImageError(f"/{_show(path)} is not a regular file in the image")
        number, entry = found
        cursor = self._cursors.get(number)
        if cursor is None:
            cursor = LayerCursor(self._layers[number].open_raw, self._scratch)
            self._cursors[number] = cursor
        return ContentReader(cursor, entry.offset, entry.size)  # type: ignore[return-value]  # RawIOBase lacks only typeshed's BinaryIO

    def resolve(self, path: bytes, follow_last: bool = True) -> ImagePath:
        """Follow the symlinks in `path` as a process rooted in the image would.

        Components that do not exist are kept; `..` never leaves the root. Raises `ImageError`
        after 40 links.
        """
        return follow(path, self.lstat, follow_last=follow_last)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what `open` and looking up opened underneath."""
        for index in self._loaded or ():
            index.close()
        self._loaded = None
        for cursor in self._cursors.values():
            cursor.close()
        self._cursors.clear()

    def _lookup(self, path: ImagePath) -> tuple[int, Entry] | None:
        try:
            return self._found[path]
        except KeyError:
            found = self._find(path, len(self._layers))
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[path] = found
            return found

    def _find(self, path: ImagePath, top: int) -> tuple[int, Entry] | None:
        """Look `path` up in the `top` lowest layers, through hard links."""
        found = self._find_raw(path, top)
        if found is None or found[1].type != "hardlink":
            return found
        number, entry = found
        for _ in range(MAX_LINKS):
            # A layer's link may name a file of its own or of any layer below it.
            found = self._find_raw(entry.linkname, number + 1)
            if found is None or found[1].type == "dir":
                break
            number, entry = found
            if entry.type != "hardlink":
                return number, entry._replace(path=path)
        raise ImageError(
            f"the hard link /{_show(path)} points to /{_show(entry.linkname)}, "
            f"which is not a file in {'it' if self.where else 'the image'}"
        )

    def _find_raw(self, path: ImagePath, top: int) -> tuple[int, Entry] | None:
        implicit: tuple[int, Entry] | None = None
        for number in range(top - 1, -1, -1):
            index = self._indexes[number]
            entry = index.get(path)
            if entry is not None:
                if implicit is not None and entry.type != "dir":
                    break
                if not index.is_implicit(path):
                    return number, entry
                implicit = implicit or (number, entry)
            if index.hides(path):
                break
        else:
            return implicit or (None if path else (0, _ROOT))
        return implicit


def _show(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
