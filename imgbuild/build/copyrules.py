"""Where COPY and ADD put things: sources and what the image has already -> entries of the new layer.

Pure: it asks two trees and touches nothing. The rules are those of BuildKit's file operations
(solver/llbsolver/file/backend.go and github.com/tonistiigi/fsutil/copy), in their order.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Literal, NamedTuple, Protocol

from imgbuild.build.listing import Item
from imgbuild.build.wildcard import has_wildcard, match
from imgbuild.errors import ContextError
from imgbuild.layer.entry import NO_XATTRS, Entry, ImagePath, sort_key
from imgbuild.layer.links import TooManyLinksError, follow
from imgbuild.oci.digest import Digest
from imgbuild.plan.chmod import Change, apply_changes

_ROOT = Entry(b"", "dir", mode=0o755)
_SET_GROUP = 0o2000
# Where something goes, which source it is of, what it is, and its number.
_Going = tuple[ImagePath, int, Item, int]


class Tree(Protocol):
    """What the rules ask of a context, an image or a stage; nothing here follows symlinks."""

    def lstat(self, path: ImagePath) -> Entry | None: ...
    def listdir(self, path: ImagePath) -> list[bytes]: ...


class Selected(NamedTuple):
    """One source: `name` is the last element as written, `path` where it really is."""

    name: bytes
    path: ImagePath
    entry: Entry


class Source(NamedTuple):
    """A selected source, `item`, with all that is below it, in the order of `sort_key`.

    `name` is the last element as written, `path` where it really is. `number` is that of the
    selected thing among all of a step, and what is below counts on from it. `unpacked` is set for an
    archive, whose members `below` lists in their own order; those of a plain one are sorted, each
    is there once, none is a hard link, and nothing is below what is no directory.
    """

    name: bytes
    path: ImagePath
    item: Item
    below: Collection[Item] = ()
    number: int = 0
    unpacked: Literal["", "any", "plain"] = ""


class Placed(NamedTuple):
    """One entry of the layer; what it holds is that of `item`, which source number `source` has.

    `source` is -1 for what comes from no source: directories that had to be made or are repeated.
    Entries of one source with the same `group` are names of one file.
    """

    entry: Entry
    source: int = -1
    item: Item | None = None
    number: int = -1
    group: bytes = b""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to and how: `dest` is absolute and keeps a trailing slash.

    `made_time` is the mtime of directories that have to be made, in seconds. `changes` are those
    of a symbolic mode; directories that have to be made only follow an octal one.
    """

    dest: bytes
    owner: tuple[int, int] | None = None
    chmod: int | None = None
    made_time: int = 0
    changes: tuple[Change, ...] = ()


# --- selecting sources


def clean(path: bytes) -> ImagePath:
    """Return `path` relative to the root: `.` and empty elements go, `..` stops at the root."""
    out: list[bytes] = []
    for element in path.split(b"/"):
        if element == b"..":
            del out[-1:]
        elif element not in (b"", b"."):
            out.append(element)
    return b"/".join(out)


def resolve(
    lstat: Callable[[ImagePath], Entry | None], path: bytes, *, follow_last: bool = True
) -> ImagePath:
    """Return where `path` really is: symlinks followed inside the root, missing elements kept.

    Raises `ContextError` after 40 links.
    """
    try:
        return follow(path, lstat, follow_last=follow_last)
    except TooManyLinksError as error:
        raise ContextError(error.message) from None


def select(tree: Tree, pattern: bytes) -> list[Selected]:
    """Return what `pattern` names in `tree`; no match for a wildcard is an empty list.

    Raises `ContextError` with BuildKit's words when a plain path, or that before a wildcard, is
    not there.
    """
    elements = clean(pattern).split(b"/")
    wild = next((i for i, e in enumerate(elements) if has_wildcard(e)), len(elements))
    plain = b"/".join(elements[:wild])
    if wild == len(elements):
        return [_follow(tree, plain, plain)]
    start = resolve(tree.lstat, plain)
    if start and tree.lstat(start) is None:
        raise ContextError(f"lstat {show(plain)}: no such file or directory")
    names = (
        _join(start, rel) for rel in sorted(matches(tree, start, elements[wild:]), key=sort_key)
    )
    return [_follow(tree, name, name) for name in names]


def matches(tree: Tree, below: ImagePath, patterns: list[bytes]) -> Iterator[bytes]:
    """Yield what matches `patterns`, name by name, in a directory; no symlink is followed."""
    entry = tree.lstat(below) if below else _ROOT
    if entry is None or entry.type != "dir":
        return
    head, *rest = patterns
    if not has_wildcard(head) and b"\\" not in head:
        names = [head] if tree.lstat(_join(below, head)) is not None else []
    else:
        names = [name for name in tree.listdir(below) if match(head, name)]
    for name in names:
        if not rest:
            yield name
        else:
            yield from (name + b"/" + tail for tail in matches(tree, _join(below, name), rest))


def _follow(tree: Tree, path: ImagePath, shown: bytes) -> Selected:
    real = resolve(tree.lstat, path)
    entry = tree.lstat(real) if real else _ROOT
    if entry is None or not _is_reachable(tree, real):
        raise ContextError(f'failed to compute cache key: "{show(shown)}": not found')
    return Selected(path.rpartition(b"/")[2], real, entry)


def _is_reachable(tree: Tree, path: ImagePath) -> bool:
    """Tell whether the parent of `path` is a directory: `file/x` names nothing."""
    parent = path.rpartition(b"/")[0]
    if not parent:
        return True
    entry = tree.lstat(parent)
    return entry is not None and entry.type == "dir"


def show(path: bytes) -> str:
    """Return an image path as people write it."""
    return "/" + path.strip(b"/").decode("utf-8", "backslashreplace")


def no_directory(path: bytes) -> ContextError:
    """Return the error for what would go into, or be merged with, a file of the image."""
    return ContextError(
        f"cannot copy to non-directory: {show(path)}",
        hint="a file is there already; for several sources, or to copy into a directory, "
        "end the destination with a /",
    )


# --- placing them


def place(view: Tree, sources: Sequence[Source], target: Target) -> Iterator[Placed]:
    """Yield the entries of the layer in layer order, with the directories above each of them.

    None of the sources is an archive to unpack; see `unpackrules` for those. However much the
    sources hold, only their names of linked files are kept in memory. Raises `ContextError` with
    BuildKit's words where a file and a directory collide.
    """
    placing = Placing(view, target)
    yield from as_links(placing.with_parents(placing.copied(enumerate(sources))))


def make_path(
    view: Tree, path: bytes, owner: tuple[int, int] | None, made_time: int
) -> list[Placed]:
    """Return the entries that WORKDIR needs: the missing directories, and those above them."""
    placing = Placing(view, Target(path, owner, None, made_time))
    placing.make_dirs(placing.resolve(path))
    return list(placing.with_parents(()))


def as_links(placed: Iterable[Placed]) -> Iterator[Placed]:
    """Make all but the first name of a group hard links: a layer is read from front to back."""
    first: dict[tuple[int, bytes], ImagePath] = {}
    for one in placed:
        if one.group:
            e = one.entry
            target = first.setdefault((one.source, one.group), e.path)
            if target != e.path:
                link = Entry(e.path, "hardlink", e.mode, e.uid, e.gid, e.mtime, linkname=target)
                yield Placed(link)
                continue
        yield one


class Placing:
    """Puts sources over `view`; `made` are the directories that had to be made for that."""

    def __init__(self, view: Tree, target: Target) -> None:
        self._view = view
        self._target = target
        self.made: dict[ImagePath, Placed] = {}
        # What the last of the sources put where the target itself is.
        self._at_target: Entry | None = None

    def lookup(self, path: ImagePath) -> Entry | None:
        """Return what is at `path` by now, as far as targets of sources depend on it."""
        if not path:
            return _ROOT
        made = self.made.get(path)
        if made is not None:
            return made.entry
        if self._at_target is not None and self._at_target.path == path:
            return self._at_target
        return self._view.lstat(path)

    def resolve(self, path: bytes) -> ImagePath:
        return resolve(self.lookup, path)

    def make_dirs(self, path: ImagePath) -> None:
        """Make the directories of `path`, which is resolved."""
        at, above = b"", _ROOT
        for element in path.split(b"/") if path else ():
            at = at + b"/" + element if at else element
            entry = self.lookup(at)
            if entry is None:
                entry = self._new_dir(at, above)
                self.made[at] = Placed(entry)
            elif entry.type != "dir":
                raise no_directory(at)
            above = entry

    def _new_dir(self, at: ImagePath, above: Entry) -> Entry:
        """Return a directory as mkdir(2) makes it: the set-group-ID bit is handed down."""
        target = self._target
        inherited = above.mode & _SET_GROUP
        uid, gid = target.owner or (0, above.gid if inherited else 0)
        # BuildKit gives mkdir(2) the number of --chmod, which has no use for more than these bits.
        mode = 0o755 if target.chmod is None else target.chmod & 0o777
        return Entry(at, "dir", mode | inherited, uid, gid, target.made_time)

    def copied(self, sources: Iterable[tuple[int, Source]]) -> Iterator[Placed]:
        """Yield what sources put below their targets, each path once; the last of them wins.

        The targets themselves are made at once, before this is iterated.
        """
        singles: list[_Going] = []
        streams: list[Iterator[_Going]] = []
        for index, source in sources:
            top = self._top(source)
            if source.item.type == "dir":
                streams.append(_going(index, top, source))
            else:
                singles.append((top, index, source.item._replace(group=b""), source.number))
        singles.sort(key=_order)
        if len(streams) == 1 and not singles:
            return self._settled(streams[0])
        return self._settled(merge(*streams, singles, key=_order))

    def _top(self, source: Source) -> ImagePath:
        """Make the directory that a source is copied into; return where the source itself goes."""
        dest = self._target.dest
        self.make_dirs(self.resolve(dest.rpartition(b"/")[0]))
        top = self.resolve(dest)
        if source.item.type == "dir":
            # A top directory that exists keeps its mode and owner; a new one takes 0755, not the source's.
            self.make_dirs(top)
            return top
        existing = self.lookup(top)
        if existing is not None and existing.type == "dir":
            return _join(top, source.name)
        self.make_dirs(top.rpartition(b"/")[0])
        self._at_target = source.item.entry(top)
        return top

    def _settled(self, going: Iterable[_Going]) -> Iterator[Placed]:
        """Put what comes, in layer order, over what is there; several may come to one path."""
        current: Placed | None = None
        absent: bytes | None = None  # nothing that was there before is below this
        for at, index, item, number in going:
            if current is not None and current.entry.path == at:
                existing: Entry | None = current.entry
            else:
                if current is not None:
                    yield current
                if absent is not None and at.startswith(absent):
                    existing = None
                else:
                    above = at.rpartition(b"/")[0]
                    existing = None if above in self.made else self._view.lstat(at)
                    absent = at + b"/" if existing is None else None
            current = self._put(index, at, item, number, existing)
        if current is not None:
            yield current

    def _put(
        self, index: int, at: ImagePath, item: Item, number: int, existing: Entry | None
    ) -> Placed:
        is_dir = item.type == "dir"
        if existing is not None and is_dir != (existing.type == "dir"):
            if is_dir:
                raise no_directory(at)
            raise ContextError(
                f"cannot replace to directory {show(at)} with file",
                hint="a source of that name is a file, what is there is a directory: "
                "choose another destination",
            )
        if item.implied and existing is not None:
            # It was there already: it takes the source's mode alone.
            return Placed(_with_mode(existing, at, item.mode))
        return Placed(self.owned(item, at, self._mode(item)), index, item, number, item.group)

    def _mode(self, item: Item) -> int:
        target = self._target
        if item.type == "symlink":
            return item.mode
        if target.changes:
            return apply_changes(target.changes, item.mode, is_dir=item.type == "dir")
        return item.mode if target.chmod is None else target.chmod

    def owned(self, item: Item, at: ImagePath, mode: int) -> Entry:
        """Return the entry of `item` at `at`, with the owner that everything gets, if there is one."""
        uid, gid = self._target.owner or (item.uid, item.gid)
        return Entry(
            at, item.type, mode, uid, gid, item.mtime, item.size, item.link, item.rdev,
            item.xattrs or NO_XATTRS, Digest(item.digest) if item.digest else None,
        )  # fmt: skip

    def with_parents(self, placed: Iterable[Placed]) -> Iterator[Placed]:
        """Put the directories above before `placed`: those that were made, others unchanged.

        All of `placed` is below the last of them, with what is between.
        """
        items = iter(placed)
        first = next(items, None)
        deepest = max(self.made, key=len, default=b"")
        if first is not None:
            deepest = max(deepest, first.entry.path.rpartition(b"/")[0], key=len)
        at = b""
        for element in deepest.split(b"/") if deepest else ():
            at = _join(at, element)
            made = self.made.get(at)
            entry = None if made is not None else self._view.lstat(at)
            if made is not None:
                yield made
            elif entry is not None:
                yield Placed(_with_mode(entry, at, entry.mode))
        if first is not None:
            yield first
            yield from items


def _going(index: int, top: ImagePath, source: Source) -> Iterator[_Going]:
    prefix = top + b"/" if top else b""
    for number, item in enumerate(source.below, source.number + 1):
        yield prefix + item.rel, index, item, number


def _order(going: _Going) -> tuple[bytes, int]:
    return sort_key(going[0]), going[1]


def _join(above: ImagePath, rest: bytes) -> ImagePath:
    return above + b"/" + rest if above and rest else above or rest


def _with_mode(entry: Entry, path: ImagePath, mode: int) -> Entry:
    return Entry(path, "dir", mode, entry.uid, entry.gid, entry.mtime, xattrs=entry.xattrs)
