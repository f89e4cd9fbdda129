"""What the sources of COPY and ADD are: selected, listed and hashed, from a context or an image."""

import os
from collections.abc import Iterator, Mapping, Sequence
from os import fsencode
from typing import NamedTuple

from imgbuild.build.context import ContextTree
from imgbuild.build.copyrules import Below, Selected, Source, clean, select, show
from imgbuild.build.hashing import Fact, StatMemo, content_digest, read_facts
from imgbuild.errors import ContextError
from imgbuild.layer.entry import Entry, ImagePath
from imgbuild.oci.digest import Digest
from imgbuild.snapshot.view import RootView


class Gathered(NamedTuple):
    """Sources with what was read of their files, and the digest of it all."""

    sources: tuple[Source, ...]
    facts: Mapping[ImagePath, Fact]
    digest: Digest


def from_context(tree: ContextTree, patterns: Sequence[str], memo: StatMemo) -> Gathered:
    """Select, list and hash sources of a build context; raise `ContextError`."""
    sources = []
    for pattern in patterns:
        for selected in _select(tree, pattern):
            below = tuple(tree.walk(selected.path)) if selected.entry.type == "dir" else ()
            sources.append(Source(selected, below))
    facts = read_facts(tree, _files(sources), memo)
    return Gathered(tuple(sources), facts, content_digest(sources, facts))


def from_image(view: RootView, patterns: Sequence[str]) -> Gathered:
    """Select and list sources of an image or stage; indexes know all digests."""
    sources = []
    for pattern in patterns:
        for selected in select(view, fsencode(pattern)):
            below = tuple(_below(view, selected)) if selected.entry.type == "dir" else ()
            sources.append(Source(selected, below))
    return Gathered(tuple(sources), {}, content_digest(sources, {}))


def _select(tree: ContextTree, pattern: str) -> list[Selected]:
    raw = fsencode(pattern)
    try:
        return select(tree, raw)
    except ContextError as error:
        error.hint = error.hint or _hint(tree, raw)
        raise


def _hint(tree: ContextTree, raw: bytes) -> str:
    """Say why nothing in `tree` has the path `raw`."""
    path = clean(raw)
    if tree.is_ignored(path):
        return f"{show(path)} is there, but {tree.ignore_name} excludes it"
    if _climbs(raw):
        return (
            f"paths cannot leave the build context, {tree.root}: build in a folder further up, or "
            "give the other one as --build-context NAME=FOLDER and COPY --from=NAME"
        )
    similar = _similar(tree, path)
    guess = f"; did you mean {show(similar)}?" if similar else ""
    return f"paths are relative to the build context, {tree.root}{guess}"


def _climbs(raw: bytes) -> bool:
    """Tell whether `raw` goes above where it starts."""
    depth = 0
    for element in raw.split(b"/"):
        depth += -1 if element == b".." else element not in (b"", b".")
        if depth < 0:
            return True
    return False


def _similar(tree: ContextTree, path: ImagePath) -> ImagePath | None:
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


def _files(sources: Sequence[Source]) -> Iterator[ImagePath]:
    for source in sources:
        if source.selected.entry.type == "file":
            yield source.selected.path
        for item in source.below:
            if item.entry.type in ("file", "hardlink"):
                yield item.path


def _below(view: RootView, selected: Selected) -> Iterator[Below]:
    """List a directory of a view; names of one file after the first come as hard links."""
    cut = len(selected.path) + 1 if selected.path else 0
    first: dict[tuple[int, int], ImagePath] = {}
    for path, found in view.walk(selected.path):
        inode = view.inode(path)
        entry = found
        if inode is not None and (other := first.setdefault(inode, path)) != path:
            entry = Entry(
                path, "hardlink", found.mode, found.uid, found.gid, found.mtime, found.size,
                other, None, found.xattrs, found.digest,
            )  # fmt: skip
        yield Below(path[cut:], path, entry)
