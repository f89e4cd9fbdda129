"""Following redirects without taking the credentials along."""

from imgbuild.errors import RegistryError
from imgbuild.registry.endpoint import join, may_go, same_origin, without_query
from imgbuild.registry.transport import Reply, Request, Transport

_MOVED = frozenset({301, 302, 303, 307, 308})
_KEEPS_METHOD = frozenset({307, 308})
_MAX_REDIRECTS = 10


def follow(transport: Transport, request: Request, base: str) -> Reply:
    """Send `request` and go where the answers lead, at most ten times.

    Another scheme, host or port gets no credentials. `base` is the URL of the registry, which
    decides where it may lead (`endpoint.may_go`).
    """
    for _ in range(_MAX_REDIRECTS + 1):
        reply = transport.send(request)
        location = reply.headers.get("Location")
        if not location or not _is_followed(reply.status, request.method):
            return reply
        reply.finish()
        target = join(reply.url, location)
        elsewhere = not same_origin(target, request.url)
        # The form that asks for a token holds a secret in its body.
        leaks = elsewhere and request.method == "POST" and request.body is not None
        if leaks or not may_go(target, base):
            raise RegistryError(
                f"{without_query(reply.url)} redirects to {without_query(target)}, "
                "which is not allowed",
                hint="credentials stay with their host, and https may not lead to plain http",
            )
        if elsewhere:
            request = request._replace(authorization=None)
        request = request._replace(url=target)
    raise RegistryError(
        f"{without_query(request.url)}: more than {_MAX_REDIRECTS} redirects",
        hint="the registry leads in a circle",
    )


def _is_followed(status: int, method: str) -> bool:
    return status in (_MOVED if method in {"GET", "HEAD"} else _KEEPS_METHOD)
