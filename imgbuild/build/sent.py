"""What a build can read of its context, and what decided that: for people who write ignore files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgbuild.build.context import ContextTree, open_context
from imgbuild.build.copyrules import clean, resolve, show
from imgbuild.build.definition import local_place
from imgbuild.build.places import main_place
from imgbuild.errors import UsageError
from imgbuild.layer.entry import EntryType, ImagePath
from imgbuild.options import BuildOptions


@dataclass(frozen=True, slots=True)
class ContextEntry:
    """One thing in a context; `path` is relative to it, `size` is of a file, in bytes."""

    path: str
    type: EntryType
    size: int


@dataclass(frozen=True, slots=True)
class ContextVerdict:
    """Whether a build can read `path`, which may not be there (`exists`).

    `line` of `ignore_file`, counted from 1, has the `pattern` that decided by matching `at`: the
    path itself or a directory above it. Nothing matched where `line` is None. `reason` says all
    of that in a sentence.
    """

    path: str
    exists: bool
    sent: bool
    ignore_file: str | None
    line: int | None
    pattern: str
    at: str
    reason: str


def open_sent(options: BuildOptions) -> ContextTree:
    """Open the context of a build; raise `UsageError` or `ContextError`."""
    context, dockerfile = options.context, options.dockerfile
    place = main_place(os.fspath(context)) if isinstance(context, str | os.PathLike) else None
    if not isinstance(place, Path):
        raise UsageError(
            "only a folder has an ignore file: other contexts are taken as they are",
            hint="give the folder whose files COPY may use, usually .",
        )
    asked = dockerfile if isinstance(dockerfile, Path) else None
    return open_context(place, local_place(place, asked) if asked or not dockerfile else None)


def list_sent(tree: ContextTree) -> Iterator[ContextEntry]:
    """Yield all that is not ignored."""
    for item in tree.walk(b""):
        yield ContextEntry(_text(item.rel), item.type, item.size)


def explain(tree: ContextTree, path: bytes) -> ContextVerdict:
    """Tell whether `path` of the context is sent; symlinks above it are followed, as COPY does."""
    real = resolve(tree.lstat, clean(path), follow_last=False)
    exists, sent = tree.exists(real), tree.lstat(real) is not None
    decision = tree.decide(real)
    line = None if decision is None else decision.line
    return ContextVerdict(
        _text(real),
        exists,
        sent,
        None if decision is None else tree.ignore_name,
        line.number if line else None,
        line.text if line else "",
        decision.at if decision else "",
        f"{show(real)} {_reason(tree, real, exists=exists, sent=sent)}",
    )


def _reason(tree: ContextTree, path: ImagePath, *, exists: bool, sent: bool) -> str:
    decision = tree.decide(path)
    if decision is not None and decision.excluded:
        if sent:
            return f"is sent for what is below it, although {tree.why_ignored(path)}"
        return f"{'is not sent:' if exists else 'is not there, and'} {tree.why_ignored(path)}"
    if not exists:
        return f"is not there: paths are relative to the build context, {tree.root}"
    if decision is None or decision.line is None:
        return "is sent: no pattern excludes it"
    line = decision.line
    return f"is sent: {tree.ignore_name} brings it back (line {line.number}: {line.text})"


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
