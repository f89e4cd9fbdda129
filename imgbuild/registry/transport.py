"""One HTTP request, as the registry protocol needs it: verified TLS, no surprises.

`requests` is used without its Session. A Session reads netrc files (which replace an
Authorization header) and proxy and CA variables of the environment, keeps cookies and follows
redirects on its own; its adapter does none of that and can be used by many threads.
"""

import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from imgbuild import __version__
from imgbuild.errors import ImgbuildError, UsageError
from imgbuild.options import RegistryOptions
from imgbuild.registry.failures import classify
from imgbuild.registry.problem import TransportFailure
from imgbuild.registry.proxies import proxy_for

if TYPE_CHECKING:
    import ssl

    import requests
    from requests.adapters import HTTPAdapter

CONNECT_TIMEOUT = 15.0
READ_TIMEOUT = 60.0
# From the first byte of an answer's head to its last: a byte now and then keeps READ_TIMEOUT away.
HEAD_TIMEOUT = 120.0
_ERROR_BODY = 64 << 10
_BLOCK = 256 << 10


class Request(NamedTuple):
    """`body` is called for each time the request is sent; `authorization` is a header's value."""

    method: str
    url: str
    headers: Mapping[str, str]
    authorization: str | None = None
    body: "Callable[[], bytes | Body] | None" = None


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class Body(io.RawIOBase):
    """`size` bytes to send, read from a stream; remembers why reading it failed."""

    def __init__(self, stream: Readable, size: int) -> None:
        super().__init__()
        self._stream = stream
        self._size = size
        self._at = 0
        self.failure: Exception | None = None

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            data = self._stream.read(-1 if size is None else size)
        except Exception as error:
            # An OSError of the local file must not be taken for one of the connection.
            self.failure = error
            raise
        self._at += len(data)
        return data

    def tell(self) -> int:
        # requests takes a body that cannot tell for one of unknown length, and sends it in chunks.
        return self._at

    def close(self) -> None:
        self._stream.close()
        super().close()


class Reply:
    """An answer. Its body is still to be read; `TransportFailure` may come while doing so."""

    def __init__(self, response: "requests.Response", url: str, proxy: str) -> None:
        self._raw = response.raw
        self._proxy = proxy
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.url = url

    def all(self, name: str) -> list[str]:
        """Return every header called `name`."""
        return list(self._raw.headers.getlist(name))

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes as they were stored: no content encoding is undone."""
        try:
            data: bytes = self._raw.read(size, decode_content=False)
        except Exception as error:
            self.close()
            failure = classify(error, self.url, self._proxy)
            if failure is None:
                raise
            raise failure from error
        return data

    def read_all(self, limit: int) -> bytes | None:
        """Read the whole body; None when it has more than `limit` bytes."""
        data = b""
        while len(data) <= limit:
            more = self.read(limit + 1 - len(data))
            if not more:
                self.close()
                return data
            data += more
        self.close()
        return None

    def finish(self) -> bytes:
        """Return the start of the body and free the connection, for reuse if that is possible."""
        try:
            data = self.read(_ERROR_BODY)
        except TransportFailure:
            data = b""
        self.close()
        return data

    def cut(self) -> None:
        """End the connection: whoever reads from it, in another thread, finds its end."""
        connection = getattr(self._raw, "_connection", None)
        if isinstance(connection, Cuttable):
            connection.cut()

    def close(self) -> None:
        """Free the connection; a body that was not read to its end closes it."""
        self._raw.close()
        self._raw.release_conn()


class Cuttable:
    """A connection of http.client that another thread can end while it is waited for."""

    sock: Any
    _kept: Any = None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]  # of the connection that this is mixed into
        # http.client forgets it while a last body is still being read.
        self._kept = self.sock

    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        from threading import Timer

        # Heads may come byte by byte, and "100 Continue" may come for ever.
        timer = Timer(HEAD_TIMEOUT, self.cut)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse(*args, **kwargs)  # type: ignore[misc]  # as above
        finally:
            timer.cancel()

    def cut(self) -> None:
        import socket

        # Below TLS, which must not be talked to by two threads; that is inside of another one
        # where a proxy is asked over https.
        inner = getattr(self._kept, "socket", self._kept)
        if isinstance(inner, socket.socket):
            with suppress(OSError):
                socket.socket.shutdown(inner, socket.SHUT_RDWR)


class Transport:
    """Sends requests; may be used by many threads at once."""

    def __init__(self, options: RegistryOptions) -> None:
        from threading import Lock

        self._options = options
        self._lock = Lock()
        self._adapter: HTTPAdapter | None = None

    def proxy_for(self, url: str) -> str:
        return proxy_for(url, self._options.proxies)

    def send(self, request: Request) -> Reply:
        """Send one request and return its answer, redirects included.

        Raises `TransportFailure`, or what reading the body raised.
        """
        from requests import RequestException
        from urllib3.exceptions import HTTPError

        proxy = self.proxy_for(request.url)
        content = request.body() if request.body else None
        try:
            prepared = _prepare(request, content)
            response = self._get_adapter().send(
                prepared,
                stream=True,
                timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                verify=True,
                proxies={"http": proxy, "https": proxy} if proxy else {},
            )
        except (RequestException, HTTPError, OSError, ValueError) as error:
            if isinstance(content, Body) and content.failure is not None:
                raise content.failure from None
            failure = classify(error, request.url, proxy)
            if failure is None:
                raise
            raise failure from error
        finally:
            if isinstance(content, Body):
                content.close()
        return Reply(response, request.url, proxy)

    def _get_adapter(self) -> "HTTPAdapter":
        with self._lock:
            if self._adapter is None:
                self._adapter = _make_adapter(self._options)
            return self._adapter

    def close(self) -> None:
        """Close idle connections; the next request opens new ones."""
        with self._lock:
            if self._adapter is not None:
                self._adapter.close()
                self._adapter = None


def _prepare(request: Request, content: "bytes | Body | None") -> "requests.PreparedRequest":
    import requests

    def authorize(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        if request.authorization:
            prepared.headers["Authorization"] = request.authorization
        return prepared

    headers = {
        "User-Agent": f"imgbuild/{__version__}",
        # A registry's blobs are named by the digest of what is stored, not of what it decodes to.
        "Accept-Encoding": "identity",
        **request.headers,
    }
    # The explicit `auth` keeps requests from taking a user name out of the URL.
    return requests.Request(
        request.method, request.url, headers=headers, data=content, auth=authorize
    ).prepare()


def _make_adapter(options: RegistryOptions) -> "HTTPAdapter":
    from requests.adapters import HTTPAdapter

    context = _make_context(options.ca_file)
    pools = _pool_classes()

    class Adapter(HTTPAdapter):
        """Gives every connection our own TLS context, whatever the environment says."""

        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs, ssl_context=context, blocksize=_BLOCK)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            if proxy.lower().startswith("https"):
                kwargs["proxy_ssl_context"] = context
            manager = super().proxy_manager_for(
                proxy, **kwargs, ssl_context=context, blocksize=_BLOCK
            )
            manager.pool_classes_by_scheme = pools
            return manager

        def cert_verify(self, conn: Any, *_: Any) -> None:
            conn.cert_reqs = "CERT_REQUIRED"

        def close(self) -> None:
            # urllib3 2 leaves the pools it forgets to the garbage collector.
            for manager in (self.poolmanager, *self.proxy_manager.values()):
                for key in manager.pools.keys():  # noqa: SIM118 - it cannot be iterated
                    if pool := manager.pools.get(key):
                        pool.close()
            super().close()

    return Adapter(pool_maxsize=max(options.jobs * 2, 10))


class _Head:
    """The stream of an answer while its head is read; `last` is the last line of it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.last = b""

    def readline(self, size: int = -1, /) -> bytes:
        self.last = self._stream.readline(size)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _whole_response() -> type:
    """Return http.client's answer with a head that has to be whole.

    http.client takes one that breaks off for the answer, without the length that was to come:
    an empty file that looks complete.
    """
    from http.client import HTTPResponse, RemoteDisconnected

    class WholeResponse(HTTPResponse):
        def begin(self) -> None:
            stream = self.fp
            head: Any = _Head(stream)
            self.fp = head
            super().begin()
            if self.fp is head:
                self.fp = stream
            if head.last.strip(b"\r\n") or not head.last:
                raise RemoteDisconnected("the answer broke off in its head")

    return WholeResponse


def _pool_classes() -> dict[str, Any]:
    """Return urllib3's pools, of connections that can be cut."""
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    found: dict[str, Any] = {}
    extra = {"response_class": _whole_response()}
    for scheme, pool in (("http", HTTPConnectionPool), ("https", HTTPSConnectionPool)):
        connection = type("Connection", (Cuttable, pool.ConnectionCls), extra)
        found[scheme] = type("Pool", (pool,), {"ConnectionCls": connection})
    return found


def _make_context(ca_file: Path | None) -> "ssl.SSLContext":
    """Trust the system's authorities (those of certifi where there are none) and `ca_file`."""
    import ssl

    context = ssl.create_default_context()
    if not context.get_ca_certs() and not _has_directory(ssl.get_default_verify_paths().capath):
        import certifi

        context.load_verify_locations(certifi.where())
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise _bad_ca_file(ca_file, error) from None
    return context


def _has_directory(path: str | None) -> bool:
    return path is not None and any(Path(path).iterdir())


def _bad_ca_file(path: Path, error: Exception) -> ImgbuildError:
    return UsageError(
        f"cannot use {path} as CA certificates: {error}",
        hint="give a file of certificates in PEM form",
    )
