"""Credentials of git repositories: which secret goes to which server, and only there.

Source of the rules: BuildKit's secrets GIT_AUTH_HEADER and GIT_AUTH_TOKEN, each also with
`.HOST` behind it.
"""

import base64
from pathlib import Path
from typing import NamedTuple, Protocol

from imgbuild.build.gitremote import Remote
from imgbuild.errors import ContextError

_HEADER = "GIT_AUTH_HEADER"
_TOKEN = "GIT_AUTH_TOKEN"  # noqa: S105  the name of one
_TOKEN_USER = "x-access-token"  # noqa: S105  what BuildKit and GitHub's own checkout send


class GitSecrets(Protocol):
    """What the caller gave to the build; both return None for what was not given."""

    def get(self, name: str) -> bytes | None: ...

    def ssh(self, name: str = "default") -> Path | None: ...


class Authorization(NamedTuple):
    """The value of an Authorization header, and all texts that must not be shown."""

    value: str
    private: tuple[str, ...]


def authorization(remote: Remote, top: Remote, secrets: GitSecrets) -> Authorization | None:
    """Return what to send to the server of `remote`, or None.

    `top` is the repository that the Dockerfile or the caller names; `remote` may be a submodule
    of it, whose address a stranger wrote. Secrets without a host are for the server of `top`
    alone; those with one go to no server without encryption but that of `top`.
    """
    if not remote.is_web:
        return None
    own = remote.origin == top.origin
    names = []
    if own or remote.scheme == "https":
        names += [f"{_HEADER}.{remote.host}", f"{_TOKEN}.{remote.host}"]
    if own:
        names += [_HEADER, _TOKEN]
    for name in names:
        value = secrets.get(name)
        if value is not None:
            return _from_secret(name, value)
    return _basic(remote.login) if remote.login else None


def _from_secret(name: str, value: bytes) -> Authorization:
    text = value.decode("utf-8", "surrogateescape").strip()
    if not text.isprintable() or not text:
        raise ContextError(
            f"the secret {name} cannot be sent to a git server",
            hint="it has to be one line of text, without control characters",
        )
    if name.startswith(_TOKEN):
        return _basic(f"{_TOKEN_USER}:{text}")
    return Authorization(text, (text, text.rpartition(" ")[2]))


def _basic(login: str) -> Authorization:
    encoded = base64.b64encode(login.encode("utf-8", "surrogateescape")).decode()
    user, _, password = login.partition(":")
    private = password or user
    return Authorization(f"basic {encoded}", (encoded, private))
