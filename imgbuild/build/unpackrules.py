"""Where ADD puts the members of archives: what docker's `archive.Untar` does, rooted in the image.

Members come in their own order, replace what is there and go through links that others made, so all
that such a step places is held until its end. Pure, as `copyrules` is.
"""

from collections.abc import Iterator, Mapping, Sequence

from imgbuild.build.copyrules import Placed, Placing, Source, Target, Tree, as_links, show
from imgbuild.build.listing import Item
from imgbuild.errors import ContextError
from imgbuild.layer.entry import Entry, ImagePath, sort_key


def place_unpacked(view: Tree, sources: Sequence[Source], target: Target) -> Iterator[Placed]:
    """Yield the entries of the layer in layer order, where some of `sources` are archives.

    Raises `ContextError` where a file and a directory collide, and for links to nothing.
    """
    unpacking = _Unpacking(view, target)
    for number, source in enumerate(sources):
        if source.unpacked:
            unpacking.unpack(number, source)
        else:
            unpacking.copy(number, source)
    yield from as_links(unpacking.finish())


class _Unpacking:
    """The image with all that was put there so far: a `Tree` for what comes next."""

    def __init__(self, view: Tree, target: Target) -> None:
        self._view = view
        self._target = target
        self._new: dict[ImagePath, Placed] = {}
        self._replaced: set[ImagePath] = set()
        # What was put below a path, level by level.
        self._below: dict[ImagePath, set[ImagePath]] = {}

    def lstat(self, path: ImagePath) -> Entry | None:
        if not path:
            return Entry(b"", "dir", 0o755)
        if path in self._new:
            return self._new[path].entry
        return None if self._is_gone(path) else self._view.lstat(path)

    def listdir(self, path: ImagePath) -> list[bytes]:
        return self._view.listdir(path)

    def _is_gone(self, path: ImagePath) -> bool:
        """Tell whether a directory above `path` was replaced."""
        above = path.rpartition(b"/")[0] if self._replaced else b""
        while above:
            if above in self._replaced:
                return True
            above = above.rpartition(b"/")[0]
        return False

    def _put(self, path: ImagePath, placed: Placed) -> None:
        self._new[path] = placed
        while path:
            above = path.rpartition(b"/")[0]
            known = self._below.setdefault(above, set())
            if path in known:
                return
            known.add(path)
            path = above

    def _put_all(self, placed: Mapping[ImagePath, Placed]) -> None:
        for path, one in placed.items():
            self._put(path, one)

    def copy(self, number: int, source: Source) -> None:
        """Put a source that is no archive where COPY would put it."""
        placing = Placing(self, self._target)
        for placed in placing.copied([(number, source)]):
            self._put(placed.entry.path, placed)
        self._put_all(placing.made)

    def unpack(self, number: int, source: Source) -> None:
        placing = Placing(self, self._target)
        top = placing.resolve(self._target.dest)
        placing.make_dirs(top)
        self._put_all(placing.made)
        for index, item in enumerate(source.below, source.number + 1):
            self._unpack_member(number, index, item, top)

    def _unpack_member(self, source: int, number: int, item: Item, top: ImagePath) -> None:
        placing = Placing(self, self._target)
        parent, _, name = item.rel.rpartition(b"/")
        above = placing.resolve(_join(top, parent))
        self._make_parents(above)
        at = _join(above, name)
        self._clear(at, item)
        if item.type == "hardlink":
            self._link(at, placing.resolve(_join(top, item.link)), placing)
        else:
            self._put(at, Placed(placing.owned(item, at, item.mode), source, item, number))

    def _make_parents(self, path: ImagePath) -> None:
        at = b""
        for element in path.split(b"/") if path else ():
            at = _join(at, element)
            existing = self.lstat(at)
            if existing is None:
                owner = self._target.owner or (0, 0)
                made = Entry(at, "dir", 0o755, *owner, self._target.made_time)
                self._put(at, Placed(made))
            elif existing.type != "dir":
                raise ContextError(f"cannot copy to non-directory: {show(at)}")

    def _clear(self, at: ImagePath, item: Item) -> None:
        """Forget the directory that a member of another type takes the place of."""
        existing = self.lstat(at)
        if existing is not None and existing.type == "dir" and item.type != "dir":
            self._replaced.add(at)
            gone = [at]
            while gone:
                below = self._below.pop(gone.pop(), ())
                gone += below
                for path in below:
                    self._new.pop(path, None)

    def _link(self, at: ImagePath, target: ImagePath, placing: Placing) -> None:
        found = self._new.get(target)
        if found is None or found.item is None or found.entry.type != "file":
            raise ContextError(
                f"archive member {show(at)} is a hard link to {show(target)}, which it lacks"
            )
        # A name that no other group has: those of a listing never start with a slash.
        group = found.group or b"/%d" % found.number
        self._new[target] = found._replace(group=group)
        self._put(
            at,
            found._replace(entry=placing.owned(found.item, at, found.entry.mode), group=group),
        )

    def finish(self) -> Iterator[Placed]:
        """Yield all in layer order, with the directories above that the image has already."""
        known = set(self._new)
        for path in list(self._new):
            above = path.rpartition(b"/")[0]
            while above and above not in known:
                known.add(above)
                entry = self._view.lstat(above)
                if entry is not None:
                    kept = Entry(above, "dir", entry.mode, entry.uid, entry.gid, entry.mtime)
                    self._new[above] = Placed(kept._replace(xattrs=entry.xattrs))
                above = above.rpartition(b"/")[0]
        return (self._new[path] for path in sorted(self._new, key=sort_key))


def _join(above: ImagePath, rest: bytes) -> ImagePath:
    return above + b"/" + rest if above and rest else above or rest
