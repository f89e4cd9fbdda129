"""Where COPY and ADD put things: sources and what the image has already -> entries of the new layer.

Pure: it asks two trees and touches nothing. The rules are those of BuildKit's file operations
(solver/llbsolver/file/backend.go and github.com/tonistiigi/fsutil/copy), in their order.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from imgbuild.build.wildcard import has_wildcard, match
from imgbuild.errors import ContextError
from imgbuild.layer.entry import Entry, ImagePath, sort_key
from imgbuild.layer.links import TooManyLinksError, follow
from imgbuild.plan.chmod import Change, apply_changes

_ROOT = Entry(b"", "dir", mode=0o755)
# Names of one file: the number of the source, its first name there, its digest if known.
_Group = tuple[int, ImagePath, str | None]


class Tree(Protocol):
    """What the rules ask of a context, an image or a stage; nothing here follows symlinks."""

    def lstat(self, path: ImagePath) -> Entry | None: ...
    def listdir(self, path: ImagePath) -> list[bytes]: ...


class Selected(NamedTuple):
    """One source: `name` is the last element as written, `path` where it really is."""

    name: bytes
    path: ImagePath
    entry: Entry


class Below(NamedTuple):
    """One thing below a selected directory: `rel` is relative to it.

    `implied` tells of a directory that is only there for what was selected below it.
    """

    rel: bytes
    path: ImagePath
    entry: Entry
    implied: bool = False


class Source(NamedTuple):
    """A selected source with all that is below it, in the order of `sort_key`.

    `unpacked` tells that the source is an archive, whose members `below` lists.
    """

    selected: Selected
    below: tuple[Below, ...] = ()
    unpacked: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """One entry of the layer; the content of a file is that of `origin` in source number `source`.

    `source` is -1 for what comes from no source: directories that had to be made or are repeated.
    """

    entry: Entry
    origin: ImagePath = b""
    source: int = -1


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

    Raises `ContextError` with BuildKit's words when a plain path is not there.
    """
    elements = clean(pattern).split(b"/")
    wild = next((i for i, e in enumerate(elements) if has_wildcard(e)), len(elements))
    plain = b"/".join(elements[:wild])
    if wild == len(elements):
        return [_follow(tree, plain, plain)]
    start = resolve(tree.lstat, plain)
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


# --- placing them


def place(view: Tree, sources: Iterable[Source], target: Target) -> list[Placed]:
    """Return the entries of the layer in layer order, with the directories above each of them.

    Raises `ContextError` with BuildKit's words where a file and a directory collide.
    """
    placing = _Placing(view, target)
    for number, source in enumerate(sources):
        if source.unpacked:
            placing.unpack(number, source)
        else:
            placing.copy(number, source)
    return placing.finish()


def make_path(view: Tree, path: bytes, owner: tuple[int, int], made_time: int) -> list[Placed]:
    """Return the entries that WORKDIR needs: the missing directories, and those above them."""
    placing = _Placing(view, Target(path, owner, None, made_time))
    placing.make_dirs(placing.resolve(path))
    return placing.finish()


class _Placing:
    def __init__(self, view: Tree, target: Target) -> None:
        self._view = view
        self._target = target
        self._new: dict[ImagePath, Placed] = {}
        self._group: dict[ImagePath, _Group] = {}
        self._replaced: set[ImagePath] = set()

    def _lookup(self, path: ImagePath) -> Entry | None:
        if not path:
            return _ROOT
        if path in self._new:
            return self._new[path].entry
        if self._replaced and self._is_hidden(path):
            return None
        return self._view.lstat(path)

    def _is_hidden(self, path: ImagePath) -> bool:
        """Tell whether a directory above `path` was replaced by something else (ADD of an archive)."""
        return any(path.startswith(gone + b"/") for gone in self._replaced)

    def resolve(self, path: bytes) -> ImagePath:
        return resolve(self._lookup, path)

    def make_dirs(self, path: ImagePath) -> None:
        """Make the directories of `path`, which is resolved."""
        owner = self._target.owner or (0, 0)
        mode = 0o755 if self._target.chmod is None else self._target.chmod
        at = b""
        for element in path.split(b"/") if path else ():
            at = at + b"/" + element if at else element
            entry = self._lookup(at)
            if entry is None:
                made = Entry(at, "dir", mode, *owner, mtime=self._target.made_time)
                self._set(at, Placed(made))
            elif entry.type != "dir":
                raise ContextError(f"cannot copy to non-directory: {show(at)}")

    def copy(self, number: int, source: Source) -> None:
        dest, selected = self._target.dest, source.selected
        self.make_dirs(self.resolve(dest.rpartition(b"/")[0]))
        top = self.resolve(dest)
        existing = self._lookup(top)
        if selected.entry.type == "dir":
            # A top directory that exists keeps its mode and owner; a new one takes 0755, not the source's.
            self.make_dirs(top)
            self._copy_below(number, top, source.below)
            return
        if existing is not None and existing.type == "dir":
            top = top + b"/" + selected.name if top else selected.name
        self.make_dirs(top.rpartition(b"/")[0])
        self._put(number, top, selected.path, selected.entry)

    def _copy_below(self, number: int, top: ImagePath, below: tuple[Below, ...]) -> None:
        for rel, path, entry, implied in below:
            at = top + b"/" + rel if top else rel
            if implied and self._keeps(at, entry):
                continue
            self._put(number, at, path, entry)
            if entry.type in ("file", "hardlink"):
                # Names of one file stay one file within one copied directory. The digest tells a
                # link apart whose target was replaced by a later layer of the source.
                first = path if entry.type == "file" else entry.linkname
                self._group[at] = (number, first, entry.digest)

    def _keeps(self, at: ImagePath, entry: Entry) -> bool:
        """Tell whether an implied directory is there already: it takes the source's mode alone."""
        existing = self._lookup(at)
        if existing is None or existing.type != "dir":
            return False
        if existing.mode != entry.mode:
            self._set(at, Placed(_with_mode(existing, at, entry.mode)))
        return True

    def _put(self, number: int, at: ImagePath, path: ImagePath, entry: Entry) -> None:
        existing = self._lookup(at)
        if existing is not None and (entry.type == "dir") != (existing.type == "dir"):
            if entry.type == "dir":
                raise ContextError(f"cannot copy to non-directory: {show(at)}")
            raise ContextError(f"cannot replace to directory {show(at)} with file")
        self._set(at, Placed(self._owned(entry, at, self._mode(entry)), path, number))

    def _mode(self, entry: Entry) -> int:
        target = self._target
        if entry.type == "symlink":
            return entry.mode
        if target.changes:
            return apply_changes(target.changes, entry.mode, is_dir=entry.type == "dir")
        return entry.mode if target.chmod is None else target.chmod

    def _set(self, at: ImagePath, placed: Placed) -> None:
        self._new[at] = placed
        self._group.pop(at, None)

    def _owned(self, entry: Entry, at: ImagePath, mode: int) -> Entry:
        uid, gid = self._target.owner or (entry.uid, entry.gid)
        linked = entry.type == "hardlink"
        return Entry(
            at,
            "file" if linked else entry.type,
            mode,
            uid,
            gid,
            entry.mtime,
            entry.size,
            b"" if linked else entry.linkname,
            entry.rdev,
            entry.xattrs,
            entry.digest,
        )

    # --- ADD of an archive: what docker's `archive.Untar` does, chrooted in the image

    def unpack(self, number: int, source: Source) -> None:
        top = self.resolve(self._target.dest)
        self.make_dirs(top)
        for rel, origin, entry, _ in source.below:
            parent, _, name = rel.rpartition(b"/")
            above = self.resolve(_join(top, parent))
            self._make_member_parents(above)
            at = _join(above, name)
            self._clear(at, entry)
            if entry.type == "hardlink":
                self._link_member(at, self.resolve(_join(top, entry.linkname)))
            else:
                self._set(at, Placed(self._owned(entry, at, entry.mode), origin, number))

    def _make_member_parents(self, path: ImagePath) -> None:
        at = b""
        for element in path.split(b"/") if path else ():
            at = _join(at, element)
            existing = self._lookup(at)
            if existing is None:
                owner = self._target.owner or (0, 0)
                self._set(at, Placed(Entry(at, "dir", 0o755, *owner, self._target.made_time)))
            elif existing.type != "dir":
                raise ContextError(f"cannot copy to non-directory: {show(at)}")

    def _clear(self, at: ImagePath, entry: Entry) -> None:
        """Forget the directory that a member of another type takes the place of."""
        existing = self._lookup(at)
        if existing is not None and existing.type == "dir" and entry.type != "dir":
            self._replaced.add(at)
            for path in [p for p in self._new if p.startswith(at + b"/")]:
                del self._new[path]

    def _link_member(self, at: ImagePath, target: ImagePath) -> None:
        found = self._new.get(target)
        if found is None or found.entry.type != "file":
            raise ContextError(
                f"archive member {show(at)} is a hard link to {show(target)}, which it lacks"
            )
        group = self._group.setdefault(target, (found.source, found.origin, None))
        owned = self._owned(found.entry, at, found.entry.mode)
        self._set(at, Placed(owned, found.origin, found.source))
        self._group[at] = group

    def finish(self) -> list[Placed]:
        """Add the directories above that the image has already, unchanged, and sort."""
        known = set(self._new)
        for path in list(self._new):
            above = path.rpartition(b"/")[0]
            while above and above not in known:
                known.add(above)
                entry = self._view.lstat(above)
                if entry is not None:
                    self._new[above] = Placed(_with_mode(entry, above, entry.mode))
                above = above.rpartition(b"/")[0]
        return self._linked([self._new[path] for path in sorted(self._new, key=sort_key)])

    def _linked(self, placed: list[Placed]) -> list[Placed]:
        """Make all but the first name of a group hard links: a layer is read from front to back."""
        first: dict[_Group, ImagePath] = {}
        out = []
        for item in placed:
            path = item.entry.path
            group = self._group.get(path)
            target = first.setdefault(group, path) if group else path
            out.append(item if target == path else _as_link(item.entry, target))
        return out


def _join(above: ImagePath, rest: bytes) -> ImagePath:
    return above + b"/" + rest if above and rest else above or rest


def _as_link(e: Entry, target: ImagePath) -> Placed:
    return Placed(Entry(e.path, "hardlink", e.mode, e.uid, e.gid, e.mtime, linkname=target))


def _with_mode(entry: Entry, path: ImagePath, mode: int) -> Entry:
    return Entry(path, "dir", mode, entry.uid, entry.gid, entry.mtime, xattrs=entry.xattrs)
