"""Talk to one repository of one registry: authorized, retried, its troubles turned into errors."""

import time
from collections.abc import Callable, Collection, Mapping
from threading import Lock
from urllib.parse import urlsplit

from imgbuild.errors import RegistryError
from imgbuild.events import EventSink, Notice
from imgbuild.oci.reference import Reference
from imgbuild.options import RegistryOptions
from imgbuild.registry import problem
from imgbuild.registry.auth import Authenticator
from imgbuild.registry.challenge import Grants, grants_for
from imgbuild.registry.credentials import Credential, find_credential
from imgbuild.registry.endpoint import (
    hostname,
    is_loopback,
    join,
    may_go,
    same_origin,
    wire_host,
    without_query,
)
from imgbuild.registry.problem import TransportFailure
from imgbuild.registry.redirect import follow
from imgbuild.registry.retry import CONNECT_TRIES, TRIES, Again, Retry, is_passing, retry_after
from imgbuild.registry.transport import Body, Reply, Request, Transport

_OK = frozenset({200})
# A challenge, a second one for a scope the first did not name, a token that had just run out.
_ROUNDS = 3


class Exchange:
    """One repository; may be used by many threads at once. Nothing happens before the first call."""

    def __init__(
        self,
        reference: Reference,
        options: RegistryOptions,
        events: EventSink,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.domain = reference.domain
        self.repository = reference.path
        self.retry = Retry(events, pause)
        self._options = options
        self._events = events
        self._transport = Transport(options)
        self._auth = Authenticator(reference.domain, self._send_plain, self._find_credential)
        self._lock = Lock()
        self._base = ""
        self._told: set[str] = set()

    @property
    def pull(self) -> Grants:
        return grants_for(self.repository, "pull")

    @property
    def push(self) -> Grants:
        return grants_for(self.repository, "pull", "push")

    def path(self, rest: str) -> str:
        return f"/v2/{self.repository}/{rest}"

    def send(
        self,
        method: str,
        where: str,
        what: str,
        grants: Grants,
        *,
        headers: Mapping[str, str] | None = None,
        body: "Callable[[], bytes | Body] | None" = None,
        fine: Collection[int] = _OK,
    ) -> Reply:
        """Ask until there is an answer other than a passing trouble.

        `where` is a path or a URL the registry gave, `what` names the thing asked for in
        errors; a status not in `fine` raises a `RegistryError`.
        """
        return self.retry.run(
            lambda: self.once(method, where, what, grants, headers=headers, body=body, fine=fine)
        )

    def once(
        self,
        method: str,
        where: str,
        what: str,
        grants: Grants,
        *,
        headers: Mapping[str, str] | None = None,
        body: "Callable[[], bytes | Body] | None" = None,
        fine: Collection[int] = _OK,
        fresh: bool = False,
    ) -> Reply:
        """Ask once; a passing trouble raises `Again`. `fresh` is for requests that take long."""
        base = self._find_base()
        url = join(base, where)
        self._check_target(url, base)
        request = Request(method, url, headers or {}, None, body)
        reply = self._authorized(request, base, grants, fresh=fresh)
        self._tell_warnings(reply)
        if reply.status in fine:
            return reply
        raise self.refusal(reply, what)

    def _authorized(self, request: Request, base: str, grants: Grants, *, fresh: bool) -> Reply:
        if not same_origin(request.url, base):
            return self._deliver(request, base)
        sent = self._auth.authorization(grants, fresh=fresh)
        reply = self._deliver(request._replace(authorization=sent), base)
        for _ in range(_ROUNDS - 1):
            if not self._is_denied(reply, base, sent):
                return reply
            challenges = reply.all("WWW-Authenticate")
            reply.finish()
            if not self._auth.remember(challenges, base):
                self._ping(base)
            sent = self._auth.renew(challenges, grants, sent)
            reply = self._deliver(request._replace(authorization=sent), base)
        return reply

    def _is_denied(self, reply: Reply, base: str, sent: str | None) -> bool:
        """Tell whether another token may help.

        403 comes for a token made before a permission was given (Docker Hub). A redirect's
        target that says 401 or 403 does not ask for the registry's credentials.
        """
        if not same_origin(reply.url, base):
            return False
        is_token = sent is not None and sent.startswith("Bearer ")
        return reply.status == 401 or (reply.status == 403 and is_token)

    def _deliver(self, request: Request, base: str) -> Reply:
        try:
            return follow(self._transport, request, base)
        except TransportFailure as failure:
            raise self.again(failure) from failure

    def again(self, failure: TransportFailure) -> Again:
        """Return the failure as a trouble that may pass, or raise the error when it will not."""
        error = problem.unreachable(failure, self.domain)
        if failure.kind in {"certificate", "tls"}:
            raise error from failure
        tries = TRIES if failure.kind in {"cut", "timeout"} else CONNECT_TRIES
        return Again(error, tries=tries)

    def refusal(self, reply: Reply, what: str) -> RegistryError | Again:
        """Return the error for an answer that was not hoped for, as `Again` when it may pass."""
        body = reply.finish()
        answer = problem.Answer(reply.status, body, reply.headers, reply.url, what, self.domain)
        error = problem.refused(answer, self._auth.user)
        if is_passing(reply.status):
            return Again(error, after=retry_after(reply.headers, time.time()))
        return error

    def _send_plain(self, request: Request) -> Reply:
        reply = self._deliver(request, self._base)
        if is_passing(reply.status):
            raise self.refusal(reply, "a token")
        return reply

    def _find_credential(self) -> Credential | None:
        return find_credential(self._options.docker_config, self.domain, self._notice)

    def _find_base(self) -> str:
        """Return the registry's URL: https, but for one on this machine that only speaks http."""
        with self._lock:
            if not self._base:
                host = wire_host(self.domain)
                if is_loopback(hostname(host)):
                    self._base = self._probe(host)
                else:
                    self._base = f"https://{host}"
            return self._base

    def _probe(self, host: str) -> str:
        base = f"https://{host}"
        try:
            reply = self._transport.send(Request("GET", f"{base}/v2/", {}))
        except TransportFailure as failure:
            if failure.kind not in {"tls", "cut"}:
                raise self.again(failure) from failure
            return f"http://{host}"
        if reply.status == 401:
            self._auth.remember(reply.all("WWW-Authenticate"), base)
        reply.finish()
        return base

    def _ping(self, base: str) -> None:
        """Fetch the challenge that a registry (gcr.io) does not repeat with every 401."""
        reply = self._deliver(Request("GET", f"{base}/v2/", {}), base)
        if reply.status == 401:
            self._auth.remember(reply.all("WWW-Authenticate"), base)
        reply.finish()

    def _check_target(self, url: str, base: str) -> None:
        if not may_go(url, base):
            raise RegistryError(
                f"registry {self.domain} leads to {without_query(url)}, which is not allowed",
                hint="a registry on https may not lead to plain http",
            )

    def _tell_warnings(self, reply: Reply) -> None:
        """Pass on what a registry wants its users to know, once (distribution-spec, Warnings)."""
        for header in reply.all("Warning"):
            text = problem.warning_text(header)
            with self._lock:
                is_new = bool(text) and text not in self._told
                self._told.add(text)
            if is_new:
                self._notice(f"registry {self.domain} says: {text}")

    def _notice(self, message: str) -> None:
        self._events(Notice(message))

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    def resolve_location(self, reply: Reply) -> str:
        """Return the absolute `Location` of `reply`; "" when it has none.

        Registries behind a proxy that ends TLS name themselves with http: the same host keeps
        the registry's scheme.
        """
        location = reply.headers.get("Location", "")
        if not location:
            return ""
        target, base = join(reply.url, location), urlsplit(self._find_base())
        try:
            url = urlsplit(target)
        except ValueError:
            return target  # refused when it is used
        if url.netloc == base.netloc:
            url = url._replace(scheme=base.scheme)
        return url.geturl()
