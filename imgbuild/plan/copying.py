"""COPY and ADD: expanded, checked, and made into a step."""

import re

from imgbuild.dockerfile.instructions import Add, Copy
from imgbuild.errors import ContextError, DockerfileError, Span
from imgbuild.plan.chmod import parse_changes
from imgbuild.plan.fetching import check_single_source, redacted, remote_source
from imgbuild.plan.heredocs import copied_documents
from imgbuild.plan.model import ContextSource, CopyStep, RemoteSource, Source, UrlSource
from imgbuild.plan.paths import destination, source_path, written_source
from imgbuild.plan.scope import Scope

_OCTAL = re.compile(r"[0-7]+")
_MOST = 0o7777


def plan_copy(
    instruction: Copy | Add, scope: Scope, workdir: str, source: Source, name: str
) -> CopyStep:
    """Return the step of a COPY or ADD; `source` is where --from points.

    Raises `DockerfileError` in BuildKit's words.
    """
    # The order of expansion decides which error is told first; it is BuildKit's.
    chown = _expanded(instruction.chown, scope)
    chmod = _expanded(instruction.chmod, scope)
    sources = tuple(scope.expand(path) for path in instruction.sources)
    dest = scope.expand(instruction.dest)
    documents = copied_documents(instruction, scope.values.get)
    mode = None if chmod is None else parse_mode(chmod)
    checksum = scope.expand(instruction.checksum or "") if isinstance(instruction, Add) else ""
    if checksum:
        check_single_source(sources)
    remote = [remote_source(path, instruction, checksum) for path in sources]
    if instruction.exclude:
        _check_patterns(instruction.exclude)
    roots: tuple[str | RemoteSource, ...]
    pivots = None
    if isinstance(instruction, Copy) and instruction.parents:
        roots, pivots = split_parents(sources)
    else:
        pairs = zip(remote, sources, strict=True)
        roots = tuple(found or written_source(path) for found, path in pairs)
    return CopyStep(
        span=instruction.span,
        name=redacted(name),
        created_by=_history(instruction, chown, chmod, sources, dest),
        source=source if isinstance(instruction, Copy) else ContextSource(),
        sources=roots,
        dest=destination(workdir, dest),
        chown=chown,
        chmod=mode,
        unpack=isinstance(instruction, Add) and instruction.unpack is not False,
        unpack_fetched=isinstance(instruction, Add)
        and bool(instruction.unpack)
        and any(isinstance(found, UrlSource) for found in remote),
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
    return " ".join((*words, *map(redacted, sources), *documents, dest, "# buildkit"))
