"""Where ADD puts the members of archives: what BuildKit's unpacking does, rooted in the destination.

Members come in their own order, replace what is there and go through links that others made, so all
that such a step places is held until its end, but for a plain archive into an empty place. Pure, as
`copyrules` is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from imgbuild.build.copyrules import (
    Placed,
    Placing,
    Source,
    Target,
    Tree,
    as_links,
    no_directory,
    resolve,
    show,
)
from imgbuild.build.listing import Item
from imgbuild.errors import ContextError
from imgbuild.layer.entry import Entry, ImagePath, sort_key

# How many names may be looked up in all, and for each member, before it is an attack: links that lead
# through links make a small archive cost as much as none has.
_MOST_LOOKED_UP = 50_000_000
_EACH = 200


def place_unpacked(view: Tree, sources: Sequence[Source], target: Target) -> Iterator[Placed]:
    """Yield the entries of the layer in layer order, where some of `sources` are archives.

    Raises `ContextError` where a file and a directory collide, and for links to nothing.
    """
    if len(sources) == 1 and sources[0].unpacked == "plain":
        # A mode is for what is copied; an archive brings its own.
        placing = Placing(view, replace(target, chmod=None))
        top = placing.resolve(target.dest)
        if not view.listdir(top):
            placing.make_dirs(top)
            first = next(iter(sources[0].below), None)
            if top and first is not None and not first.rel:
                # The archive says what its root is like.
                placing.made[top] = Placed(placing.owned(first, top, first.mode))
            yield from placing.with_parents(_plainly(placing, sources[0], top, target.made_time))
            return
    unpacking = _Unpacking(view, target)
    for number, source in enumerate(sources):
        if source.unpacked:
            unpacking.unpack(number, source)
        else:
            unpacking.copy(number, source)
    yield from as_links(unpacking.finish())


def _plainly(placing: Placing, source: Source, top: ImagePath, made: int) -> Iterator[Placed]:
    """Yield the members of a plain archive below `top`, where there is nothing yet."""
    open_dirs = [b""]
    for number, item in enumerate(source.below, source.number + 1):
        above = item.rel.rpartition(b"/")[0]
        while open_dirs[-1] and not (above + b"/").startswith(open_dirs[-1] + b"/"):
            open_dirs.pop()
        while open_dirs[-1] != above:
            done = open_dirs[-1]
            name = above[len(done) :].lstrip(b"/").partition(b"/")[0]
            open_dirs.append(_join(done, name))
            yield Placed(Entry(_join(top, open_dirs[-1]), "dir", 0o755, mtime=made))
        if item.rel:
            yield Placed(placing.owned(item, _join(top, item.rel), item.mode), 0, item, number)
        if item.rel and item.type == "dir":
            open_dirs.append(item.rel)


class _Unpacking:
    """The image with all that was put there so far: a `Tree` for what comes next."""

    def __init__(self, view: Tree, target: Target) -> None:
        self._view = view
        self._target = target
        self._new: dict[ImagePath, Placed] = {}
        # The names in each directory that lead to what is new, and the directories that were replaced.
        self._names: dict[ImagePath, set[bytes]] = {}
        self._replaced: set[ImagePath] = set()
        self._looks_left = _MOST_LOOKED_UP
        # The last header of each file with several names.
        self._linked: dict[bytes, Entry] = {}

    def lstat(self, path: ImagePath) -> Entry | None:
        if not path:
            return Entry(b"", "dir", 0o755)
        if path in self._new:
            return self._new[path].entry
        return None if self._is_gone(path) else self._view.lstat(path)

    def _is_gone(self, path: ImagePath) -> bool:
        """Tell whether a directory above `path` was replaced, and what the image had in it with it."""
        if not self._replaced:
            return False
        above = path.rpartition(b"/")[0]
        while above and above not in self._replaced:
            above = above.rpartition(b"/")[0]
        return bool(above)

    def _put(self, placed: Placed) -> None:
        path = placed.entry.path
        self._new[path] = placed
        # Up to the root: what is between may be there already, and so not be new.
        while path:
            path, _, name = path.rpartition(b"/")
            names = self._names.setdefault(path, set())
            if name in names:
                return
            names.add(name)

    def listdir(self, path: ImagePath) -> list[bytes]:
        return self._view.listdir(path)

    def copy(self, number: int, source: Source) -> None:
        """Put a source that is no archive where COPY would put it."""
        placing = Placing(self, self._target)
        for placed in placing.copied([(number, source)]):
            self._put(placed)
        for placed in placing.made.values():
            self._put(placed)

    def unpack(self, number: int, source: Source) -> None:
        # A mode is for what is copied; an archive brings its own.
        placing = Placing(self, replace(self._target, chmod=None))
        top = placing.resolve(self._target.dest)
        placing.make_dirs(top)
        for placed in placing.made.values():
            self._put(placed)
        for index, item in enumerate(source.below, source.number + 1):
            self._unpack_member(number, index, item, top)

    def _unpack_member(self, source: int, number: int, item: Item, top: ImagePath) -> None:
        placing = Placing(self, self._target)
        # A directory may be there already, behind a link.
        at = self._inside(top, item.rel, follow_last=item.type == "dir")
        if not at:
            return  # a layer says nothing of the root itself
        self._make_parents(at.rpartition(b"/")[0])
        self._clear(at, item)
        if item.type == "hardlink":
            target = self._inside(top, item.link, follow_last=False)
            self._link(at, item, target, placing)
        else:
            self._put(Placed(placing.owned(item, at, item.mode), source, item, number))

    def _inside(self, top: ImagePath, path: ImagePath, *, follow_last: bool) -> ImagePath:
        """Return where a member really is: links start from where the archive is unpacked."""
        self._looks_left += _EACH

        def lstat(at: ImagePath) -> Entry | None:
            self._looks_left -= 1
            if self._looks_left < 0:
                raise ContextError(
                    "the archive has names too deep, or links through links, for too many members",
                    hint="this is how hostile archives keep machines busy",
                )
            return self.lstat(_join(top, at))

        return _join(top, resolve(lstat, path, follow_last=follow_last))

    def _make_parents(self, path: ImagePath) -> None:
        at = b""
        for element in path.split(b"/") if path else ():
            at = _join(at, element)
            existing = self.lstat(at)
            if existing is None:
                made = Entry(at, "dir", 0o755, mtime=self._target.made_time)
                self._put(Placed(made))
            elif existing.type != "dir":
                raise no_directory(at)

    def _clear(self, at: ImagePath, item: Item) -> None:
        """Forget the directory that a member of another type takes the place of."""
        existing = self.lstat(at)
        if existing is not None and existing.type == "dir" and item.type != "dir":
            self._replaced.add(at)
            below = [at]
            while below:
                directory = below.pop()
                for name in self._names.pop(directory, ()):
                    path = _join(directory, name)
                    self._new.pop(path, None)
                    below.append(path)

    def _link(self, at: ImagePath, item: Item, target: ImagePath, placing: Placing) -> None:
        """Give what the archive brought a second name; the file takes mode, owner and time of that one."""
        found = self._new.get(target)
        if found is None or found.item is None or found.entry.type != "file":
            raise ContextError(
                f"archive member {show(at)} is a hard link to {show(target)}, which it lacks"
            )
        # A name that no other group has: those of a listing never start with a slash.
        group = found.group or b"/%d" % found.number
        self._new[target] = found._replace(group=group)
        self._put(found._replace(entry=found.entry._replace(path=at), group=group))
        self._linked[group] = placing.owned(item, at, item.mode)

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
        return (self._settled(self._new[path]) for path in sorted(self._new, key=sort_key))

    def _settled(self, placed: Placed) -> Placed:
        last = self._linked.get(placed.group)
        if last is None:
            return placed
        entry = placed.entry._replace(mode=last.mode, uid=last.uid, gid=last.gid, mtime=last.mtime)
        return placed._replace(entry=entry)


def _join(above: ImagePath, rest: bytes) -> ImagePath:
    return above + b"/" + rest if above and rest else above or rest
