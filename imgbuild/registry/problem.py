"""What went wrong, said so that the reader knows what to do: failures and answers become errors."""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from imgbuild.errors import AuthenticationError, NotFoundError, RegistryError, UnreachableError
from imgbuild.registry.endpoint import is_loopback, origin, without_query
from imgbuild.registry.proxies import shown

Kind = Literal["connect", "name", "timeout", "cut", "certificate", "tls", "proxy"]

_MAX_TEXT = 300


class TransportFailure(Exception):
    """No answer, or half of one. Never leaves this package."""

    def __init__(self, kind: Kind, detail: str, url: str, proxy: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.url = url
        self.proxy = proxy


class Answer(NamedTuple):
    """An answer that was not hoped for: `what` was asked of the registry `host`."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    url: str
    what: str
    host: str


def unreachable(failure: TransportFailure, host: str) -> UnreachableError:
    """Turn a failure to talk to the registry `host` (or to where it sent us) into an error."""
    where = origin(failure.url)[1]
    named = host if where in host or host == "docker.io" else f"{where} (for the registry {host})"
    verb = {"cut": "broke off", "timeout": "does not answer"}.get(failure.kind, "cannot be reached")
    if failure.kind == "cut":
        message = f"the connection to registry {named} {verb}: {failure.detail}"
    else:
        message = f"registry {named} {verb}: {failure.detail}"
    return UnreachableError(message, hint=connection_hint(failure))


def connection_hint(failure: TransportFailure, server: str = "registry") -> str:
    """Say what to look at when there is no answer from a `server`."""
    if failure.kind == "certificate":
        return (
            "its certificate is not signed by an authority this machine trusts: "
            "name the authority's certificate in SSL_CERT_FILE, or add it to the system's"
        )
    if failure.kind == "proxy" or failure.proxy:
        return (
            f"the request went through the proxy {shown(failure.proxy)}: "
            "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        )
    if failure.kind == "tls":
        rule = "; plain http is only used on this machine itself" if server == "registry" else ""
        return f"the {server} does not speak https{rule}"
    if is_loopback(origin(failure.url)[1]):
        return f"it is on this machine: is the {server} running, and on this port?"
    return f"check the name of the {server} and the network; behind a proxy set HTTPS_PROXY (none is set for this host)"


def refused(answer: Answer, user: str = "") -> RegistryError:
    """Turn an answer that is not a success into the error of the right kind.

    `user` is the name whose credentials were shown, "" for none.
    """
    said = _said(answer.body)
    detail = f": {said}" if said else ""
    message = f"{answer.what}: registry {answer.host} answered {answer.status}{detail}"
    match answer.status:
        case 401 | 403:
            return denied(answer.what, answer.host, user, said)
        case 404:
            return NotFoundError(
                f"{answer.what}: not found in registry {answer.host}{detail}",
                hint="check the name and the tag",
            )
        case 405:
            return RegistryError(message, hint="the registry may be a read-only mirror")
        case 413:
            hint = "the registry, or a proxy before it, limits the size of one request"
            return RegistryError(message, hint=hint)
        case 429:
            hint = f"wait and try again, or raise the limit with `docker login {answer.host}`"
            return RegistryError(message, hint=hint)
        case status if status >= 500:
            return RegistryError(message, hint="the registry is in trouble; try again later")
    return RegistryError(message, hint=f"asked was {without_query(answer.url)}")


def denied(what: str, host: str, user: str, said: str = "") -> AuthenticationError:
    """Return the error for credentials that were missing, wrong or not enough."""
    detail = f" ({said})" if said else ""
    if not user:
        return AuthenticationError(
            f"{what}: registry {host} asks for credentials{detail}",
            hint=f"check that the name is right; for a private repository run `docker login {host}`",
        )
    return AuthenticationError(
        f"{what}: registry {host} does not allow it to {user}{detail}",
        hint=f"ask for access to the repository, or run `docker login {host}` as another user",
    )


def wrong_credentials(host: str, user: str, said: str = "") -> AuthenticationError:
    """Return the error for a user name and password that the registry does not know."""
    detail = f": {said}" if said else ""
    return AuthenticationError(
        f"registry {host} refused the credentials of {user}{detail}",
        hint=f"the user name or the password is wrong; run `docker login {host}`",
    )


def said_by(body: bytes) -> str:
    """Return the reason in an error body, in one line; "" when there is none to show."""
    return _said(body)


def _said(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return "" if "<" in text else _clean(text)
    if not isinstance(document, dict):
        return ""
    errors = document.get("errors")
    if isinstance(errors, list):
        return _clean("; ".join(filter(None, map(_one_error, errors[:3]))))
    plain = (document.get(key) for key in ("error_description", "details", "message", "error"))
    return _clean(next((value for value in plain if isinstance(value, str) and value), ""))


def _one_error(error: Any) -> str:
    if not isinstance(error, dict):
        return ""
    parts = [error.get("message"), error.get("code"), error.get("detail")]
    message, code, detail = (part if isinstance(part, str) else "" for part in parts)
    text = message or code
    if message and code and code.lower().replace("_", " ") not in message.lower():
        text = f"{message} ({code})"
    return f"{text} {detail}" if detail and detail not in text else text


def _clean(text: str) -> str:
    """Keep what cannot disturb a terminal."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:_MAX_TEXT]


def warning_text(header: str) -> str:
    """Return the text of `Warning: 299 - "text"`; "" for anything else."""
    code, _, rest = header.partition(" ")
    agent, _, quoted = rest.partition(" ")
    quoted = quoted.strip()
    if code != "299" or agent != "-" or len(quoted) < 2 or quoted[0] != '"' or quoted[-1] != '"':
        return ""
    return _clean(re.sub(r"\\(.)", r"\1", quoted[1:-1]))
