"""Where a build reads from, and what to say when nothing usable is there."""

import errno
import os
import re
from pathlib import Path

from imgbuild.errors import ContextError, UsageError

# As docker tells URLs and repositories from folders (moby builder/remotecontext/urlutil).
_REMOTE = re.compile(r"(https?:/|git:/|git@|ssh:/|github\.com/)")


def check_context(context: Path) -> None:
    """Raise `UsageError` unless `context` is a directory."""
    if os.path.isdir(context):
        return
    text = str(context)
    if text == "-" or _REMOTE.match(text):
        raise UsageError(
            f"contexts from standard input, URLs and git are not supported yet: {text}",
            hint="give a folder; a Dockerfile can come from standard input: -f - PATH"
            if text == "-"
            else "fetch it first, and give the folder",
        )
    raise UsageError(
        f"the build context {text} is not a directory",
        hint="give the folder whose files COPY may use, usually .",
    )


def unreadable(dockerfile: Path, error: OSError) -> ContextError:
    """Return the error for a Dockerfile that is there and cannot be read."""
    hint = "make it readable for this user, or name another one with -f PATH"
    if error.errno == errno.EISDIR:
        hint = f"name the file itself: -f {dockerfile / 'Dockerfile'}"
    return ContextError(f"cannot read the Dockerfile {dockerfile}: {error.strerror}", hint=hint)


def no_dockerfile(context: Path, asked: Path | None) -> ContextError:
    """Return the error for a Dockerfile that is not there: `asked` for with -f, or in `context`."""
    hint = "name it with -f PATH, or give the folder that has it"
    similar = _dockerfiles(context)
    if len(similar) == 1:
        hint = f"did you mean -f {context / similar[0]}?"
    if asked is None:
        return ContextError(f"there is no Dockerfile in {context}", hint=hint)
    return ContextError(f"there is no Dockerfile at {asked}", hint=hint)


def _dockerfiles(context: Path) -> list[str]:
    try:
        names = os.listdir(context)
    except OSError:
        return []
    return [
        name
        for name in sorted(names)
        if "dockerfile" in name.lower() and not name.endswith(".dockerignore")
    ]
