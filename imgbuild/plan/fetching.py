"""Sources of ADD that are fetched: URLs and git repositories, told apart and checked as text."""

import re

from imgbuild.dockerfile.instructions import Add, Copy
from imgbuild.dockerfile.quoting import quote
from imgbuild.errors import DockerfileError
from imgbuild.plan.gitref import GitRef, parse_git_ref
from imgbuild.plan.model import GitSource, RemoteSource, UrlSource

_REMOTE = re.compile(r"[a-zA-Z0-9]+://|[a-zA-Z0-9_-]+@")
_URL = ("http://", "https://")
# At the start of a word, or of a value behind its name: not in the query of another URL. A quote may
# be part of a password, unless it ends a word of a list.
_USER = re.compile(
    r"""(^|[\s"'([,])((?:[\w.-]+=)*["']?[a-zA-Z0-9+.-]+://)"""
    r"""((?:[^/?#\s"']|["'](?![],\s]|$))*)@"""
)
_HEX = re.compile(r"[0-9a-f]*")
_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_SHA256 = 64


def remote_source(path: str, instruction: Copy | Add, checksum: str) -> RemoteSource | None:
    """Return what of `path` is to be fetched, None for a path of a context.

    Raises `DockerfileError` in BuildKit's words; COPY fetches nothing.
    """
    git = _git_ref(path)
    if git is None and not path.startswith(_URL):
        return None
    if isinstance(instruction, Copy):
        what = "URL" if git is None else "git ref"
        raise DockerfileError(
            f"source can't be a {what} for COPY",
            hint="COPY takes files of the build context; ADD fetches",
        )
    if git is not None:
        return _git_source(git, instruction.keep_git_dir, checksum)
    if checksum:
        _check_digest(checksum)
    return UrlSource(path, checksum)


def check_single_source(sources: tuple[str, ...]) -> None:
    """Raise `DockerfileError` unless there is one source, which --checksum can be of."""
    if len(sources) != 1:
        raise DockerfileError("checksum can't be specified for multiple sources")
    if not sources[0].startswith(_URL) and _git_ref(sources[0]) is None:
        raise DockerfileError("checksum requires HTTP(S) or Git sources")


def redacted(text: str) -> str:
    """Return `text` with the user names and passwords of its URLs hidden, but for `ssh://git@host`."""
    return _USER.sub(_hidden, text) if "@" in text else text


def _hidden(found: re.Match[str]) -> str:
    before, scheme, user = found.groups()
    if ":" in user:
        return f"{before}{scheme}xxxxx:xxxxx@"
    # A name alone may be a token, but for ssh.
    return f"{before}{scheme}xxxxx@" if "http" in scheme.lower() else found[0]


def _git_ref(path: str) -> GitRef | None:
    if not _REMOTE.match(path):
        return None
    found = parse_git_ref(path)
    return None if found is None or found.like_local else found


def _git_source(git: GitRef, keep: bool | None, checksum: str) -> GitSource:
    if keep is not None and git.keep_git_dir is not None and keep != git.keep_git_dir:
        raise DockerfileError(
            "inconsistent keep-git-dir configuration", hint="give it in the flag or in the query"
        )
    if checksum and git.checksum and checksum != git.checksum:
        raise DockerfileError(
            f"checksum mismatch {quote(checksum)} != {quote(git.checksum)}",
            hint="give it in the flag or in the query",
        )
    kept = git.keep_git_dir if git.keep_git_dir is not None else keep
    return GitSource(git, bool(kept), git.checksum or checksum)


def _check_digest(text: str) -> None:
    """Raise `DockerfileError` in the words of Go's go-digest unless `text` is `sha256:HEX`."""
    algorithm, colon, encoded = text.partition(":")
    hint = "write it as sha256:, followed by the 64 digits that `sha256sum FILE` prints"
    if not colon or not algorithm or not encoded:
        raise DockerfileError("invalid checksum digest format", hint=hint)
    if algorithm != "sha256":
        is_digest = _DIGEST.fullmatch(text)
        reason = "unsupported digest algorithm" if is_digest else "invalid checksum digest format"
        raise DockerfileError(reason, hint=hint)
    if len(encoded) != _SHA256:
        raise DockerfileError("invalid checksum digest length", hint=hint)
    if not _HEX.fullmatch(encoded):
        raise DockerfileError("invalid checksum digest format", hint=hint)
