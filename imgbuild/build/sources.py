"""What the sources of COPY and ADD are: selected and listed, from a context, an image or an archive."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from os import fsdecode, fsencode
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from imgbuild.build.context import ContextTree
from imgbuild.build.copyrules import Selected, Source, Tree, clean, matches, resolve, select, show
from imgbuild.build.listing import Item, Listing, from_entry
from imgbuild.build.wildcard import has_wildcard
from imgbuild.errors import ContextError
from imgbuild.layer.entry import ImagePath, sort_key
from imgbuild.snapshot.view import RootView


class Filters(NamedTuple):
    """What is left of directories among the sources.

    `exclude` are patterns relative to the source. With `pivots`, one for each source, only what
    they match below it, the directories above that included.
    """

    exclude: tuple[str, ...] = ()
    pivots: tuple[str, ...] | None = None


class FileSource(Protocol):
    """Where the content of a source's files comes from."""

    def open(self, path: ImagePath) -> BinaryIO: ...


_ALL = Filters()


def from_context(
    tree: ContextTree, patterns: Sequence[str], scratch: Path, filters: Filters = _ALL
) -> list[Source]:
    """Select and list sources of a build context; raise `ContextError`.

    Close the listings with `close`.
    """

    def item(selected: Selected) -> Item:
        found = tree.item(selected.path)
        assert found is not None  # noqa: S101  it was just selected
        return found

    reading = _Reading(tree, partial(_select, tree), tree.walk, item)
    return _sources(reading, patterns, filters, scratch)


def from_image(
    view: RootView, patterns: Sequence[str], scratch: Path, filters: Filters = _ALL
) -> list[Source]:
    """Select and list sources of an image or stage; indexes know all digests."""
    reading = _Reading(
        view,
        partial(_select, view),
        lambda path, _skip: _below(view, path),
        lambda selected: from_entry(b"", selected.entry),
    )
    return _sources(reading, patterns, filters, scratch)


def close(sources: Iterable[Source]) -> None:
    """Close the listings of `sources`."""
    for source in sources:
        if isinstance(source.below, Listing):
            source.below.close()


class _Reading(NamedTuple):
    """A tree with how it is selected from and walked; `walk` may leave out what is to be skipped."""

    tree: Tree
    select: Callable[[str], list[Selected]]
    walk: Callable[[ImagePath, Callable[[ImagePath], bool] | None], Iterator[Item]]
    item: Callable[[Selected], Item]


def _sources(
    reading: _Reading, patterns: Sequence[str], filters: Filters, scratch: Path
) -> list[Source]:
    found: list[Source] = []
    try:
        for number, pattern in enumerate(patterns):
            pivot = fsencode(filters.pivots[number]) if filters.pivots is not None else b""
            if pivot and not has_wildcard(fsencode(pattern)) and not has_wildcard(pivot):
                reading.select(f"{pattern}/{fsdecode(pivot)}")  # it has to be there
            for selected in reading.select(pattern):
                below: Sequence[Item] | Listing = ()
                if selected.entry.type == "dir":
                    items = _listed(reading, selected.path, pivot, filters.exclude)
                    below = Listing(items, scratch)
                found.append(Source(selected.name, selected.path, reading.item(selected), below))
    except BaseException:
        close(found)
        raise
    return found


def _listed(
    reading: _Reading, top: ImagePath, pivot: bytes, exclude: tuple[str, ...]
) -> Iterator[Item]:
    """List a selected directory in layer order."""
    if not pivot and not exclude:
        return reading.walk(top, None)
    from imgbuild.dockerfile.ignore import IgnoreMatcher

    excluded = IgnoreMatcher(exclude)
    cut = len(top) + 1 if top else 0

    def skip(path: ImagePath) -> bool:
        return excluded.matches(path[cut:]) and not excluded.may_include_below(path[cut:])

    listing = (
        _pivoted(reading, top, pivot, skip)
        if pivot
        else reading.walk(top, skip if exclude else None)
    )
    kept = (item for item in listing if not excluded.matches(item.rel))
    return _with_parents(reading.tree, top, kept)


def _pivoted(
    reading: _Reading, top: ImagePath, pivot: bytes, skip: Callable[[ImagePath], bool]
) -> Iterator[Item]:
    """List what matches `pivot` below `top`, and all that is below that."""
    names = pivot.split(b"/")
    deep = next((i for i, name in enumerate(names) if b"**" in name), len(names))
    starts = sorted(matches(reading.tree, top, names[:deep]), key=sort_key) if deep else [b""]
    if deep == len(names):
        for start in starts:
            at = _join(top, start)
            entry = reading.tree.lstat(at)
            if entry is not None:
                yield reading.item(Selected(b"", at, entry))._replace(rel=start)
            yield from _moved(reading, top, start, skip)
        return
    from imgbuild.dockerfile.ignore import IgnoreMatcher

    included = IgnoreMatcher([fsdecode(pivot)])
    for start in starts:
        yield from (
            item for item in _moved(reading, top, start, skip) if included.matches(item.rel)
        )


def _moved(
    reading: _Reading, top: ImagePath, start: bytes, skip: Callable[[ImagePath], bool]
) -> Iterator[Item]:
    """List what is below `start`, by names relative to `top`."""
    at = _join(top, start)
    entry = reading.tree.lstat(at) if at else None
    if at and (entry is None or entry.type != "dir"):
        return
    for item in reading.walk(at, skip):
        yield item._replace(rel=_join(start, item.rel))


def _with_parents(tree: Tree, top: ImagePath, items: Iterable[Item]) -> Iterator[Item]:
    """Put the directories above each item before it, where nothing selected them."""
    above_now: set[bytes] = set()
    for item in items:
        missing = []
        above = item.rel.rpartition(b"/")[0]
        while above and above not in above_now:
            missing.append(above)
            above = above.rpartition(b"/")[0]
        for rel in reversed(missing):
            above_now.add(rel)
            entry = tree.lstat(_join(top, rel))
            if entry is not None:
                yield from_entry(rel, entry)._replace(implied=True)
        if item.type == "dir":
            above_now.add(item.rel)
        yield item


def _join(above: bytes, rest: bytes) -> bytes:
    return above + b"/" + rest if above and rest else above or rest


def _select(tree: ContextTree | RootView, pattern: str) -> list[Selected]:
    raw = fsencode(pattern)
    try:
        return select(tree, raw)
    except ContextError as error:
        error.hint = error.hint or (_hint(tree, raw) if tree.where else _hint_inside(tree, raw))
        raise


def _hint(tree: ContextTree | RootView, raw: bytes) -> str:
    """Say why nothing in `tree` has the path `raw`."""
    path = clean(raw)
    if isinstance(tree, ContextTree) and tree.is_ignored(path):
        return f"{show(path)} is there, but {tree.why_ignored(path)}"
    if _climbs(raw):
        return (
            f"paths cannot leave {tree.where}: build in a folder further up, or "
            "give the other one as --build-context NAME=FOLDER and COPY --from=NAME"
        )
    if link := _link_text(tree, path):
        return f"{show(path)} is a symlink to {link}, which is looked for in {tree.where}"
    if b"://" in raw or raw.startswith(b"ftp:/"):
        return "ADD fetches http(s) URLs and git repositories; all else is a path"
    return f"paths are relative to {tree.where}{_guess(tree, path)}"


def _hint_inside(tree: Tree, raw: bytes) -> str:
    """Say why a stage or an image has nothing at `raw`."""
    path = clean(raw)
    if link := _link_text(tree, path):
        return f"{show(path)} is a symlink to {link}, which is not there"
    start = "paths in a stage or image start at its root, whatever its WORKDIR"
    return f"{start}{_guess(tree, path)}"


def _guess(tree: Tree, path: ImagePath) -> str:
    similar = _similar(tree, path)
    return f"; did you mean {show(similar)}?" if similar else ""


def _link_text(tree: Tree, path: ImagePath) -> str | None:
    """Return where a symlink at `path` leads to; None where there is none."""
    entry = tree.lstat(resolve(tree.lstat, path, follow_last=False))
    if entry is None or entry.type != "symlink":
        return None
    return entry.linkname.decode("utf-8", "backslashreplace")


def _climbs(raw: bytes) -> bool:
    """Tell whether `raw` goes above where it starts."""
    depth = 0
    for element in raw.split(b"/"):
        depth += -1 if element == b".." else element not in (b"", b".")
        if depth < 0:
            return True
    return False


def _similar(tree: Tree, path: ImagePath) -> ImagePath | None:
    """Return what the first part of `path` that is not there may have meant, with what leads to it."""
    from difflib import get_close_matches

    above = b""
    for element in path.split(b"/"):
        at = above + b"/" + element if above else element
        found = tree.lstat(at)
        if found is None:
            names = {os.fsdecode(name).lower(): name for name in tree.listdir(above)}
            near = get_close_matches(os.fsdecode(element).lower(), names, n=1)
            if not near:
                return None
            return at.removesuffix(element) + names[near[0]] + path[len(at) :]
        if found.type != "dir":
            return None
        above = at
    return None


def _below(view: RootView, top: ImagePath) -> Iterator[Item]:
    """List a directory of a view."""
    cut = len(top) + 1 if top else 0
    linked = view.linked()
    for path, entry in view.walk(top):
        inode = view.inode(path) if linked else None
        group = b"%d:%d" % inode if inode is not None and inode in linked else b""
        yield from_entry(path[cut:], entry, group)
