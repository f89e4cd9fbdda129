"""Addresses of git repositories: taken apart, checked, and made from the relative ones of submodules.

Pure. Only what goes over a network is allowed: no local paths, no helper programs (`ext::`), and
nothing that git or ssh could take for an option.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from imgbuild.errors import ContextError

_SCP = re.compile(r"(?:([a-zA-Z0-9_][\w.-]*)@)?([a-zA-Z0-9][a-zA-Z0-9.-]*):([^:].*)")
_HELPER = re.compile(r"[a-zA-Z0-9+.-]*::")
_PROTOCOL = re.compile(r"[a-zA-Z0-9+.-]+://")
_HOST = re.compile(r"(?:[a-zA-Z0-9_][a-zA-Z0-9_.-]*|\[[0-9a-fA-F:.]+\])(?::[0-9]*)?")
PROTOCOLS = ("https", "http", "ssh", "git")
_WEB = ("https", "http")


class Remote(NamedTuple):
    """A repository on a network.

    `host` has the port. `url` is what git is told: without password, and for http(s) without
    user; those are in `login` as `user:password`, or it is empty.
    """

    scheme: str
    host: str
    url: str
    login: str = ""

    @property
    def is_web(self) -> bool:
        return self.scheme in _WEB

    @property
    def origin(self) -> str:
        """The part of the address that credentials are for."""
        return f"{self.scheme}://{self.host}"


def parse_remote(text: str) -> Remote:
    """Take an address apart; raise `ContextError` for one that is not allowed."""
    if not text.isprintable() or text.startswith("-") or _HELPER.match(text):
        raise _refused(text)
    if _PROTOCOL.match(text):
        return _from_url(text)
    scp = _SCP.fullmatch(text)
    if scp is None or scp[3].startswith("-"):
        raise _refused(text)
    return Remote("ssh", scp[2], text)


def relative_remote(base: Remote, text: str) -> Remote:
    """Return the repository that a submodule of `base` names, as git resolves `./` and `../`."""
    if not text.startswith(("./", "../")):
        return parse_remote(text)
    prefix, path = _split(base.url)
    path = path.rstrip("/")
    rest = text
    while rest.startswith(("./", "../")):
        dots, _, rest = rest.partition("/")
        if dots == "..":
            if not path.strip("/"):
                raise _refused(text)
            path = path.rpartition("/")[0]
    separator = "/" if path or "://" in prefix else ""
    found = parse_remote(f"{prefix}{path}{separator}{rest}")
    return found._replace(login=base.login)


def redirected(remote: Remote, location: str) -> Remote | None:
    """Return where a server says that the repository is, when credentials may go there as well.

    They may where the host stays the same and the connection does not lose its encryption.
    """
    place = location.partition("?")[0].removesuffix("/info/refs")
    if place.startswith("//"):
        place = f"{remote.scheme}:{place}"
    elif place.startswith("/"):
        place = remote.origin + place
    try:
        found = parse_remote(place)
    except ContextError:
        return None
    upgraded = remote.scheme == "http" and found.origin == f"https://{remote.host}"
    same = found.origin == remote.origin or upgraded
    return found._replace(login=remote.login) if same and found != remote else None


def _from_url(text: str) -> Remote:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises for a port that is none
    except ValueError:
        raise _refused(text) from None
    scheme = parts.scheme.lower()
    user_info, _, host = parts.netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    if scheme not in PROTOCOLS or not _HOST.fullmatch(host) or user.startswith("-"):
        raise _refused(text)
    if parts.path.startswith("/-") and scheme in {"ssh", "git"}:
        raise _refused(text)
    keep = f"{user}@" if scheme == "ssh" and user else ""
    tail = text.partition("://")[2].partition("/")[2]
    login = f"{unquote(user)}:{unquote(password)}" if scheme in _WEB and user_info else ""
    host = host.lower()
    return Remote(scheme, host, f"{scheme}://{keep}{host}/{tail}", login)


def _split(url: str) -> tuple[str, str]:
    """Split an address before its path."""
    if "://" in url:
        scheme, _, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host}", slash + path
    host, _, path = url.partition(":")
    return f"{host}:", path


def without_login(text: str) -> str:
    """Return an address as it may be shown."""
    scheme, found, rest = text.partition("://")
    if not found:
        return text
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _refused(text: str) -> ContextError:
    shown = "".join(c if c.isprintable() else "?" for c in without_login(text))
    return ContextError(
        f"not a git address that can be fetched: {shown}",
        hint=f"what can be fetched begins with {', '.join(f'{p}://' for p in PROTOCOLS)} "
        "or is user@host:path",
    )
