"""Ignore files: where a folder has one, and what a walk through the folder asks of it."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from imgbuild import inroot
from imgbuild.errors import ContextError

if TYPE_CHECKING:
    from imgbuild.dockerfile.ignore import Decision

# A .dockerignore of more than this is a mistake, not a list of patterns.
_LARGEST = 1 << 20


class IgnoreScope(Protocol):
    """What an ignore file says of the names in one directory.

    With `silent` nothing below is hidden, with `prunes` all of it. Only with `revives` may there
    be something to see below a hidden directory.
    """

    @property
    def silent(self) -> bool: ...
    @property
    def prunes(self) -> bool: ...
    @property
    def revives(self) -> bool: ...
    def hides(self, name: bytes) -> bool: ...
    def below(self, name: bytes) -> "IgnoreScope": ...


class Ignore(Protocol):
    """Which paths a context hides; `dockerfile.ignore.IgnoreMatcher` is one.

    A walk goes from `scope` to scope; the other questions are about single paths.
    """

    def matches(self, path: bytes) -> bool: ...
    def may_include_below(self, path: bytes) -> bool: ...
    def scope(self, directory: bytes) -> IgnoreScope: ...
    def decide(self, path: bytes) -> "Decision": ...


def read_ignore_file(context: Path, dockerfile: Path | None = None) -> tuple[str, str] | None:
    """Return the text of the ignore file and its name; None where there is none.

    `<Dockerfile>.dockerignore` beside the Dockerfile comes before `.dockerignore` in the context.
    Raises `ContextError`.
    """
    candidates = [context / ".dockerignore"]
    if dockerfile is not None:
        candidates.insert(0, dockerfile.with_name(dockerfile.name + ".dockerignore"))
    for path in candidates:
        try:
            fd = _open_ignore(path)
            if fd is None:
                continue
            with open(fd, "rb") as stream:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise ContextError(f"{path} is not a regular file", hint="remove it")
                data = stream.read(_LARGEST + 1)
        except OSError as problem:
            raise ContextError(
                f"cannot read {path}: {problem.strerror}",
                hint="make it a file that this user can read, or remove it",
            ) from None
        if len(data) > _LARGEST:
            raise ContextError(
                f"{path} is larger than {_LARGEST} bytes",
                hint="patterns such as **/*.tmp stand for many files",
            )
        return data.decode("utf-8", "surrogateescape"), path.name
    return None


def _open_ignore(path: Path) -> int | None:
    """Open an ignore file; None where there is none.

    As with BuildKit, its folder is the root for symlinks: what errors show of a file that they
    lead to would be of this machine. A pipe is not waited for.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return inroot.open_in_root(folder, os.fsencode(path.name), os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        if path.is_symlink():
            raise ContextError(
                f"{path} is a symlink to what {path.parent} does not hold", hint="make it a file"
            ) from None
        return None
    finally:
        os.close(folder)


def ignored_patterns(context: Path, dockerfile: Path | None = None) -> tuple[str, ...]:
    """Return the patterns of the ignore file, none where there is none; raise `ContextError`."""
    found = read_ignore_file(context, dockerfile)
    if found is None:
        return ()
    from imgbuild.dockerfile.ignore import parse_ignore

    return parse_ignore(found[0])
