"""Tell apart the exceptions that requests and urllib3 wrap in each other."""

from collections.abc import Iterator

from imgbuild.registry.problem import Kind, TransportFailure

_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"


def classify(error: BaseException, url: str, proxy: str) -> TransportFailure | None:
    """Return what `error` says about the connection; None when it is about something else."""
    import http.client
    import socket
    import ssl

    import requests
    import urllib3.exceptions as u

    chain = list(_chain(error))
    # http.client reads sizes with int(), whatever a server sent for one.
    ours = (requests.RequestException, u.HTTPError, OSError, http.client.HTTPException, ValueError)
    if not isinstance(error, ours):
        return None

    def has(*kinds: type[BaseException]) -> BaseException | None:
        return next((item for item in chain if isinstance(item, kinds)), None)

    def failure(kind: Kind, detail: str) -> TransportFailure:
        return TransportFailure(kind, detail, url, proxy)

    if has(requests.exceptions.InvalidURL, u.LocationValueError):
        return failure("name", "the address is malformed")
    if has(u.ProxyError, requests.exceptions.ProxyError):
        return failure("proxy", _reason(chain))
    if tls := has(ssl.SSLError):
        if _is_certificate(tls):
            return failure("certificate", _reason(chain))
        # A cut during the handshake may pass; an answer that is no TLS will not.
        ended = isinstance(tls, ssl.SSLEOFError | ssl.SSLZeroReturnError)
        return failure("cut" if ended else "tls", _reason(chain))
    if has(ssl.CertificateError, u.SSLError):
        return failure("certificate", _reason(chain))
    if has(socket.gaierror):
        return failure("name", "the name is not known")
    if has(u.ConnectTimeoutError, requests.ConnectTimeout) and not has(u.NewConnectionError):
        return failure("timeout", "no connection in time")
    if has(u.NewConnectionError):
        return failure("connect", _reason(chain))
    if has(u.ReadTimeoutError, requests.ReadTimeout, TimeoutError):
        return failure("timeout", "no answer in time")
    return failure("cut", _reason(chain))


def _is_certificate(error: BaseException) -> bool:
    return _CERTIFICATE in str(error) or getattr(error, "reason", None) == _CERTIFICATE


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and everything it wraps, outermost first."""
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        item = pending.pop(0)
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        pending += [getattr(item, "reason", None), *item.args, item.__cause__, item.__context__]


def _reason(chain: list[BaseException]) -> str:
    """Return the words of the innermost error that has some."""
    for item in reversed(chain):
        missing = getattr(item, "expected", None)  # of an IncompleteRead
        if isinstance(missing, int):
            return f"{missing} bytes are missing"
        if isinstance(item, OSError) and item.strerror:
            return item.strerror.lower() if item.strerror[:1].isupper() else item.strerror
    return str(chain[-1]).strip() or type(chain[-1]).__name__
