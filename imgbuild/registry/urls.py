"""Download what a URL names: retried, resumed, redirected, and checked for being whole."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from imgbuild.errors import AuthenticationError, NotFoundError, RegistryError, UnreachableError
from imgbuild.events import EventSink, TransferProgress
from imgbuild.oci.content import Sink
from imgbuild.options import RegistryOptions
from imgbuild.registry.endpoint import join, origin, same_origin, without_query
from imgbuild.registry.problem import TransportFailure, connection_hint
from imgbuild.registry.retry import CONNECT_TRIES, TRIES, Again, Retry, is_passing, retry_after
from imgbuild.registry.transport import Reply, Request, Transport

if TYPE_CHECKING:
    from threading import Event

_BLOCK = 32 << 10
# A server that sends less than this is as good as dead; one that sends little more is left in the end.
_SLOWEST = 1 << 10  # bytes a second
_WINDOW = 120.0  # seconds in which that is measured
_LONGEST = 24 * 3600.0
_MOST_REDIRECTS = 10
_MOVED = frozenset({301, 302, 303, 307, 308})
_FINE = frozenset({200, 203})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)")
_LENGTH = re.compile(r"[0-9]{1,18}")
# What is larger takes long enough for its progress to be told, in bytes.
_WORTH_TELLING = 1 << 20
# What must have come through before the attempts are counted anew.
_PROGRESS = 1 << 20


class UrlClient:
    """Downloads files for one build; close it when done. `pause` takes seconds."""

    def __init__(
        self,
        options: RegistryOptions,
        events: EventSink,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = Transport(options)
        self._retry = Retry(events, pause)
        self._events = events

    def close(self) -> None:
        self._transport.close()

    def download(
        self,
        url: str,
        out: Sink,
        *,
        authorization: str | None,
        conditions: Mapping[str, str],
        limit: int,
        pinned: bool,
    ) -> Mapping[str, str] | None:
        """Write the body of `url` to `out` and return its headers; None when it did not change.

        `conditions` are the headers that ask for that. Only a body that is `pinned` by a digest
        may come over http where https was asked for. More than `limit` bytes, and all else that
        goes wrong, raise `RegistryError`.
        """
        request = Request("GET", url, conditions, authorization)
        download = _Download(
            self._transport, self._retry, self._events, request, out, limit, pinned=pinned
        )
        return download.run()


class _Download:
    def __init__(
        self,
        transport: Transport,
        retry: Retry,
        events: EventSink,
        request: Request,
        out: Sink,
        limit: int,
        *,
        pinned: bool,
    ) -> None:
        self._transport = transport
        self._retry = retry
        self._events = events
        self._request = request
        self._shown = without_query(request.url)
        self._out = out
        self._limit = limit
        self._pinned = pinned
        self._at = 0
        self._validator = ""
        self._until = time.monotonic() + _LONGEST
        self._too_slow = False

    def run(self) -> Mapping[str, str] | None:
        attempt, counted_from = 0, 0
        while True:
            try:
                return self._attempt()
            except Again as again:
                # Only new bytes count: a server that breaks off anew each time is given up.
                if self._at - counted_from >= _PROGRESS:
                    attempt, counted_from = 0, self._at
                attempt += 1
                self._retry.wait(attempt, again)

    def _attempt(self) -> Mapping[str, str] | None:
        try:
            reply = self._follow(self._request._replace(headers=self._headers()))
            try:
                return self._take(reply)
            finally:
                reply.close()
        except TransportFailure as failure:
            raise self._lost(failure) from failure

    def _headers(self) -> Mapping[str, str]:
        if not self._at or not self._validator:
            return self._request.headers
        # Another version of the file is sent from its beginning.
        return {"Range": f"bytes={self._at}-", "If-Range": self._validator}

    def _take(self, reply: Reply) -> Mapping[str, str] | None:
        conditions = self._request.headers
        if reply.status == 304 and conditions and not self._at:
            return None
        size = self._resumed(reply) if reply.status == 206 else None
        if size is None:
            if reply.status not in _FINE:
                raise self._refused(reply)
            etag = reply.headers.get("ETag", "")
            if etag and etag == conditions.get("If-None-Match"):
                return None  # some servers know their tags but not the question
            size = self._begin(reply)
        self._copy(reply, size)
        return reply.headers

    def _begin(self, reply: Reply) -> int:
        """Start from the first byte; return the size that the server tells, -1 for none."""
        encoding = reply.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            raise RegistryError(
                f"{self._shown}: the server sends it with Content-Encoding {encoding}",
                hint="it was asked for the file as it is; take it from another server",
            )
        self._at = 0
        self._out.begin()
        etag = reply.headers.get("ETag", "")
        self._validator = etag if etag.startswith('"') else ""
        return self._length(reply)

    def _length(self, reply: Reply) -> int:
        text = reply.headers.get("Content-Length")
        if text is None or "Transfer-Encoding" in reply.headers:
            return -1
        # The same one several times is one (RFC 9110, 8.6).
        lengths = {part.strip() for part in text.split(",")}
        if len(lengths) != 1 or not _LENGTH.fullmatch(length := lengths.pop()):
            raise RegistryError(
                f"{self._shown}: the server sends an impossible Content-Length",
                hint="take the file from another server",
            )
        return int(length)

    def _resumed(self, reply: Reply) -> int | None:
        """Return the whole size when `reply` goes on where the last one broke off, else None."""
        found = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
        if found is None or not self._at or int(found[1]) != self._at:
            self._validator = ""  # so that it is asked for from the beginning
            error = RegistryError(f"{self._shown}: the server sends another part than was asked")
            raise Again(error)
        return -1 if found[2] == "*" else int(found[2])

    def _copy(self, reply: Reply, size: int) -> None:
        if size > self._limit:
            raise self._too_large()
        with self._watched(reply):
            while data := reply.read(_BLOCK):
                self._at += len(data)
                if self._at > self._limit:
                    raise self._too_large()
                self._out.write(data)
                if size >= _WORTH_TELLING:
                    what = f"downloading {self._shown}"
                    self._events(TransferProgress(what, min(self._at, size), size))
        if self._too_slow:
            # A body without a length ends with its connection, which was ended here.
            raise TransportFailure("timeout", "it was given up", reply.url, "")
        if self._at < size:
            detail = f"{size - self._at} bytes are missing"
            raise TransportFailure("cut", detail, reply.url, "")

    @contextmanager
    def _watched(self, reply: Reply) -> Iterator[None]:
        """Cut the connection when too little comes through it."""
        from threading import Event, Thread

        done = Event()
        watcher = Thread(target=self._watch, args=(reply, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, reply: Reply, done: "Event") -> None:
        before = self._at
        while not done.wait(_WINDOW):
            if self._at - before < _SLOWEST * _WINDOW or time.monotonic() > self._until:
                self._too_slow = True
                reply.cut()
                return
            before = self._at

    def _follow(self, request: Request) -> Reply:
        """Send `request` and go where the answers lead; credentials stay with their host."""
        for _ in range(_MOST_REDIRECTS + 1):
            reply = self._transport.send(request)
            location = reply.headers.get("Location")
            if not location or reply.status not in _MOVED:
                return reply
            reply.finish()
            target = join(reply.url, location)
            self._check_target(target, reply.url)
            if not _keeps_credentials(request.url, target):
                request = request._replace(authorization=None)
            request = request._replace(url=target)
        raise RegistryError(
            f"{self._shown}: more than {_MOST_REDIRECTS} redirects",
            hint="the server leads in a circle",
        )

    def _check_target(self, target: str, url: str) -> None:
        try:
            scheme, host, _ = origin(target)
        except ValueError:
            scheme, host = "", ""
        shown = f"{without_query(url)} redirects to {without_query(target)}"
        if scheme not in {"http", "https"} or not host:
            raise RegistryError(f"{shown}, which cannot be fetched", hint="name another URL")
        if scheme == "http" and urlsplit(url).scheme == "https" and not self._pinned:
            raise RegistryError(
                f"{shown}, which anyone on the way could change",
                hint="give the file's digest with ADD --checksum=sha256:…, or name the http URL",
            )

    def _refused(self, reply: Reply) -> RegistryError | Again:
        """Return the error for an answer that was not hoped for, as `Again` when it may pass."""
        status = reply.status
        if status == 416 and self._at:
            self._validator = ""
            return Again(self._error(RegistryError, status, "the file changed meanwhile"))
        reply.finish()
        host = urlsplit(reply.url).hostname or ""
        if status in {401, 403}:
            hint = (
                f"give a token with --secret id=HTTP_AUTH_TOKEN_{host},env=NAME, or a whole "
                f"Authorization header with HTTP_AUTH_HEADER_{host}"
            )
            return self._error(AuthenticationError, status, hint)
        if status in {404, 410}:
            return self._error(NotFoundError, status, "check the URL")
        error = self._error(RegistryError, status, f"asked was {without_query(reply.url)}")
        if is_passing(status):
            return Again(error, after=retry_after(reply.headers, time.time()))
        return error

    def _error(self, kind: type[RegistryError], status: int, hint: str) -> RegistryError:
        return kind(f"{self._shown}: invalid response status {status}", hint=hint)

    def _lost(self, failure: TransportFailure) -> Again:
        """Return the failure as a trouble that may pass, or raise the error when it will not."""
        host = urlsplit(failure.url).hostname or failure.url
        if self._too_slow:
            raise UnreachableError(
                f"{self._shown}: {host} sends too slowly",
                hint=f"less than {_SLOWEST} bytes a second, or more than a day in all: "
                "take it from another server",
            ) from failure
        happened = {
            "cut": f"the connection to {host} broke off",
            "timeout": f"{host} does not answer",
        }.get(failure.kind, f"{host} cannot be reached")
        hint = connection_hint(failure, "server")
        if failure.kind == "cut" and not failure.proxy:
            hint = "the server, or what is on the way to it, gave up: try again later"
        error = UnreachableError(f"{self._shown}: {happened}: {failure.detail}", hint=hint)
        if failure.kind in {"certificate", "tls"}:
            raise error from failure
        tries = TRIES if failure.kind in {"cut", "timeout"} else CONNECT_TRIES
        return Again(error, tries=tries)

    def _too_large(self) -> RegistryError:
        return RegistryError(
            f"{self._shown} has more than {self._limit} bytes",
            hint="raise the limit with --download-limit (download_limit)",
        )


def _keeps_credentials(url: str, target: str) -> bool:
    """Tell whether `target` is the same server, or the same host with https in place of http."""
    if same_origin(url, target):
        return True
    (scheme, host, port), (other, name, number) = origin(url), origin(target)
    upgraded = (scheme, port, other, number) == ("http", 80, "https", 443)
    return upgraded and host == name
