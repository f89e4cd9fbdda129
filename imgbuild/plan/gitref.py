"""References to git repositories: `https://host/name.git?subdir=x#ref`, as text.

Source of the rules: BuildKit's dfgitutil.ParseGitRef, gitutil.ParseURL and sshutil. Nothing here
asks a repository.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from imgbuild.dockerfile.quoting import quote
from imgbuild.errors import DockerfileError

_PROTOCOL = re.compile(r"([a-zA-Z0-9]+)://")
_SCP = re.compile(r"([a-zA-Z0-9_-]+)@([a-zA-Z0-9.-]+):(.*?)(?:\?(.*?))?(?:#(.*))?", re.DOTALL)
_PERCENT = re.compile(r"%(?![0-9a-fA-F]{2})")
_PORT = re.compile(r"(?::[0-9]*)?")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_MAY_BE_EMPTY = frozenset({"submodules", "keep-git-dir", "fetch-by-commit"})
_TEXTS = frozenset(
    {"ref", "tag", "branch", "subdir", "checksum", "commit", "mtime"}
)  # with _MAY_BE_EMPTY, all keys there are
_MTIMES = ("checkout", "commit")


class GitRef(NamedTuple):
    """A repository and what of it is meant; None is "as the instruction or the default says".

    `like_local` tells that the text could be a local path as well (`github.com/a/b`): only a
    build context takes it for a repository. `unencrypted` is for `git://` and `http://`.
    """

    remote: str
    short_name: str
    ref: str = ""
    checksum: str = ""
    subdir: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None
    mtime: str = ""
    fetch_by_commit: bool = False
    like_local: bool = False
    unencrypted: bool = False


class _Parts(NamedTuple):
    scheme: str
    path: str
    remote: str
    query: str
    fragment: str


def parse_git_ref(text: str) -> GitRef | None:
    """Return the repository that `text` names; None when it names none.

    Raises `DockerfileError` in BuildKit's words for a repository with a query that is wrong.
    """
    if text.startswith(("./", "../")):
        return None
    like_local = text.startswith("github.com/")
    parts = _parts(f"https://{text}" if like_local else text)
    if parts is None:
        return None
    web = parts.scheme in {"http", "https"}
    if web and not like_local and not parts.path.endswith(".git"):
        return None
    remote = parts.remote.removeprefix("https://") if like_local else parts.remote
    ref, _, subdir = parts.fragment.partition(":")
    found = GitRef(
        remote,
        remote.rpartition("/")[2].removesuffix(".git"),
        ref,
        subdir=subdir,
        like_local=like_local,
        unencrypted=parts.scheme in {"http", "git"},
    )
    return _with_query(found, _query(parts.query)) if parts.query else found


def _parts(text: str) -> _Parts | None:
    if protocol := _PROTOCOL.match(text):
        return _url_parts(protocol[1].lower(), text)
    if scp := _SCP.fullmatch(text):
        remote = f"{scp[1]}@{scp[2]}:{scp[3]}"
        return _Parts("ssh", scp[3], remote, scp[4] or "", scp[5] or "")
    return None


def _url_parts(scheme: str, text: str) -> _Parts | None:
    if scheme not in {"http", "https", "ssh", "git"} or not text.isprintable():
        return None
    url, _, fragment = text.partition("#")
    url, _, query = url.partition("?")
    authority, slash, path = url.partition("://")[2].partition("/")
    host = authority.rpartition("@")[2]
    port = host.rpartition("]")[2] if host.startswith("[") else host[len(host.partition(":")[0]) :]
    # What Go's url.Parse refuses is no URL, so no repository.
    if _PERCENT.search(path) or _PERCENT.search(fragment) or not _PORT.fullmatch(port):
        return None
    remote = f"{scheme}{url[len(scheme) :]}"
    return _Parts(scheme, _unquoted(slash + path), remote, query, _unquoted(fragment))


def _query(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in text.split("&"):
        # Go leaves out what it cannot read.
        if not pair or ";" in pair or _PERCENT.search(pair):
            continue
        key, _, value = pair.replace("+", " ").partition("=")
        found.setdefault(_unquoted(key), []).append(_unquoted(value))
    return found


def _unquoted(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote

    return unquote(text, errors="surrogateescape")


def _with_query(found: GitRef, query: Mapping[str, list[str]]) -> GitRef:
    values: dict[str, str] = {}
    for key, given in query.items():
        values[key] = _only(key, given)
    checksum = values.get("commit", values.get("checksum", ""))
    mtime = values.get("mtime", "")
    if mtime and mtime not in _MTIMES:
        raise DockerfileError(
            f'invalid mtime value: {quote(mtime)} (must be "checkout" or "commit")'
        )
    ref = _agreed("ref", found.ref, values.get("ref", ""))
    subdir = _agreed("subdir", found.subdir, values.get("subdir", ""))
    tag, branch = values.get("tag", ""), values.get("branch", "")
    if tag:
        ref = _agreed("ref", ref, _under("refs/tags/", tag))
    if branch:
        if tag:
            raise DockerfileError("branch conflicts with tag", hint="give one of them")
        ref = _agreed("ref", ref, _under("refs/heads/", branch))
    return found._replace(
        ref=ref,
        subdir=subdir,
        checksum=checksum,
        mtime=mtime,
        keep_git_dir=_flag(values, "keep-git-dir"),
        submodules=_flag(values, "submodules"),
        fetch_by_commit=_flag(values, "fetch-by-commit") or False,
    )


def _only(key: str, given: list[str]) -> str:
    if len(given) > 1:
        raise DockerfileError(f"query {quote(key)} has multiple values")
    if not given[0] and key not in _MAY_BE_EMPTY:
        raise DockerfileError(f"query {quote(key)} has no value")
    if key not in _TEXTS | _MAY_BE_EMPTY:
        known = ", ".join(sorted(_TEXTS | _MAY_BE_EMPTY))
        raise DockerfileError(f"unexpected query {quote(key)}", hint=f"what there is: {known}")
    return given[0]


def _flag(values: Mapping[str, str], key: str) -> bool | None:
    value = values.get(key)
    if value is None:
        return None
    if value and value not in _TRUE | _FALSE:
        raise DockerfileError(f"invalid {key} value: {quote(value)}", hint="write true or false")
    return value not in _FALSE


def _agreed(what: str, one: str, other: str) -> str:
    if one and other and one != other:
        raise DockerfileError(
            f"{what} conflicts: {quote(one)} vs {quote(other)}", hint="give one of them"
        )
    return one or other


def _under(prefix: str, name: str) -> str:
    return name if name.startswith(prefix) else prefix + name
