"""The real docker-registry (Debian's package) on a free port of 127.0.0.1.

`with docker_registry(tmp_path) as running:` gives a plain one; `auth="htpasswd"` or
`auth="token"` guard it (user `USER`, password `PASSWORD`; with tokens, `public/*` may be pulled
by anybody), `certificates` make it speak TLS.
"""

import base64
import json
import re
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from tests.support.certificates import Certificates, make_certificates

USER, PASSWORD = "alice", "s3cret"
# `htpasswd -Bbn alice s3cret`: docker-registry takes bcrypt only.
HTPASSWD = "alice:$2b$05$HJszeZQmNL0/g39ZMOHD3uTjHuemWT2J0F11An8XwREAnO/j1im1O\n"
SERVICE, ISSUER = "imgbuild-test-registry", "imgbuild-test-issuer"
_START_SECONDS = 10


@dataclass
class Running:
    """`host` is what a reference begins with; `tokens` logs the requests of the token server."""

    host: str
    log: Path
    tokens: list[str] = field(default_factory=list)

    def name(self, rest: str) -> str:
        return f"{self.host}/{rest}"


def login(folder: Path, host: str, **entry: str) -> Path:
    """Write a docker config for `host`, by default with the right password; return `folder`."""
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    folder.mkdir(exist_ok=True)
    config = {"auths": {host: entry or {"auth": secret}}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@contextmanager
def docker_registry(
    folder: Path,
    *,
    auth: Literal["htpasswd", "token"] | None = None,
    certificates: Certificates | None = None,
) -> Iterator[Running]:
    """Start a registry that keeps its files below `folder`; skip the test where there is none."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed (Debian package docker-registry)")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        tokens: list[str] = []
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": str(folder / "data")},
                "delete": {"enabled": True},
            },
            "http": {"addr": "127.0.0.1:0", "secret": secrets.token_hex(8)},
        }
        if auth == "htpasswd":
            (folder / "htpasswd").write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
        if auth == "token":
            signer = certificates or make_certificates(folder)
            server = cleanup.enter_context(_token_server(signer, tokens))
            config["auth"] = {
                "token": {
                    "realm": f"http://127.0.0.1:{server}/token",
                    "service": SERVICE,
                    "issuer": ISSUER,
                    "rootcertbundle": str(signer.certificate),
                }
            }
        if certificates is not None:
            paths = {"certificate": certificates.certificate, "key": certificates.key}
            config["http"]["tls"] = {name: str(path) for name, path in paths.items()}
        # JSON is YAML.
        (folder / "config.yml").write_text(json.dumps(config))
        log = folder / "log"
        port = cleanup.enter_context(_process(program, folder / "config.yml", log))
        yield Running(f"127.0.0.1:{port}", log, tokens)


@contextmanager
def _process(program: str, config: Path, log: Path) -> Iterator[int]:
    # No environment: REGISTRY_* variables would override the file.
    with log.open("wb") as out:
        process = subprocess.Popen(
            [program, "serve", str(config)],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env={},
        )
    try:
        yield _wait_for_port(process, log)
    finally:
        process.terminate()
        process.wait(10)


def _wait_for_port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        text = log.read_text()
        if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", text):
            return int(found[1])
        time.sleep(0.01)
    pytest.fail(f"docker-registry did not start:\n{log.read_text()}")


@contextmanager
def _token_server(signer: Certificates, log: list[str]) -> Iterator[int]:
    server = _TokenServer(("127.0.0.1", 0), _TokenHandler)
    server.signer, server.log = signer, log
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _TokenServer(ThreadingHTTPServer):
    signer: Certificates
    log: list[str]


class _TokenHandler(BaseHTTPRequestHandler):
    """Hands out the tokens of distribution's docs/spec/auth/jwt.md."""

    server: _TokenServer
    timeout = 5

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        given = self.headers.get("Authorization")
        right = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if given not in {None, right}:
            self.answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "bad credentials"}]})
            return
        self.grant(query.get("scope", []), USER if given else "")

    def do_POST(self) -> None:
        # skopeo and podman send the form in chunks.
        form = dict(parse_qsl(self.read_body().decode()))
        if form.get("refresh_token") != "identity" and form.get("password") != PASSWORD:
            self.answer(401, {"error": "invalid_grant"})
            return
        self.grant(form.get("scope", "").split(), USER)

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def grant(self, scopes: list[str], user: str) -> None:
        self.server.log.append(f"{self.command} {user or 'anonymous'} {' '.join(scopes)}")
        access = []
        for scope in " ".join(scopes).split():
            kind, _, rest = scope.partition(":")
            name, _, wanted = rest.rpartition(":")
            actions = wanted.split(",")
            if not user:
                public = name.startswith("public/")
                actions = [action for action in actions if public and action == "pull"]
            access.append({"type": kind, "name": name, "actions": actions})
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": now + 300,
            "nbf": now - 5,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        self.answer(200, {"token": _sign(self.server.signer, claims), "expires_in": 300})

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _sign(signer: Certificates, claims: dict[str, object]) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    certificate = x509.load_pem_x509_certificate(signer.certificate.read_bytes())
    key = serialization.load_pem_private_key(signer.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    der = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    header = {"typ": "JWT", "alg": "ES256", "x5c": [der]}
    message = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    r, s = decode_dss_signature(key.sign(message.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{message}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
