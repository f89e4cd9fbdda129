"""COPY and ADD: expanded, checked, and made into a step."""

import re

from imgbuild.dockerfile.instructions import Add, Copy
from imgbuild.errors import ContextError, DockerfileError, Span
from imgbuild.plan.chmod import parse_changes
from imgbuild.plan.heredocs import copied_documents
from imgbuild.plan.model import ContextSource, CopyStep, Source
from imgbuild.plan.paths import destination, source_path
from imgbuild.plan.scope import Scope
from imgbuild.plan.support import unsupported

_OCTAL = re.compile(r"[0-7]+")
_REMOTE = re.compile(r"[a-zA-Z0-9]+://|[a-zA-Z0-9_-]+@")
_URL = ("http://", "https://")
_MOST = 0o7777


def plan_copy(
    instruction: Copy | Add, scope: Scope, workdir: str, source: Source, name: str
) -> CopyStep:
    """Return the step of a COPY or ADD; `source` is where --from points.

    Raises `DockerfileError` in BuildKit's words, and for what is not supported yet.
    """
    # The order of expansion decides which error is told first; it is BuildKit's.
    chown = _expanded(instruction.chown, scope)
    chmod = _expanded(instruction.chmod, scope)
    sources = tuple(scope.expand(path) for path in instruction.sources)
    dest = scope.expand(instruction.dest)
    documents = copied_documents(instruction, scope.values.get)
    mode = None if chmod is None else parse_mode(chmod)
    if isinstance(instruction, Add) and instruction.checksum:
        _check_checksum(scope.expand(instruction.checksum), sources)
    for path in sources:
        _check_remote(path, instruction)
    if instruction.exclude:
        _check_patterns(instruction.exclude)
    pivots = None
    if isinstance(instruction, Copy) and instruction.parents:
        roots, pivots = split_parents(sources)
    else:
        roots = tuple(map(source_path, sources))
    return CopyStep(
        span=instruction.span,
        name=name,
        created_by=_history(instruction, chown, chmod, sources, dest),
        source=source if isinstance(instruction, Copy) else ContextSource(),
        sources=roots,
        dest=destination(workdir, dest),
        chown=chown,
        chmod=mode,
        unpack=isinstance(instruction, Add) and instruction.unpack is not False,
        documents=documents,
        exclude=instruction.exclude,
        # BuildKit drops it so, too: the layer has the modes of what is below it.
        link=instruction.link and chmod is None,
        pivots=pivots,
    )


def copy_tree(context: str, span: Span, name: str) -> CopyStep:
    """Return the step that makes an image of the context that FROM names."""
    return CopyStep(
        span=span,
        name=name,
        created_by=f"FROM {context} # buildkit",
        source=ContextSource(context),
        sources=("",),
        dest="/",
        chown=None,
        chmod=None,
        unpack=False,
    )


def parse_mode(text: str) -> int | str:
    """Return the mode that --chmod gives in octal, or a symbolic one as it is.

    Raises `DockerfileError` for anything else.
    """
    if (
        _OCTAL.fullmatch(text)
        and (mode := int(text[-12:], 8)) <= _MOST
        and not text[:-12].strip("0")
    ):
        return mode
    if not text[0].isdecimal():
        try:
            parse_changes(text)
        except ValueError:
            raise DockerfileError(
                f"invalid chmod parameter: '{text}': invalid syntax",
                hint="write a mode such as 755, u+x or u=rwX,go=rX",
            ) from None
        return text
    raise DockerfileError(
        f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777",
        hint="write a mode such as 755, u+x or u=rwX,go=rX",
    )


def _expanded(value: str | None, scope: Scope) -> str | None:
    # An empty value, written or expanded, is as good as none.
    return scope.expand(value) or None if value else None


def split_parents(sources: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split sources of --parents at the first `/./`: what is before it is not kept."""
    roots, pivots = [], []
    for path in sources:
        root, found, kept = path.partition("/./")
        roots.append(source_path(root) if found else "")
        pivots.append(source_path(kept if found else path))
    return tuple(roots), tuple(pivots)


def _check_patterns(patterns: tuple[str, ...]) -> None:
    from imgbuild.dockerfile.ignore import IgnoreMatcher

    try:
        IgnoreMatcher(patterns)
    except ContextError as error:
        raise DockerfileError(
            f"invalid excludepatterns: {error.message}", hint="correct the pattern of --exclude"
        ) from None


def _is_git(path: str) -> bool:
    if not _REMOTE.match(path):
        return False
    from imgbuild.plan.gitref import parse_git_ref

    found = parse_git_ref(path)
    return found is not None and not found.like_local


def _check_checksum(checksum: str, sources: tuple[str, ...]) -> None:
    if not checksum:
        return
    if len(sources) != 1:
        raise DockerfileError("checksum can't be specified for multiple sources")
    if not sources[0].startswith(_URL) and not _is_git(sources[0]):
        raise DockerfileError("checksum requires HTTP(S) or Git sources")


def _check_remote(path: str, instruction: Copy | Add) -> None:
    git = _is_git(path)
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
    if isinstance(instruction, Copy) and instruction.parents:
        words.append("--parents")
    if chown:
        words.append(f"--chown={chown}")
    if chmod:
        words.append(f"--chmod={chmod}")
    documents = (f"<<{document.name}" for document in instruction.heredocs)
    return " ".join((*words, *sources, *documents, dest, "# buildkit"))
