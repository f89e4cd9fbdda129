"""Git repositories, and a smart HTTP server for them on 127.0.0.1 that keeps what it was asked.

The server is git's own `git http-backend`, run for each request as a CGI program.
"""

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

WHEN = 1_600_000_000


def git(*arguments: str, cwd: Path, when: int = WHEN, stdin: bytes = b"") -> str:
    """Run git as somebody with a fixed name at a fixed time; return what it says."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": "file",
    }
    for who in ("AUTHOR", "COMMITTER"):
        env |= {
            f"GIT_{who}_NAME": "A",
            f"GIT_{who}_EMAIL": "a@example.com",
            f"GIT_{who}_DATE": f"{when} +0000",
        }
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *arguments],
        cwd=cwd,
        env=env,
        input=stdin,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@dataclass
class Repository:
    """A repository with a work tree at `path`."""

    path: Path

    def git(self, *arguments: str, when: int = WHEN, stdin: bytes = b"") -> str:
        return git(*arguments, cwd=self.path, when=when, stdin=stdin)

    def commit(self, files: Mapping[str, str | bytes | None], when: int = WHEN) -> str:
        """Commit files (None removes one) and return the commit's name."""
        for name, content in files.items():
            path = self.path / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "-m", "change", when=when)
        return self.git("rev-parse", "HEAD")

    def forged(self, entries: Mapping[str, tuple[str, str]]) -> str:
        """Commit a tree whose entries (name: mode, object) git itself would refuse; return its name.

        The branch `main` moves to it.
        """
        lines = b"".join(
            b"%s %s\0%s" % (mode.lstrip("0").encode(), name.encode(), bytes.fromhex(sha))
            for name, (mode, sha) in entries.items()
        )
        tree = self.git("hash-object", "-t", "tree", "--literally", "-w", "--stdin", stdin=lines)
        commit = self.git("commit-tree", tree, "-m", "forged")
        self.git("update-ref", "refs/heads/main", commit)
        return commit

    def blob(self, content: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", stdin=content)

    def add_submodule(self, path: str, url: str, commit: str) -> str:
        """Commit a submodule without asking its repository."""
        modules = self.path / ".gitmodules"
        before = modules.read_text() if modules.exists() else ""
        modules.write_text(f'{before}[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n')
        self.git("add", ".gitmodules")
        self.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
        self.git("commit", "--quiet", "-m", "submodule")
        return self.git("rev-parse", "HEAD")


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    authorization: str | None


@dataclass
class GitServer:
    """Serve the repositories in `root`; with `token`, to those alone who send it.

    `redirects` maps beginnings of paths to where they are sent on to. Without `any_commit` only
    what has a name is given out; a `dumb` server gives out files and knows nothing of git. `hook`
    is called before a request is answered.
    """

    root: Path
    token: str = ""
    header: str = ""
    tls: ssl.SSLContext | None = None
    redirects: dict[str, str] = field(default_factory=dict)
    any_commit: bool = True
    dumb: bool = False
    hook: Callable[[], None] = lambda: None
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._server.git = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def repository(self, name: str, *options: str) -> Repository:
        """Make an empty repository that is served as `NAME.git`."""
        path = self.root / name
        path.mkdir(parents=True)
        git("init", "--quiet", *options, cwd=path)
        (self.root / f"{name}.git").symlink_to(path / ".git")
        return Repository(path)

    def address(self, name: str) -> str:
        return f"{self.url}/{name}.git"

    def expected(self) -> set[str]:
        """Values of Authorization that are let in."""
        token = base64.b64encode(f"x-access-token:{self.token}".encode()).decode()
        login = base64.b64encode(f"user:{self.token}".encode()).decode()
        return {f"basic {token}", f"basic {login}", self.header}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _git(self) -> GitServer:
        found: GitServer = self.server.git  # type: ignore[attr-defined]
        return found

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server, sent = self._git, self.headers.get("Authorization")
        body = self._body()
        server.asked.append(Asked(self.command, self.path, sent))
        server.hook()
        for start, target in server.redirects.items():
            if self.path.startswith(start):
                self._send(302, {"Location": target + self.path.removeprefix(start)}, b"")
                return
        if (server.token or server.header) and sent not in server.expected():
            self._send(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"who are you?")
            return
        self._send(*(self._file() if server.dumb else self._backend(body)))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _file(self) -> tuple[int, dict[str, str], bytes]:
        path = self._git.root / urlsplit(self.path).path.lstrip("/")
        return (200, {}, path.read_bytes()) if path.is_file() else (404, {}, b"")

    def _backend(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(self.path)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_PROJECT_ROOT": str(self._git.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        # Without the second version of the protocol only what has a name is given out.
        if self._git.any_commit and (protocol := self.headers.get("Git-Protocol")):
            env["GIT_PROTOCOL"] = protocol
        done = subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        status = int(headers.pop("Status", "200 OK").split()[0])
        return status, headers, content

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""
