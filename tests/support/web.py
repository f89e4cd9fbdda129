"""An in-process web server on 127.0.0.1: files with validators and ranges, and all of FakeRegistry's faults."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

from tests.support.registry import FakeRegistry, Handler

MODIFIED = "Sat, 03 Jan 2015 04:05:06 GMT"
MODIFIED_SECONDS = 1420257906


class File(NamedTuple):
    """`chunked` leaves out the length; without `ranges` they are not known."""

    body: bytes
    headers: dict[str, str]
    chunked: bool = False
    ranges: bool = True


@dataclass
class FakeWeb(FakeRegistry):
    files: dict[str, File] = field(default_factory=dict)

    def handler(self) -> type[Handler]:
        return WebHandler

    def put(
        self,
        path: str,
        body: bytes,
        *,
        chunked: bool = False,
        ranges: bool = True,
        **headers: str,
    ) -> str:
        """Serve `body` at `path`, with headers (`Last_Modified="…"`); return its URL."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        self.files[path] = File(body, given, chunked, ranges)
        return self.url + path


class WebHandler(Handler):
    def serve(self) -> None:
        assert isinstance(self.server.fake, FakeWeb)
        file = self.server.fake.files.get(unquote(self.parts.path))
        if file is None:
            return self.reply(404, b"no such file")
        if self._is_unchanged(file):
            return self.reply(304, b"", {**file.headers, "Content-Length": "0"})
        if file.chunked:
            return self._send_chunks(file)
        start = self._start(file)
        if start is None:
            return self.reply(200, file.body, file.headers)
        if start >= len(file.body):
            return self.reply(416, b"", {"Content-Range": f"bytes */{len(file.body)}"})
        span = f"bytes {start}-{len(file.body) - 1}/{len(file.body)}"
        return self.reply(206, file.body[start:], {**file.headers, "Content-Range": span})

    def _is_unchanged(self, file: File) -> bool:
        etag = self.headers.get("If-None-Match")
        if etag is not None:
            return etag == file.headers.get("ETag")
        since = self.headers.get("If-Modified-Since")
        return since is not None and since == file.headers.get("Last-Modified")

    def _start(self, file: File) -> int | None:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in {None, file.headers.get("ETag")}
        return int(found[1]) if found and file.ranges and same else None

    def _send_chunks(self, file: File) -> None:
        self.send_response(200)
        for name, value in {**file.headers, "Transfer-Encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        sent = file.body if self.cut_after is None else file.body[: self.cut_after]
        for at in range(0, len(sent), 1000):
            part = sent[at : at + 1000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        if self.cut_after is None:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True
