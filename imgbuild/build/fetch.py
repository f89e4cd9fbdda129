"""What ADD fetches from a URL: kept by content, asked for again only by its validators.

Nothing here opens a connection: that is the port `Web`, which the registry part implements.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, unquote_to_bytes, urlsplit

from imgbuild.build.secrets import Secrets
from imgbuild.errors import ContextError, DigestMismatchError
from imgbuild.oci.content import Sink
from imgbuild.oci.digest import Digest, digest_bytes
from imgbuild.plan.fetching import redacted
from imgbuild.plan.model import UrlSource
from imgbuild.store.store import Store

_UNNAMED = b"__unnamed__"
_LONGEST_NAME = 255
_LATEST = 253402300799  # the end of the year 9999
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_HEADER = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class FetchedFile(NamedTuple):
    """A file that was fetched: it is `folder`'s only one, and called `name`.

    Its mode is 0600 and its time `modified`, in seconds since 1970; the epoch where the server
    told none (None).
    """

    folder: Path
    name: bytes
    digest: Digest
    modified: int | None


class Web(Protocol):
    """Downloads what an http or https URL names, through redirects and passing troubles."""

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
        """Write the body to `out` and return the headers; None when `conditions` say "unchanged".

        `conditions` are `If-None-Match` and `If-Modified-Since`. `limit` is in bytes. A body that
        is `pinned` by a digest may come over plain http where https was asked for. Raises
        `RegistryError`.
        """
        ...

    def close(self) -> None: ...


class _Known(NamedTuple):
    """What is kept of a URL, and what its server is asked with whether it changed."""

    file: FetchedFile
    conditions: Mapping[str, str]


class UrlFetcher:
    """Fetches files for one build, each URL once; close it when the build ends.

    `limit` is the largest file, in bytes.
    """

    def __init__(
        self, store: Store, open_web: Callable[[], Web], secrets: Secrets, limit: int
    ) -> None:
        self._store = store
        self._open_web = open_web
        self._secrets = secrets
        self._limit = limit
        self._web: Web | None = None
        self._fetched: dict[UrlSource, FetchedFile] = {}

    def close(self) -> None:
        if self._web is not None:
            self._web.close()
            self._web = None

    def fetch(self, source: UrlSource) -> FetchedFile:
        """Return the file that `source` names.

        One that is kept is taken when it has the checksum, else when the server says that it did
        not change. Raises `RegistryError` where it cannot be had, `DigestMismatchError` when it
        does not have the checksum.
        """
        if source not in self._fetched:
            self._fetched[source] = self._fetch(source)
        return self._fetched[source]

    def _fetch(self, source: UrlSource) -> FetchedFile:
        url, checksum = source.url, Digest(source.checksum) if source.checksum else None
        # What somebody got with a secret is for those alone who have it.
        authorization = self._authorization(url)
        key = _memo_key(url, authorization)
        known = self._known(url, key, checksum)
        if known is not None and checksum:
            return known.file
        conditions = known.conditions if known else {}
        with self._store.downloads.create() as download:
            if self._web is None:
                self._web = self._open_web()
            headers = self._web.download(
                _without_user(url),
                download,
                authorization=authorization,
                conditions=conditions,
                limit=self._limit,
                pinned=checksum is not None,
            )
            if headers is None and known is not None:
                return known.file
            digest, headers = download.digest, headers or {}
            if checksum and digest != checksum:
                raise _mismatch(url, digest, checksum)
            modified = parse_time(headers.get("Last-Modified", ""))
            name = file_name(url)
            folder = self._store.downloads.keep(download, name, modified or 0)
        file = FetchedFile(folder, name, digest, modified)
        self._remember(key, file, headers)
        return file

    def _known(self, url: str, key: str, digest: Digest | None) -> _Known | None:
        """Return what was kept of `url`: the file with that digest, without one the last."""
        memo = self._store.cache.memo(_with_digest(key, digest))
        if memo is None:
            return None
        text, modified, conditions = json.loads(memo)
        found = digest or Digest(text)
        name = file_name(url)
        folder = self._store.downloads.find(found, name, modified or 0)
        if folder is None:
            return None
        return _Known(FetchedFile(folder, name, found, modified), conditions)

    def _remember(self, key: str, file: FetchedFile, headers: Mapping[str, str]) -> None:
        memo = json.dumps([file.digest, file.modified, _conditions(headers)])
        for digest in (None, file.digest):
            self._store.cache.set_memo(_with_digest(key, digest), memo)

    def _authorization(self, url: str) -> str | None:
        """Return the value of the header: a secret named after the host, else the URL's user."""
        parts = _split(url)
        written = parts.netloc.rpartition("@")[2]
        host = parts.hostname or ""
        # As Go has it: upper case is kept.
        names = dict.fromkeys((written[: len(host)] if not written.startswith("[") else host, host))
        for kind, before in (("TOKEN", "Bearer "), ("HEADER", "")):
            for name in names:
                if (value := self._header(f"HTTP_AUTH_{kind}_{name}")) is not None:
                    return before + value
        return _basic(parts)

    def _header(self, name: str) -> str | None:
        value = self._secrets.get(name)
        if value is None:
            return None
        value = value.strip()
        if not _HEADER.fullmatch(value):
            raise ContextError(
                f"the secret {name} cannot be sent: it has control characters",
                hint="it has to be one line of text",
            )
        return value.decode("latin-1")


def file_name(url: str) -> bytes:
    """Return what the file of a URL is called: the last element of its path, as BuildKit has it.

    What a server says (`Content-Disposition`) does not count.
    """
    path = url.partition("#")[0].partition("?")[0].partition("://")[2].partition("/")[2]
    if _BAD_ESCAPE.search(path):
        return _UNNAMED
    raw = unquote_to_bytes(path.encode("utf-8", "surrogateescape"))
    name = raw.rstrip(b"/").rpartition(b"/")[2]
    if name in (b"", b".", b"..") or b"\0" in name or len(name) > _LONGEST_NAME:
        return _UNNAMED
    return name


def parse_time(text: str) -> int | None:
    """Return an HTTP date in seconds since 1970, not before; None for what is none."""
    from calendar import timegm
    from email.utils import parsedate_tz

    found = parsedate_tz(text)
    if found is None:
        return None
    try:
        seconds = timegm(found[:6]) - (found[9] or 0)
    except (ValueError, OverflowError):
        return None
    return max(0, seconds) if seconds <= _LATEST else None


def _conditions(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what a server can be asked with whether a file is still the same.

    A time alone says so only when the file was not changed in the second before it was sent
    (RFC 9110, 8.8.2.2).
    """
    if etag := headers.get("ETag", ""):
        return {"If-None-Match": etag}
    text = headers.get("Last-Modified", "")
    modified, sent = parse_time(text), parse_time(headers.get("Date", ""))
    if modified is None or sent is None or sent <= modified:
        return {}
    return {"If-Modified-Since": text}


def _memo_key(url: str, authorization: str | None) -> str:
    # Hashed: a URL can hold a password, too.
    asked = url if authorization is None else f"{url}\0{authorization}"
    return f"url {digest_bytes(asked.encode('utf-8', 'surrogateescape'))}"


def _with_digest(key: str, digest: Digest | None) -> str:
    return f"{key} {digest}" if digest else key


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise ContextError(
        f"{redacted(url)} is no URL that can be fetched", hint="check its host and port"
    )


def _without_user(url: str) -> str:
    parts = _split(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def _basic(parts: SplitResult) -> str | None:
    from base64 import b64encode

    user, at, _ = parts.netloc.rpartition("@")
    if not at:
        return None
    pair = ":".join(unquote(part) for part in user.partition(":")[::2])
    return f"Basic {b64encode(pair.encode()).decode()}"


def _mismatch(url: str, digest: Digest, checksum: Digest) -> DigestMismatchError:
    shown = redacted(url).partition("?")[0]
    return DigestMismatchError(
        f"digest mismatch for {shown}: {digest} (expected: {checksum})",
        hint="the file has changed, or --checksum is that of another one",
    )
