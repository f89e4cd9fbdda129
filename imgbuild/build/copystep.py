"""COPY, ADD and WORKDIR: entries written straight over a view of the image, nothing is mounted."""

import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from os import fsencode
from pathlib import Path
from typing import BinaryIO, NamedTuple

from imgbuild.build import users
from imgbuild.build.archives import UnpackedArchive, with_archives
from imgbuild.build.commit import LayerMaker
from imgbuild.build.context import ContextTree
from imgbuild.build.copyrules import Placed, Selected, Source, Target, make_path, place, resolve
from imgbuild.build.hashing import apply_facts
from imgbuild.build.sources import Gathered
from imgbuild.errors import ContextError
from imgbuild.layer.entry import Entry, ImagePath
from imgbuild.plan.chmod import parse_changes
from imgbuild.plan.model import CopyStep, Document, WorkdirStep
from imgbuild.snapshot.view import RootView


class Origin(NamedTuple):
    """Where the content of sources comes from.

    `check` sees an open file after it was read; where `vouches`, it proves by the file's times
    that the content is what was hashed before.
    """

    open: Callable[[ImagePath], BinaryIO]
    check: Callable[[ImagePath, BinaryIO], None]
    vouches: bool


def context_origin(tree: ContextTree) -> Origin:
    return Origin(tree.open, lambda path, stream: tree.check(path, stream.fileno()), True)


def view_origin(view: RootView) -> Origin:
    return Origin(view.open, lambda _path, _stream: None, False)


def copy_layer(
    maker: LayerMaker,
    step: CopyStep,
    view: RootView,
    gathered: Gathered,
    origin: Origin,
    *,
    clamp: int | None,
    scratch: Path,
) -> None:
    """Write the entries of a COPY or ADD to `maker`; raise `ContextError` where they collide."""
    owner = _owner(step, view) if step.chown is not None else None
    sources: Sequence[Source] = apply_facts(gathered.sources, gathered.facts)
    count = len(sources)
    with ExitStack() as stack:
        archives: dict[int, UnpackedArchive] = {}
        if step.unpack:
            sources, archives = with_archives(tuple(sources), origin.open, scratch)
            for archive in archives.values():
                stack.callback(archive.close)
        made = clamp if clamp is not None else _newest(sources)
        texts = [_encoded(document.content) for document in step.documents]
        sources = [*sources, *map(partial(_document, made), step.documents, texts)]
        for placed in place(view, sources, _target(step, owner, made)):
            if placed.source >= count:
                maker.add(placed.entry, io.BytesIO(texts[placed.source - count]))
            else:
                _write(maker, placed, origin, archives.get(placed.source))


def _owner(step: CopyStep, view: RootView) -> tuple[int, int]:
    try:
        return users.owner(users.reader(view), step.chown or "")
    except ContextError as error:
        if step.link:
            error.hint = "--link does not see the users of the base: use numbers"
        raise


def _target(step: CopyStep, owner: tuple[int, int] | None, made: int) -> Target:
    dest = fsencode(step.dest)
    if isinstance(step.chmod, str):
        return Target(dest, owner, None, made, parse_changes(step.chmod))
    return Target(dest, owner, step.chmod, made)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _document(mtime: int, document: Document, text: bytes) -> Source:
    """Return a here-document as a source; its time is that of what the step makes."""
    name = _encoded(document.name)
    return Source(Selected(name, name, Entry(name, "file", 0o644, 0, 0, mtime, len(text))))


def _write(
    maker: LayerMaker, placed: Placed, origin: Origin, archive: UnpackedArchive | None
) -> None:
    if placed.entry.type != "file" or placed.entry.size == 0:
        maker.add(placed.entry, io.BytesIO() if placed.entry.type == "file" else None)
    elif archive is not None:
        maker.add(placed.entry, archive.open(placed.origin))
    else:
        with origin.open(placed.origin) as stream:
            maker.add(placed.entry, stream, vouched=origin.vouches)
            origin.check(placed.origin, stream)


def _newest(sources: Sequence[Source]) -> int:
    """Return the newest time among the sources: what a new directory above them gets.

    "Now" would be what BuildKit takes, and would give every build another layer.
    """
    times = [
        entry.mtime
        for source in sources
        for entry in (source.selected.entry, *(item.entry for item in source.below))
    ]
    return max(times, default=0)


def workdir_layer(maker: LayerMaker, step: WorkdirStep, view: RootView, clamp: int | None) -> None:
    """Write the directories that a WORKDIR has to make; none when it is there already."""
    path = fsencode(step.path)
    owner = users.owner(users.reader(view), step.user) if step.user else (0, 0)
    made = clamp if clamp is not None else _time_above(view, path)
    for placed in make_path(view, path, owner, made):
        maker.add(placed.entry)


def _time_above(view: RootView, path: bytes) -> int:
    """Return the time of the nearest directory that exists, 0 at the root."""
    at = resolve(view.lstat, path)
    while at:
        entry = view.lstat(at)
        if entry is not None:
            return entry.mtime
        at = at.rpartition(b"/")[0]
    return 0
