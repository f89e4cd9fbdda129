"""COPY and ADD: expanded, checked, and made into a step."""

import re

from imgbuild.dockerfile.instructions import Add, Copy
from imgbuild.errors import DockerfileError
from imgbuild.plan.model import ContextSource, CopyStep, Source
from imgbuild.plan.paths import destination, source_path
from imgbuild.plan.scope import Scope
from imgbuild.plan.support import refuse_copy_features, unsupported

_OCTAL = re.compile(r"[0-7]+")
_SYMBOLIC = re.compile(
    r"[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+(?:,[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+)*"
)
_GIT = re.compile(
    r"https?://[^?#]*\.git(?:[?#].*)?|(?:git|ssh)://.*|[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:.*"
)
_URL = ("http://", "https://")
_MOST = 0o7777


def plan_copy(
    instruction: Copy | Add, scope: Scope, workdir: str, source: Source, name: str
) -> CopyStep:
    """Return the step of a COPY or ADD; `source` is where --from points.

    Raises `DockerfileError` in BuildKit's words, and for what is not supported yet.
    """
    refuse_copy_features(instruction)
    # The order of expansion decides which error is told first; it is BuildKit's.
    chown = _expanded(instruction.chown, scope)
    chmod = _expanded(instruction.chmod, scope)
    sources = tuple(scope.expand(path) for path in instruction.sources)
    dest = scope.expand(instruction.dest)
    mode = None if chmod is None else parse_mode(chmod)
    for path in sources:
        _check_remote(path, instruction)
    return CopyStep(
        span=instruction.span,
        name=name,
        created_by=_history(instruction, chown, chmod, sources, dest),
        source=source if isinstance(instruction, Copy) else ContextSource(),
        sources=tuple(map(source_path, sources)),
        dest=destination(workdir, dest),
        chown=chown,
        chmod=mode,
        unpack=isinstance(instruction, Add) and instruction.unpack is not False,
    )


def parse_mode(text: str) -> int:
    """Return the mode that --chmod gives in octal; raise `DockerfileError` otherwise."""
    if (
        _OCTAL.fullmatch(text)
        and (mode := int(text[-12:], 8)) <= _MOST
        and not text[:-12].strip("0")
    ):
        return mode
    if _SYMBOLIC.fullmatch(text):
        raise unsupported(
            f"the symbolic mode --chmod={text}", "write the mode in octal: --chmod=755"
        )
    raise DockerfileError(
        f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777",
        hint="write the mode in octal: --chmod=755",
    )


def _expanded(value: str | None, scope: Scope) -> str | None:
    # An empty value, written or expanded, is as good as none.
    return scope.expand(value) or None if value else None


def _check_remote(path: str, instruction: Copy | Add) -> None:
    git = _GIT.fullmatch(path) is not None
    if not git and not path.startswith(_URL):
        return
    if isinstance(instruction, Copy):
        what = "git ref" if git else "URL"
        raise DockerfileError(
            f"source can't be a {what} for COPY", hint="COPY takes files of the build context"
        )
    what = "a git repository" if git else "a URL"
    raise unsupported(f"ADD of {what}", "fetch it before the build, or with a RUN")


def _history(
    instruction: Copy | Add,
    chown: str | None,
    chmod: str | None,
    sources: tuple[str, ...],
    dest: str,
) -> str:
    words = ["COPY" if isinstance(instruction, Copy) else "ADD"]
    if chown:
        words.append(f"--chown={chown}")
    if chmod:
        words.append(f"--chmod={chmod}")
    return " ".join((*words, *sources, dest, "# buildkit"))
