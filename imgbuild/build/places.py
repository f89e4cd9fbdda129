"""Where a build reads from, and what to say when nothing usable is there."""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from imgbuild.errors import ContextError, DockerfileError, UsageError
from imgbuild.plan.fetching import redacted
from imgbuild.plan.gitref import parse_git_ref
from imgbuild.plan.model import GitSource, UrlSource

LAYOUT = "oci-layout://"
IMAGE = "docker-image://"
HOST = "host://"
_IMAGES = (LAYOUT, IMAGE, HOST)
URL = ("http://", "https://")
# What is left of a URL that was made a path.
_BROKEN_URL = re.compile(r"(https?|git|ssh):/[^/]")

Place = Path | UrlSource | GitSource


def find_place(text: str) -> Place | None:
    """Tell where the context `text` is: a folder, a URL or a repository; None for none of them.

    As docker does, a folder is preferred. Raises `UsageError` for a repository with a query that
    is wrong.
    """
    if os.path.isdir(text):
        return Path(text)
    try:
        repository = parse_git_ref(text)
    except DockerfileError as error:
        raise UsageError(f"{redacted(text)}: {error.message}", hint=error.hint) from None
    if repository is not None:
        return GitSource(repository)
    return UrlSource(text) if text.startswith(URL) else None


def main_place(text: str) -> Place:
    """Tell where the main context is; raise `UsageError` where there is none."""
    found = find_place(text)
    if found is not None:
        return found
    if text == "-":
        raise UsageError(
            "the library does not read standard input by itself",
            hint="give the file: sys.stdin.buffer",
        )
    if _BROKEN_URL.match(text):
        raise UsageError(f"{text} is a URL that became a path", hint="give a URL as text")
    if os.path.isfile(text):
        raise UsageError(
            f"the build context {text} is a file, not a directory",
            hint=f"for an archive: imgbuild … - < {text}; for a Dockerfile: imgbuild … -f {text} .",
        )
    raise UsageError(
        f"the build context {text} is not a directory",
        hint="give the folder whose files COPY may use, usually .; or a URL, or - for a tar",
    )


def tree_places(contexts: Mapping[str, str]) -> dict[str, Place]:
    """Return where the named contexts are that are files and no images; nothing remote is asked.

    Raises `UsageError` for what is nothing known.
    """
    found = {}
    for name, value in contexts.items():
        if value.startswith(_IMAGES):
            continue
        place = find_place(value)
        if place is None:
            shown = f"--build-context {name}={redacted(value)}"
            raise UsageError(f"{shown}: {_what_is_wrong(value)}", hint=_HINT)
        found[name] = place
    return found


_HINT = f"give {', '.join(_IMAGES)}, a directory, a git repository or a URL"


def _what_is_wrong(value: str) -> str:
    if "://" in value:
        return "unknown kind of source"
    return "not a directory" if os.path.exists(value) else "no such directory"


def unreadable(dockerfile: Path, error: OSError) -> ContextError:
    """Return the error for a Dockerfile that is there and cannot be read."""
    hint = "make it readable for this user, or name another one with -f PATH"
    if error.errno == errno.EISDIR:
        hint = f"name the file itself: -f {dockerfile / 'Dockerfile'}"
    return ContextError(f"cannot read the Dockerfile {dockerfile}: {error.strerror}", hint=hint)


def no_dockerfile(context: Path, asked: Path | None) -> ContextError:
    """Return the error for a Dockerfile that is not there: `asked` for with -f, or in `context`."""
    hint = "name it with -f PATH, or give the folder that has it"
    similar = _dockerfiles(_names(context))
    if len(similar) == 1:
        hint = f"did you mean -f {context / similar[0]}?"
    if asked is None:
        return ContextError(f"there is no Dockerfile in {context}", hint=hint)
    return ContextError(f"there is no Dockerfile at {asked}", hint=hint)


def not_inside(where: str, asked: Path | None, names: Sequence[str]) -> ContextError:
    """Return the error for a Dockerfile that is not in a context, `where`, which holds `names`."""
    similar = _dockerfiles(names)
    hint = "name it with -f PATH: where it is inside the context"
    if len(similar) == 1:
        hint = f"did you mean -f {similar[0]}?"
    what = "Dockerfile" if asked is None else str(asked)
    return ContextError(f"there is no {what} in {where}", hint=hint)


def _names(context: Path) -> list[str]:
    try:
        return os.listdir(context)
    except OSError:
        return []


def _dockerfiles(names: Sequence[str]) -> list[str]:
    return [
        name
        for name in sorted(names)
        if "dockerfile" in name.lower() and not name.endswith(".dockerignore")
    ]
