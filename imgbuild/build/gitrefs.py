"""Which commit of a repository is meant: a branch, a tag, another reference, a commit by its name.

Source of the rules: BuildKit's source/git. A name is looked for as it stands below `refs/`, then
among branches, then among tags.
"""

import re
from typing import NamedTuple

from imgbuild.build.gitconnection import Connection
from imgbuild.errors import ContextError
from imgbuild.plan.model import GitSource

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-fA-F]+")
_NO_NAME = re.compile(r"[\s~^:?*\[\\\x00-\x1f\x7f]|\.\.|@\{|//|^[-/]|/$|\.lock$")


class Found(NamedTuple):
    """An object: a commit or an annotated tag. `name` is its full name, empty when it has none.

    `peeled` is the commit of an annotated tag, as far as the server told.
    """

    object: str
    name: str = ""
    peeled: str = ""


def is_commit(text: str) -> bool:
    """Tell whether `text` is the full name of an object, as SHA-1 or SHA-256."""
    return bool(_COMMIT.fullmatch(text))


def checksums(source: GitSource) -> tuple[str, ...]:
    """Return what the commit has to begin with; raise `ContextError` for what is no commit."""
    given = tuple(filter(None, (source.checksum, source.repository.checksum)))
    for text in given:
        if not _HEX.fullmatch(text):
            raise ContextError(
                f"invalid checksum {text} for Git URL, expected hex commit hash",
                hint="give the name of a commit, or the beginning of one",
            )
    return tuple(text.lower() for text in given)


def check_commit(wanted: tuple[str, ...], found: Found, commit: str) -> None:
    """Raise `ContextError` unless the object or its commit begins with all of `wanted`."""
    names = list(dict.fromkeys(filter(None, (found.object, commit))))
    for text in wanted:
        if not any(name.startswith(text) for name in names):
            raise ContextError(
                f"expected checksum to match {text}, got {' or '.join(names)}",
                hint="what the reference names has changed; if you trust it, change the checksum",
            )


def resolve(connection: Connection, source: GitSource, wanted: tuple[str, ...]) -> Found:
    """Return the object that `source` names; ask the server unless it is named by its commit.

    Raises `GitFailedError`, and `ContextError` when there is no such reference.
    """
    ref = source.repository.ref
    if source.repository.fetch_by_commit:
        return _by_commit(ref, wanted)
    if is_commit(ref):
        return Found(ref)
    if not ref:
        return _default(connection)
    if _NO_NAME.search(ref):
        raise _no_ref(connection, ref)
    names = [f"refs/{ref.removeprefix('refs/')}"]
    names += [f"refs/{kind}/{ref.removeprefix(f'refs/{kind}/')}" for kind in ("heads", "tags")]
    asked = [*names, *(f"{name}^{{}}" for name in names)]
    told = connection.run(["ls-remote", "--quiet"], *asked)
    there = {name: sha for sha, name in _lines(told)}
    for name in names:
        if name in there:
            return Found(there[name], name, there.get(f"{name}^{{}}", ""))
    raise _no_ref(connection, ref)


def _by_commit(ref: str, wanted: tuple[str, ...]) -> Found:
    for text in wanted:
        if is_commit(text):
            return Found(text, ref if ref.startswith("refs/") and not _NO_NAME.search(ref) else "")
    raise ContextError(
        "fetch-by-commit needs the full name of a commit", hint="give it as checksum=COMMIT"
    )


def _default(connection: Connection) -> Found:
    told = connection.run(["ls-remote", "--quiet", "--symref"], "HEAD")
    name, sha = "", ""
    for left, right in _lines(told):
        if right == "HEAD" and left.startswith("ref: "):
            name = left.removeprefix("ref: ")
        elif right == "HEAD":
            sha = left
    if not is_commit(sha):
        raise ContextError(
            f"could not find default branch for repository: {connection.remote.url}",
            hint="name a branch or a tag behind #",
        )
    return Found(sha, name if name.startswith("refs/") and not _NO_NAME.search(name) else "")


def _lines(told: bytes) -> list[tuple[str, str]]:
    pairs = (line.split("\t", 1) for line in told.decode("utf-8", "surrogateescape").splitlines())
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def _no_ref(connection: Connection, ref: str) -> ContextError:
    return ContextError(
        f"repository does not contain ref {ref}",
        hint=f"see what there is: git ls-remote {connection.remote.url}"
        + ("; a commit has to be given with all its digits" if _HEX.fullmatch(ref) else ""),
    )
