"""An in-process registry on 127.0.0.1 that keeps what it was asked and can be told to misbehave.

It keeps to the distribution-spec, with the habits of docker-registry 2.8 where they are traps:
an OCI manifest is not found without its type in `Accept`, a mount needs `pull` on its source.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import ssl
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, parse_qsl, urlsplit

USER, PASSWORD = "alice", "s3cret:with colon"
IDENTITY = "identity-token-of-alice"


@dataclass(frozen=True)
class Seen:
    """One request as it came in; `body` is what was read of it."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


@dataclass
class Fault:
    """Misbehave `times` times at requests whose method and path match."""

    method: str
    path: re.Pattern[str]
    times: int
    act: Callable[["Handler"], bool]

    def matches(self, handler: "Handler") -> bool:
        path = urlsplit(handler.path).path
        return self.times > 0 and handler.command == self.method and bool(self.path.search(path))


@dataclass
class FakeRegistry:
    """`auth` is "none", "basic" or "bearer"; `realm` moves the token server elsewhere."""

    auth: str = "none"
    public: tuple[str, ...] = ()
    realm: str = ""
    expires_in: int | None = 300
    tls: ssl.SSLContext | None = None
    identity: bool = False
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    requests: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    tokens: dict[str, set[str]] = field(default_factory=dict)
    uploads: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._server = Server(("127.0.0.1", 0), self.handler())
        self._server.fake = self
        self._server.tls = self.tls
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def handler(self) -> "type[Handler]":
        return Handler

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    # Content

    def add_blob(self, repository: str, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[repository, digest] = data
        return digest

    def add_manifest(self, repository: str, tag: str, media_type: str, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.manifests[repository, digest] = self.manifests[repository, tag] = (media_type, data)
        return digest

    # Misbehaviour

    def on(self, method: str, path: str, act: Callable[["Handler"], bool], times: int = 1) -> None:
        """Call `act` instead of answering; when it returns False the usual answer follows."""
        self.faults.append(Fault(method, re.compile(path), times, act))

    def fail(
        self,
        method: str,
        path: str,
        status: int,
        *,
        times: int = 1,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Answer with `status`."""

        def act(handler: "Handler") -> bool:
            handler.take_body()
            handler.reply(status, body, headers)
            return True

        self.on(method, path, act, times)

    def cut(
        self, method: str, path: str, after: int, *, times: int = 1, reset: bool = True
    ) -> None:
        """End the connection after `after` bytes of the answer's body, in order or by a reset.

        A reset takes along what the client has not read yet.
        """

        def act(handler: "Handler") -> bool:
            handler.cut_after = after
            handler.cut_by_reset = reset
            return False

        self.on(method, path, act, times)

    def cut_upload(self, path: str, after: int, *, times: int = 1) -> None:
        """Reset the connection after `after` bytes of the request's body."""

        def act(handler: "Handler") -> bool:
            handler.rfile.read(after)
            handler.reset()
            return True

        self.on("PUT", path, act, times)

    def redirect(
        self, method: str, path: str, target: str, *, status: int = 307, times: int = 1
    ) -> None:
        """Answer with a redirect; `{path}` in `target` stands for the request's path."""

        def act(handler: "Handler") -> bool:
            handler.take_body()
            where = target.replace("{path}", handler.path)
            handler.reply(status, b"", {"Location": where})
            return True

        self.on(method, path, act, times)

    # What was asked

    def seen(self, method: str = "", path: str = "") -> list[Seen]:
        """Return the requests whose method is `method` and whose path holds `path`."""
        with self.lock:
            return [
                request
                for request in self.requests
                if (not method or request.method == method) and re.search(path, request.path)
            ]


class Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    fake: FakeRegistry
    tls: ssl.SSLContext | None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.open: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(5)
        self.open.append(connection)
        return connection, address

    def hang_up(self) -> None:
        """End the connections that clients keep open."""
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is not None:
            try:
                request = self.tls.wrap_socket(request, server_side=True)
            except OSError:
                return
        try:
            super().finish_request(request, client_address)
        finally:
            if self.tls is not None:
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections that break are what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    cut_after: int | None = None
    cut_by_reset = True
    timeout = 5

    def log_message(self, *_: object) -> None:
        pass

    def do(self) -> None:
        self.cut_after = None
        self.taken = False
        fake = self.server.fake
        parts = urlsplit(self.path)
        self.parts, self.query = parts, parse_qs(parts.query, keep_blank_values=True)
        headers = {name.lower(): value for name, value in self.headers.items()}
        # A body is added once it was read: a fault may leave it unread.
        self.seen = Seen(self.command, parts.path, self.query, headers)
        with fake.lock:
            fake.requests.append(self.seen)
            fault = next((fault for fault in fake.faults if fault.matches(self)), None)
            if fault:
                fault.times -= 1
        if fault and fault.act(self):
            return
        self.serve()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do

    # Answers

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.take_body()
        self.send_response(status)
        given = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in given.items():
            for one in value.split("\n"):
                self.send_header(name, one)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut_after is not None:
            self.wfile.write(body[: self.cut_after])
            self.wfile.flush()
            self.close_connection = True
            if self.cut_by_reset:
                self.reset()
            return
        self.wfile.write(body)

    def error(self, status: int, code: str, message: str, **headers: str) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.reply(status, body, {"Content-Type": "application/json", **named})

    def reset(self) -> None:
        """End the connection with RST, as a machine does that falls over."""
        self.close_connection = True
        # SO_LINGER of zero seconds makes close() send a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def take_body(self) -> bytes:
        if self.taken:
            return self.seen.body
        self.taken = True
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        object.__setattr__(self.seen, "body", data)
        return data

    # The protocol

    def serve(self) -> None:
        path = self.parts.path
        if path == "/token":
            return self.serve_token()
        routes: list[tuple[str, Callable[..., None]]] = [
            (r"/v2/", self.serve_ping),
            (r"/v2/(.+)/blobs/uploads/(.*)", self.serve_upload),
            (r"/v2/(.+)/blobs/(.+)", self.serve_blob),
            (r"/v2/(.+)/manifests/(.+)", self.serve_manifest),
        ]
        for pattern, serve in routes:
            if found := re.fullmatch(pattern, path):
                repository = found[1] if found.re.groups else ""
                if self.is_let_in(repository):
                    serve(*found.groups())
                return None
        return self.error(404, "NOT_FOUND", "page not found")

    def is_let_in(self, repository: str) -> bool:
        fake, given = self.server.fake, self.headers.get("Authorization", "")
        if fake.auth == "none":
            return True
        if fake.auth == "basic":
            if given == basic(USER, PASSWORD):
                return True
            challenge = 'Basic realm="fake, \\"quoted\\""'
            self.error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)
            return False
        action = "pull" if self.command in {"GET", "HEAD"} else "push"
        needed = [f"repository:{repository}:pull"] if repository else []
        if action == "push":
            needed.append(f"repository:{repository}:push")
        if source := self.query.get("from"):
            needed.append(f"repository:{source[0]}:pull")
        granted = fake.tokens.get(given.removeprefix("Bearer "))
        if granted is not None and set(needed) <= granted:
            return True
        actions = "pull" if action == "pull" else "pull,push"
        challenge = f'Bearer realm="{fake.realm or fake.url + "/token"}",service="fake.service"'
        if repository:
            challenge += f',scope="repository:{repository}:{actions}"'
        if granted is not None:
            challenge += ',error="insufficient_scope"'
        # Several schemes at once, the useless one first.
        challenge = f"Negotiate\n{challenge}"
        self.error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)
        return False

    def serve_token(self) -> None:
        fake, given = self.server.fake, self.headers.get("Authorization")
        scopes = self.query.get("scope", [])
        user = ""
        if self.command == "POST":
            form = dict(parse_qsl(self.take_body().decode()))
            scopes = form.get("scope", "").split()
            if form.get("grant_type") != "refresh_token" or form["refresh_token"] != IDENTITY:
                return self.reply(400, b'{"error":"invalid_grant"}')
            user = USER
        elif fake.identity:
            return self.error(401, "UNAUTHORIZED", "only identity tokens are taken")
        elif given:
            if given != basic(USER, PASSWORD):
                return self.error(401, "UNAUTHORIZED", "incorrect username or password")
            user = USER
        token = uuid.uuid4().hex
        with fake.lock:
            fake.tokens[token] = set(granted(scopes, user, fake.public))
        answer: dict[str, object] = {"access_token": token}
        if fake.expires_in is not None:
            answer["expires_in"] = fake.expires_in
        return self.reply(200, json.dumps(answer).encode())

    def serve_ping(self) -> None:
        self.reply(200, b"{}")

    def serve_blob(self, repository: str, digest: str) -> None:
        data = self.server.fake.blobs.get((repository, digest))
        if data is None:
            return self.error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            headers["Content-Length"] = str(len(data))
            return self.reply(200, data, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if first >= len(data):
            return self.error(416, "RANGE_INVALID", "past the end")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        headers["Content-Length"] = str(last + 1 - first)
        return self.reply(206, data[first : last + 1], headers)

    def serve_upload(self, repository: str, session: str) -> None:
        fake = self.server.fake
        if self.command == "POST":
            mount, source = self.query.get("mount"), self.query.get("from")
            data = fake.blobs.get((source[0], mount[0])) if mount and source else None
            if data is not None and mount:
                fake.blobs[repository, mount[0]] = data
                return self.reply(201, b"", {"Docker-Content-Digest": mount[0]})
            session = uuid.uuid4().hex
            fake.uploads.add(session)
            # A relative one with a query, as cuelabs and docker-registry (relativeurls) send it.
            location = f"/v2/{repository}/blobs/uploads/{session}?_state=a%3D%3D"
            return self.reply(202, b"", {"Location": location})
        if session not in fake.uploads or self.command != "PUT":
            return self.error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        fake.uploads.discard(session)
        data = self.take_body()
        digest = self.query["digest"][0]
        algorithm, _, wanted = digest.partition(":")
        if hashlib.new(algorithm, data).hexdigest() != wanted:
            return self.error(400, "DIGEST_INVALID", "provided digest did not match")
        fake.blobs[repository, digest] = data
        return self.reply(201, b"", {"Docker-Content-Digest": digest})

    def serve_manifest(self, repository: str, name: str) -> None:
        fake = self.server.fake
        if self.command == "PUT":
            data = self.take_body()
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            media_type = self.headers.get("Content-Type", "")
            if ":" in name and name != digest:
                return self.error(400, "DIGEST_INVALID", "provided digest did not match")
            fake.manifests[repository, name] = fake.manifests[repository, digest] = (
                media_type,
                data,
            )
            return self.reply(201, b"", {"Docker-Content-Digest": digest})
        found = fake.manifests.get((repository, name))
        accepted = self.headers.get("Accept", "")
        kind = found[0].partition(";")[0] if found else ""
        if found is None or ("oci" in kind and kind not in accepted):
            return self.error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        digest = f"sha256:{hashlib.sha256(found[1]).hexdigest()}"
        headers = {"Content-Type": found[0], "Docker-Content-Digest": digest}
        return self.reply(200, found[1], headers)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def granted(scopes: list[str], user: str, public: tuple[str, ...]) -> Iterator[str]:
    """Anonymous users may only pull, and only what is public."""
    for scope in " ".join(scopes).split():
        resource, _, actions = scope.rpartition(":")
        for action in actions.split(","):
            if user or (action == "pull" and resource.partition(":")[2] in public):
                yield f"{resource}:{action}"
