"""One repository of a registry as a source of content, a sink for it, and a set of names.

The protocol: https://github.com/opencontainers/distribution-spec. Nothing is sent before the
first call, and `requests` and `ssl` are not loaded before that.
"""

import io
import time
from collections.abc import Callable
from threading import Lock
from types import TracebackType
from typing import BinaryIO, Self

from imgbuild.errors import DigestMismatchError, ImageError, RegistryError
from imgbuild.events import EventSink, ignore
from imgbuild.oci import media_types
from imgbuild.oci.codec import MAX_DOCUMENT, load_object
from imgbuild.oci.content import Opener, VerifiedReader
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest, digest_bytes, parse_digest
from imgbuild.oci.manifest import parse_manifest
from imgbuild.oci.reference import Reference
from imgbuild.options import RegistryOptions
from imgbuild.registry.download import Download, read_document
from imgbuild.registry.exchange import Exchange
from imgbuild.registry.transport import Reply
from imgbuild.registry.upload import upload

_DOCUMENTS = media_types.MANIFESTS | media_types.INDEXES
_ACCEPT = {"Accept": media_types.ACCEPT_MANIFESTS}
_KEPT_DOCUMENTS = 8
_BUFFER = 256 << 10


class Registry:
    """The repository that `reference` names; its tag and digest do not matter here.

    May be used by many threads at once. Every failure is a `RegistryError`, or a
    `DigestMismatchError` where content is not what it is called; streams raise them too.
    """

    def __init__(
        self,
        reference: Reference,
        options: RegistryOptions | None = None,
        *,
        events: EventSink = ignore,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._name = reference.name
        self._domain = reference.domain
        self._exchange = Exchange(reference, options or RegistryOptions(), events, pause)
        self._lock = Lock()
        self._seen: dict[Digest, bool] = {}
        self._documents: dict[Digest, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections."""
        self._exchange.close()

    # Source

    def open(self, descriptor: Descriptor) -> BinaryIO:
        """Return the content; reading it to the end verifies it. A cut connection is resumed."""
        digest = descriptor.digest
        if descriptor.media_type in _DOCUMENTS:
            return self._open_document(descriptor)
        what = f"blob {digest} of {self._name}"
        path = self._exchange.path(f"blobs/{digest}")
        download = Download(self._exchange, path, what, descriptor.size)
        return _reader(download, descriptor)

    def _open_document(self, descriptor: Descriptor) -> BinaryIO:
        if descriptor.size > MAX_DOCUMENT:
            raise RegistryError(
                f"manifest {descriptor.digest} of {self._name} is said to have "
                f"{descriptor.size} bytes; {MAX_DOCUMENT} are allowed",
                hint="no manifest is that large; the image is broken",
            )
        data = self._documents.get(descriptor.digest)
        if data is None:
            data = self._fetch(str(descriptor.digest), descriptor.size)[0]
        return _reader(io.BytesIO(data), descriptor)

    # Names

    def resolve(self, name: str) -> Descriptor:
        """Return what the tag or digest `name` stands for.

        HEAD is asked first, which does not count against Docker Hub's limit on pulls.
        """
        digest = parse_digest(name) if ":" in name else None
        found = self._head(name)
        if found is None:
            data, served = self._fetch(name, MAX_DOCUMENT)
            found = _describe(data, served, digest)
        if digest is not None and found.digest != digest:
            raise DigestMismatchError(
                f"registry {self._domain} says that {self._name}@{digest} is {found.digest}",
                hint="the registry is damaged or lies",
            )
        return found

    def _head(self, name: str) -> Descriptor | None:
        """Return what HEAD tells, None when it tells too little: some servers know no HEAD."""
        path, what = self._manifest(name)
        fine = (200, 400, 403, 404, 405, 501)
        reply = self._exchange.send(
            "HEAD", path, what, self._exchange.pull, headers=_ACCEPT, fine=fine
        )
        reply.finish()
        size = reply.headers.get("Content-Length", "")
        media_type = _media_type(reply)
        if reply.status != 200 or not size.isdecimal() or media_type not in _DOCUMENTS:
            return None
        try:
            digest = parse_digest(reply.headers.get("Docker-Content-Digest"))
        except ImageError:
            return None
        return Descriptor(media_type, digest, int(size))

    def _fetch(self, name: str, limit: int) -> tuple[bytes, Reply]:
        path, what = self._manifest(name)

        def attempt() -> tuple[bytes, Reply]:
            reply = self._exchange.once("GET", path, what, self._exchange.pull, headers=_ACCEPT)
            return read_document(self._exchange, reply, what, limit), reply

        return self._exchange.retry.run(attempt)

    def _manifest(self, name: str) -> tuple[str, str]:
        joint = "@" if ":" in name else ":"
        return self._exchange.path(f"manifests/{name}"), f"manifest {self._name}{joint}{name}"

    # Sink

    def exists(self, descriptor: Descriptor) -> bool:
        """Tell whether the repository has the content; what cannot be asked is taken for absent."""
        digest = descriptor.digest
        if descriptor.media_type in _DOCUMENTS:
            path, what = self._manifest(str(digest))
        else:
            path, what = self._exchange.path(f"blobs/{digest}"), f"blob {digest} of {self._name}"
        # public.ecr.aws refuses HEAD for blobs that can be had; then they are sent.
        reply = self._exchange.send(
            "HEAD", path, what, self._exchange.push, headers=_ACCEPT, fine=(200, 403, 404, 405)
        )
        reply.finish()
        self._see(digest, there=reply.status == 200)
        return reply.status == 200

    def put(self, descriptor: Descriptor, opener: Opener, origin: str | None = None) -> None:
        """Make the content be in the repository.

        `origin` is a repository of the same registry (its path or its full name) that a blob
        may be mounted from.
        """
        if descriptor.media_type in _DOCUMENTS:
            self._put_document(descriptor, opener)
            return
        seen = self._seen.get(descriptor.digest)
        if seen or (seen is None and self.exists(descriptor)):
            return
        upload(self._exchange, descriptor, opener, self._mountable(origin))
        self._see(descriptor.digest, there=True)

    def _put_document(self, descriptor: Descriptor, opener: Opener) -> None:
        with opener() as stream:
            data = _reader(stream, descriptor).read()
        self._put_manifest(str(descriptor.digest), descriptor, data)
        with self._lock:
            while len(self._documents) >= _KEPT_DOCUMENTS:
                self._documents.pop(next(iter(self._documents)))
            self._documents[descriptor.digest] = data

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let the tag `name` stand for a manifest that is in the repository."""
        with self.open(descriptor) as stream:
            data = stream.read()
        self._put_manifest(name, descriptor, data)

    def _put_manifest(self, name: str, descriptor: Descriptor, data: bytes) -> None:
        path, what = self._manifest(name)
        reply = self._exchange.send(
            "PUT",
            path,
            what,
            self._exchange.push,
            headers={"Content-Type": descriptor.media_type},
            body=lambda: data,
            fine=(200, 201, 202),
        )
        reply.finish()
        stored = reply.headers.get("Docker-Content-Digest", descriptor.digest)
        if stored != descriptor.digest:
            raise RegistryError(
                f"{what}: the registry stored it as {stored[:200]}",
                hint="the registry changed the manifest, so its digest is another one",
            )

    def _mountable(self, origin: str | None) -> str:
        """Return the path of `origin` when it is another repository of this registry, else ""."""
        if not origin:
            return ""
        path = origin.removeprefix(f"{self._domain}/")
        first, slash, _ = path.partition("/")
        elsewhere = path == origin and slash and ("." in first or ":" in first)
        return "" if elsewhere or path == self._exchange.repository else path

    def _see(self, digest: Digest, *, there: bool) -> None:
        with self._lock:
            self._seen[digest] = there


def _reader(stream: BinaryIO | Download, descriptor: Descriptor) -> BinaryIO:
    reader = VerifiedReader(stream, descriptor)  # type: ignore[arg-type]  # it has read and close
    return io.BufferedReader(reader, _BUFFER)


def _media_type(reply: Reply) -> str:
    return reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _describe(data: bytes, reply: Reply, wanted: Digest | None) -> Descriptor:
    """Describe a manifest that was read; servers may call its type `text/plain`, so it counts less."""
    served = _media_type(reply)
    digest = digest_bytes(data)
    if wanted is not None and wanted.algorithm != digest.algorithm:
        digest = wanted  # verified when the content is opened
    said = reply.headers.get("Docker-Content-Digest", digest)
    if said != digest and said.startswith(f"{digest.algorithm}:"):
        raise DigestMismatchError(
            f"registry {reply.url.split('/')[2]} sent a manifest with digest {digest} as {said}",
            hint="the registry is damaged, or something on the way changed the answer",
        )
    load_object(data, "manifest")
    known = served if served in _DOCUMENTS | media_types.SCHEMA1 else ""
    return Descriptor(parse_manifest(data, known).media_type, digest, len(data))
