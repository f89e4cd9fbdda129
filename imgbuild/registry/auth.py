"""Answering a registry's challenges: Basic, and Bearer with tokens that are fetched and kept.

Tokens: distribution's docs/spec/auth/token.md and oauth.md.
"""

import base64
import json
import time
from collections.abc import Callable
from threading import RLock
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from imgbuild.errors import AuthenticationError, RegistryError
from imgbuild.registry import problem
from imgbuild.registry.challenge import (
    Challenge,
    Grants,
    choose,
    format_scopes,
    parse_challenges,
    parse_scopes,
)
from imgbuild.registry.credentials import Credential
from imgbuild.registry.endpoint import may_ask_for_token, without_query
from imgbuild.registry.transport import Reply, Request

_CLIENT = "imgbuild"
_MAX_TOKEN_REPLY = 1 << 20
# token.md: a token without expires_in lasts 60 seconds, and none lasts less.
_SHORTEST_LIFE = 60.0
_LONGEST_LIFE = 86400.0
_MARGIN = 15.0
# A token is fresh enough for a long upload while it has most of its life before it.
_FRESH = 0.8


class Sender(Protocol):
    """Sends a request that carries no registry authorization of its own; raises `Again`."""

    def __call__(self, request: Request) -> Reply: ...


class Token(NamedTuple):
    """`born` and `life` are seconds of the monotonic clock: no clock skew can matter."""

    header: str
    born: float
    life: float

    def is_usable(self, now: float, *, fresh: bool) -> bool:
        left = self.life - (now - self.born)
        return left > _MARGIN and (not fresh or left >= self.life * _FRESH)


class Authenticator:
    """Knows how to be let in to one registry; may be used by many threads at once.

    `find` is asked for the credentials at the first challenge, so nothing is read and no
    helper is run for registries that are open to all.
    """

    def __init__(
        self,
        host: str,
        send: Sender,
        find: Callable[[], Credential | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._send = send
        self._find = find
        self._clock = clock
        self._lock = RLock()
        self._challenge: Challenge | None = None
        self._base = ""
        self._found: list[Credential | None] = []
        self._tokens: dict[Grants, Token] = {}

    @property
    def user(self) -> str:
        """Whose credentials are in use, to be shown; "" for nobody's."""
        with self._lock:
            credential = self._found[0] if self._found else None
            return credential.user if credential else ""

    def remember(self, headers: list[str], base: str) -> bool:
        """Keep the challenge that the registry at `base` sent; False when there is none."""
        with self._lock:
            self._challenge = choose(parse_challenges(headers)) or self._challenge
            self._base = base
            return self._challenge is not None

    def authorization(self, grants: Grants, *, fresh: bool = False) -> str | None:
        """Return the Authorization header for `grants`; None before the first challenge.

        `fresh` asks for a token that outlives a long request.
        """
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return self._basic(self._credential())
            return self._cached(grants, fresh=fresh) or self._fetch(self._challenge, grants)

    def renew(self, headers: list[str], grants: Grants, sent: str | None) -> str:
        """Return another header after `sent` was refused with the challenges in `headers`.

        Raises `AuthenticationError` when there is nothing else to try.
        """
        with self._lock:
            offered = choose(parse_challenges(headers))
            challenge = offered or self._challenge
            if challenge is None:
                raise problem.denied("the request", self._host, self.user)
            self._challenge = challenge
            if challenge.scheme == "basic":
                return self._renew_basic(sent)
            wanted = grants | parse_scopes(challenge.params.get("scope", ""))
            self.forget(sent)
            return self._cached(wanted) or self._fetch(challenge, wanted)

    def forget(self, sent: str | None) -> None:
        """Drop the token that was sent as `sent`."""
        with self._lock:
            self._tokens = {g: t for g, t in self._tokens.items() if t.header != sent}

    def _renew_basic(self, sent: str | None) -> str:
        credential = self._credential()
        header = self._basic(credential)
        if header is None:
            raise problem.denied("access", self._host, "")
        if header == sent and credential is not None:
            raise problem.wrong_credentials(self._host, credential.user)
        return header

    def _basic(self, credential: Credential | None) -> str | None:
        if credential is None:
            return None
        if credential.registry_token:
            return f"Bearer {credential.registry_token}"
        secret = credential.password or credential.identity_token
        pair = f"{credential.username}:{secret}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    def _credential(self) -> Credential | None:
        if not self._found:
            self._found.append(self._find())
        return self._found[0]

    def _cached(self, grants: Grants, *, fresh: bool = False) -> str | None:
        now = self._clock()
        for have, token in self._tokens.items():
            if have >= grants and token.is_usable(now, fresh=fresh):
                return token.header
        return None

    def _fetch(self, challenge: Challenge, grants: Grants) -> str:
        credential = self._credential()
        if credential is not None and credential.registry_token:
            return f"Bearer {credential.registry_token}"
        realm = challenge.params["realm"]
        if not may_ask_for_token(realm, self._base):
            raise AuthenticationError(
                f"registry {self._host} wants credentials to be sent to {without_query(realm)}",
                hint="that is not safe, so it was not done; ask the registry's operator",
            )
        service = challenge.params.get("service", "")
        if credential is not None and credential.identity_token:
            request = _oauth_request(realm, service, grants, credential.identity_token)
        else:
            request = _get_request(realm, service, grants, self._basic(credential), credential)
        reply = self._send(request)
        token = self._read_token(reply, credential)
        # Tokens that are covered or used up would only pile up.
        now = self._clock()
        kept = {g: t for g, t in self._tokens.items() if not g <= grants}
        kept = {g: t for g, t in kept.items() if t.is_usable(now, fresh=False)}
        self._tokens = kept | {grants: token}
        return token.header

    def _read_token(self, reply: Reply, credential: Credential | None) -> Token:
        born = self._clock()
        if reply.status != 200:
            self._raise_refused(reply, credential)
        body = reply.read_all(_MAX_TOKEN_REPLY)
        try:
            document = json.loads(body or b"")
            value = document.get("token") or document.get("access_token")
            life = document.get("expires_in") or _SHORTEST_LIFE
        except (ValueError, AttributeError, RecursionError):
            value, life = None, _SHORTEST_LIFE
        if not isinstance(value, str) or not value.isprintable() or not value.isascii():
            raise RegistryError(
                f"{without_query(reply.url)} gave no token for registry {self._host}",
                hint="the registry's token server does not keep to the protocol",
            )
        # No token lives for longer than a day; JSON numbers may be larger than any float.
        seconds = min(life, _LONGEST_LIFE) if isinstance(life, int | float) else _SHORTEST_LIFE
        return Token(f"Bearer {value}", born, max(seconds, _SHORTEST_LIFE))

    def _raise_refused(self, reply: Reply, credential: Credential | None) -> None:
        body = reply.finish()
        said = problem.said_by(body)
        # OAuth2 servers say 400 invalid_grant for a wrong or outdated identity token.
        if reply.status in {400, 401, 403} and credential is not None:
            raise problem.wrong_credentials(self._host, credential.user, said)
        what = "a token"
        raise problem.refused(
            problem.Answer(reply.status, body, reply.headers, reply.url, what, self._host),
        )


def _get_request(
    realm: str, service: str, grants: Grants, basic: str | None, credential: Credential | None
) -> Request:
    parts = urlsplit(realm)
    query = parse_qsl(parts.query, keep_blank_values=True)
    if service:
        query.append(("service", service))
    query += [("scope", scope) for scope in format_scopes(grants)]
    if credential is not None:
        query.append(("account", credential.username))
    query.append(("client_id", _CLIENT))
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))
    return Request("GET", url, {}, basic)


def _oauth_request(realm: str, service: str, grants: Grants, identity: str) -> Request:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": identity,
        "client_id": _CLIENT,
        "service": service,
        "scope": " ".join(format_scopes(grants)),
    }
    body = urlencode(form).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Request("POST", realm, headers, None, lambda: body)
