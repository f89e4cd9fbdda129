"""How a build reads the layers it stands on: indexes made on first need, every byte verified then."""

import hashlib
import io
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from imgbuild.errors import DigestMismatchError, ImageError
from imgbuild.layer.entry import Entry
from imgbuild.oci.descriptor import Layer
from imgbuild.snapshot.view import LayerFiles, RootView
from imgbuild.store.store import Store

if TYPE_CHECKING:
    from imgbuild.layer.sortedindex import SortedIndex

_CHUNK = 1 << 20


class LayerStack:
    """The layers of a store as views and streams."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def view(self, layers: Sequence[Layer]) -> RootView:
        """Return the merged view of `layers`, bottom first; nothing is read before it is asked."""
        files = [
            LayerFiles(partial(self.entries, layer), partial(self.open_raw, layer))
            for layer in layers
        ]
        return RootView(files, self._store.paths.staging)

    def entries(self, layer: Layer) -> "Sequence[Entry] | SortedIndex":
        """Return the index of a layer; it is made where it is missing or damaged.

        Raises `ImageError` when the blob is not what the image's config says.
        """
        from imgbuild.layer.index import open_index

        blobs = self._store.blobs
        for attempt in range(2):
            if not blobs.has_index(layer.diff_id):
                self._make_index(layer)
            try:
                return open_index(blobs.open_index(layer.diff_id), layer.diff_id)
            except ImageError:
                if attempt:
                    raise
                blobs.drop_index(layer.diff_id)
        raise AssertionError("unreachable")

    def open_raw(self, layer: Layer) -> BinaryIO:
        """Return the uncompressed tar of a layer; only what is read to the end is verified."""
        from imgbuild.layer.decompress import open_uncompressed

        blob = self._store.blobs.open(layer.descriptor)
        return open_uncompressed(blob, layer.descriptor.media_type)

    def open_verified(self, layer: Layer) -> BinaryIO:
        """Return the uncompressed tar; its end is reported only when the diff id is right."""
        return io.BufferedReader(DiffIdReader(self.open_raw(layer), layer), _CHUNK)

    def _make_index(self, layer: Layer) -> None:
        from imgbuild.layer.index import IndexWriter
        from imgbuild.layer.tarread import scan

        raw = DiffIdReader(self.open_raw(layer), layer)
        with self._store.blobs.index_writer() as file, io.BufferedReader(raw, _CHUNK) as stream:
            index = IndexWriter(file)
            scan(stream, index.add)
            while stream.read(_CHUNK):
                pass  # what follows the end of the archive belongs to the diff id
            index.finish(layer.diff_id, raw.size)
            file.commit(layer.diff_id)


class DiffIdReader(io.RawIOBase):
    """Hash an uncompressed layer; raise `DigestMismatchError` at its end when it is another one."""

    def __init__(self, stream: BinaryIO, layer: Layer) -> None:
        super().__init__()
        self._stream = stream
        self._layer = layer
        self._hash = hashlib.new(layer.diff_id.algorithm)
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]  # typeshed's Buffer is 3.12
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._hash.update(data)
        self.size += len(data)
        if not data and len(buffer):
            self._check()
        return len(data)

    def _check(self) -> None:
        actual = f"{self._layer.diff_id.algorithm}:{self._hash.hexdigest()}"
        if actual != self._layer.diff_id:
            raise DigestMismatchError(
                f"layer {self._layer.descriptor.digest} unpacks to {actual}, "
                f"but the image's config says {self._layer.diff_id}",
                hint="the image is damaged or was tampered with; nothing of the layer was kept",
            )

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
