"""Copy an image between any two places: pull, push, export and import are all this one copy."""

import io
import threading
from collections.abc import Callable, Sequence
from typing import BinaryIO

from imgbuild.errors import ImgbuildError
from imgbuild.events import EventSink, TransferProgress, ignore
from imgbuild.oci import media_types
from imgbuild.oci.content import BlobSink, BlobSource
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest
from imgbuild.oci.graph import read_document, walk

__all__ = ["copy_image", "read_document"]

# Names a repository that has a blob, or None.
Origin = Callable[[Digest], str | None]

# Progress is told in steps of this many bytes.
_STEP = 1 << 20
# As much of a digest as people tell it by.
_SHORT = len("sha256:") + 12


def _nowhere(_digest: Digest) -> None:
    return None


def copy_image(
    source: BlobSource,
    sink: BlobSink,
    root: Descriptor,
    *,
    events: EventSink = ignore,
    jobs: int = 4,
    doing: str = "copying",
    origin: Origin = _nowhere,
) -> None:
    """Make `root` and all below it be in `sink`; `root` comes last, after all it needs is there.

    `doing` begins what progress says; `origin` names the repository on the sink's registry that
    a blob may be mounted from.
    Raises the first `ImgbuildError`; what is on its way then is given up.
    """
    blobs: list[Descriptor] = []
    documents: list[tuple[Descriptor, bytes]] = []
    for descriptor, data in walk(source, root):
        if data is None:
            blobs.append(descriptor)
        else:
            documents.append((descriptor, data))
    copy = _Copy(source, sink, events, doing, origin)
    # The largest first: they decide how long it takes.
    _in_parallel(copy.blob, sorted(blobs, key=lambda item: -item.size), jobs, copy.stop)
    for descriptor, data in documents:
        copy.document(descriptor, data)


class _Copy:
    def __init__(
        self, source: BlobSource, sink: BlobSink, events: EventSink, doing: str, origin: Origin
    ) -> None:
        self._source = source
        self._sink = sink
        self._events = events
        self._doing = doing
        self._origin = origin
        self._lock = threading.Lock()
        self.stop = threading.Event()

    def blob(self, descriptor: Descriptor) -> None:
        if self._sink.exists(descriptor):
            return

        def opener() -> BinaryIO:
            return io.BufferedReader(
                _Watched(self._source.open(descriptor), descriptor, self), _STEP
            )

        self._sink.put(descriptor, opener, self._origin(descriptor.digest))
        self.progress(descriptor, descriptor.size)

    def document(self, descriptor: Descriptor, data: bytes) -> None:
        if not self._sink.exists(descriptor):
            self._sink.put(descriptor, lambda: io.BytesIO(data))

    def progress(self, descriptor: Descriptor, done: int) -> None:
        what = f"{self._doing} {_kind(descriptor)} {descriptor.digest[:_SHORT]}"
        # Sinks need not know that there are threads.
        with self._lock:
            self._events(TransferProgress(what, done, descriptor.size))


def _kind(descriptor: Descriptor) -> str:
    if descriptor.media_type in media_types.CONFIGS:
        return "config"
    kinds = (media_types.OCI_LAYER, media_types.DOCKER_LAYER)
    return "layer" if descriptor.media_type.startswith(kinds) else "blob"


class _StoppedError(Exception):
    """Ends a transfer whose result nobody wants any more; never leaves this module."""


class _Watched(io.RawIOBase):
    """Report how much of a stream was read, and end it when another transfer failed."""

    def __init__(self, stream: BinaryIO, descriptor: Descriptor, copy: _Copy) -> None:
        super().__init__()
        self._stream = stream
        self._descriptor = descriptor
        self._copy = copy
        self._done = 0
        self._told = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]  # typeshed's Buffer is 3.12
        if self._copy.stop.is_set():
            raise _StoppedError
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._done += len(data)
        # The end is told once the sink has it.
        if self._done - self._told >= _STEP and self._done < self._descriptor.size:
            self._told = self._done
            self._copy.progress(self._descriptor, self._done)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _in_parallel(
    work: Callable[[Descriptor], None],
    items: Sequence[Descriptor],
    jobs: int,
    stop: threading.Event,
) -> None:
    """Do `work` for every item in up to `jobs` threads; raise the first error, stopping the rest."""
    if jobs <= 1 or len(items) <= 1:
        for item in items:
            work(item)
        return
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    with ThreadPoolExecutor(min(jobs, len(items)), "imgbuild-transfer") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if not all(future.done() and future.exception() is None for future in futures):
                stop.set()
                pool.shutdown(cancel_futures=True)
    errors = [e for f in futures if not f.cancelled() and (e := f.exception()) is not None]
    errors = [error for error in errors if not isinstance(error, _StoppedError)] or errors
    if errors:
        raise next((e for e in errors if isinstance(e, ImgbuildError)), errors[0])
