"""What git said, turned into errors that tell what to do."""

import re
import signal
from collections.abc import Sequence

from imgbuild.build.gitcommand import GitFailedError, RemoteFailedError
from imgbuild.build.gitremote import Remote, without_login
from imgbuild.errors import (
    AuthenticationError,
    ContextError,
    DiskFullError,
    ImgbuildError,
    UnreachableError,
)

_PREFIX = re.compile(r"(?:fatal|error|remote): *", re.IGNORECASE)
# These come without a prefix; what git says after them tells nothing.
_TOLD_BY_SSH = re.compile(r"Host key verification failed|Permission denied \(|^ssh: ")
_ADDRESS = re.compile(r"[a-z]+://[^\s'\"]+")
_DAMAGED = re.compile(
    r"corrupt|bad object|is empty|not a git repository: |unable to read|bad signature|bad ref|"
    r"broken ref|inflate|not a valid object|file smaller|does not match index|index file open",
    re.IGNORECASE,
)
_HIDDEN = "xxxxx"
_PRIVATE = (
    "see that the address is right; for a private repository give a token: "
    "--secret id=GIT_AUTH_TOKEN.{host},env=NAME"
)
_NOT_TAKEN = (
    "see that the address is right, and that the secret is valid and may read the repository"
)
_AWAY = (
    "see that {host} can be reached from here, and try again; "
    "a proxy is taken from HTTPS_PROXY and HTTP_PROXY"
)
_UNKNOWN_KEY = (
    "the server's key is not among the known ones, or has changed; "
    "see that it is right, then put it into the known_hosts file that the build uses"
)
_ELSEWHERE = (
    "the server sends on to another one, where credentials are not carried: "
    "write the address that it sends to"
)
# The first pattern that matches decides; the order goes from the special to the general.
_HINTS = (
    (
        r"File too large|died of signal 25\b",
        "it is larger than --download-limit (download_limit) allows",
    ),
    ("Host key verification failed", _UNKNOWN_KEY),
    (
        "Permission denied|Too many authentication failures",
        "the SSH agent has no key that the server takes: see `ssh-add -l`",
    ),
    ("could not read (?:Username|Password)|Authentication failed|error: 40[13]", _PRIVATE),
    ("repository '?.*'? not found|Repository not found|error: 404", _PRIVATE),
    (r"returned error: 30\d", _ELSEWHERE),
    (
        "SSL|certificate",
        "the server's certificate is not trusted; for an own authority, set SSL_CERT_FILE",
    ),
    ("resolve host|Name or service not known|Failed to connect|Couldn't connect", _AWAY),
    ("unable to connect|timed out|refused|unreachable|too slow|Less than", _AWAY),
    ("Empty reply|RPC failed|early EOF|hung up", _AWAY),
    (
        "invalid path|fsck",
        "the repository holds something that could harm a checkout; git refuses it everywhere",
    ),
    (
        "redirect|transport '.*' not allowed|Protocol .* (?:not supported|disabled)",
        "the server sends on to an address that is not allowed: write the one you trust",
    ),
)


def is_damage(failure: GitFailedError) -> bool:
    """Tell whether what was kept of the repository may be unusable."""
    return bool(_DAMAGED.search(failure.said))


def explained_failure(
    failure: GitFailedError, remote: Remote, private: Sequence[str]
) -> ImgbuildError:
    """Return the error of a command that worked with `remote`; none of `private` is in it."""
    doing = "fetch" if isinstance(failure, RemoteFailedError) else "checkout"
    action = f"failed to {doing} remote {remote.url}"
    said = failure.said
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return DiskFullError(
            f"{action}: no space left",
            hint="free some space, or choose a store on another disk with --store",
        )
    if failure.status == -signal.SIGXFSZ:
        said += "File too large"
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, said)), None)
    if hint == _PRIVATE and private:
        hint = _NOT_TAKEN
    text = f"{action}: {_reason(failure, private)}"
    return _kind(hint)(text, hint=hint.replace("{host}", remote.host) if hint else None)


def _kind(hint: str | None) -> type[ImgbuildError]:
    """Return what an error is: a server that is away or refuses is told as those of URLs are."""
    if hint == _AWAY:
        return UnreachableError
    return AuthenticationError if hint in {_PRIVATE, _NOT_TAKEN} else ContextError


def _reason(failure: GitFailedError, private: Sequence[str]) -> str:
    if failure.status == -signal.SIGXFSZ:
        return "File too large"
    if failure.status < 0:
        return f"git was ended by signal {-failure.status}"
    lines = [line.strip() for line in failure.said.splitlines() if line.strip()]
    told = [line for line in lines if _TOLD_BY_SSH.search(line)]
    fatal = [line for line in lines if line.lower().startswith(("fatal:", "error:"))]
    lines = told[-1:] or fatal[:2] or lines[-1:]
    text = ": ".join(_PREFIX.sub("", line).rstrip(" .:") for line in lines)
    text = "".join(c if c.isprintable() else "?" for c in text)
    for secret in sorted(private, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    text = _ADDRESS.sub(lambda found: without_login(found[0]), text)
    return text or f"git ended with status {failure.status}"
