"""Putting a blob: mounted from another repository, or sent in one piece.

distribution-spec, "Pushing a blob monolithically" and "Mounting a blob from another repository".
A transfer that breaks begins anew: sessions cannot be relied on to be resumable.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import BinaryIO
from urllib.parse import urlencode

from imgbuild.errors import RegistryError
from imgbuild.oci.content import Opener, VerifiedReader
from imgbuild.oci.descriptor import Descriptor
from imgbuild.registry.challenge import grants_for
from imgbuild.registry.exchange import Exchange
from imgbuild.registry.retry import Again
from imgbuild.registry.transport import Body, Reply

_CREATED = frozenset({201})
_LOST = frozenset({400, 404, 416})


def upload(exchange: Exchange, descriptor: Descriptor, opener: Opener, origin: str) -> None:
    """Make the blob be in the repository; `origin` is a repository of the same registry or "".

    `opener` is called for each attempt. Raises `RegistryError`, `DigestMismatchError` when the
    content is not what `descriptor` says, or what `opener` raises.
    """
    what = f"blob {descriptor.digest} of {exchange.domain}/{exchange.repository}"
    session = _mount(exchange, descriptor, what, origin) if origin else ""
    if session is None:
        return
    sessions = [session] if session else []

    def attempt() -> None:
        location = sessions.pop() if sessions else _begin(exchange, what)
        _put(exchange, descriptor, opener, what, location)

    exchange.retry.run(attempt)


def _mount(exchange: Exchange, descriptor: Descriptor, what: str, origin: str) -> str | None:
    """Ask for a mount: None when it is done, else the upload session that was begun, or "".

    Registries refuse in many ways (401, 404, a closed connection); each only means that the
    blob has to be sent.
    """
    query = urlencode({"mount": descriptor.digest, "from": origin})
    where = exchange.path(f"blobs/uploads/?{query}")
    grants = exchange.push | grants_for(origin, "pull")
    try:
        reply = exchange.once("POST", where, what, grants, fine=(201, 202))
    except (RegistryError, Again):
        return ""
    reply.finish()
    if reply.status == 201:
        _check_digest(reply.headers, descriptor, what)
        return None
    return exchange.resolve_location(reply)


def _begin(exchange: Exchange, what: str) -> str:
    where = exchange.path("blobs/uploads/")
    reply = exchange.once("POST", where, what, exchange.push, fine=(202,))
    reply.finish()
    location = exchange.resolve_location(reply)
    if not location:
        raise RegistryError(
            f"{what}: registry {exchange.domain} did not say where to send it",
            hint="the registry does not keep to the protocol",
        )
    return location


def _put(
    exchange: Exchange, descriptor: Descriptor, opener: Opener, what: str, location: str
) -> None:
    joint = "&" if "?" in location else "?"
    url = f"{location}{joint}{urlencode({'digest': descriptor.digest})}"

    with ExitStack() as opened:

        def body() -> bytes | Body:
            content: BinaryIO = opened.enter_context(opener())
            reader = VerifiedReader(content, descriptor)
            if not descriptor.size:
                return reader.read()
            return Body(reader, descriptor.size)

        reply = exchange.once(
            "PUT",
            url,
            what,
            exchange.push,
            headers={"Content-Type": "application/octet-stream"},
            body=body,
            fine=_CREATED | _LOST,
            # A token that runs out on the way is only noticed once everything was sent.
            fresh=True,
        )
    if reply.status in _LOST:
        raise _lost(exchange, reply, what)
    reply.finish()
    _check_digest(reply.headers, descriptor, what)


def _lost(exchange: Exchange, reply: Reply, what: str) -> Again:
    """The session is gone or holds something else: one more try, from the start."""
    error = exchange.refusal(reply, what)
    return error if isinstance(error, Again) else Again(error, tries=2)


def _check_digest(headers: Mapping[str, str], descriptor: Descriptor, what: str) -> None:
    """docker-registry 2.8 takes a sha512 blob and stores it under its sha256."""
    stored = headers.get("Docker-Content-Digest", descriptor.digest)
    if stored != descriptor.digest:
        raise RegistryError(
            f"{what}: the registry stored it as {stored[:200]}",
            hint="the registry does not support this digest algorithm",
        )
