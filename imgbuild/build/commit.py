"""Entries -> a layer in the store: blob and index, both whole or not at all."""

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from imgbuild.layer.compress import BlobWriter
from imgbuild.layer.entry import Entry
from imgbuild.layer.index import IndexWriter
from imgbuild.layer.stream import Readable
from imgbuild.layer.tarwrite import TarWriter
from imgbuild.oci.descriptor import Layer
from imgbuild.oci.digest import Digest
from imgbuild.store.store import Store


class LayerMaker:
    """Make one layer; leaving the context without `finish` leaves nothing behind.

    Use `add` for entries, or `write` and `index` for a tar that someone else writes.
    """

    def __init__(self, store: Store, clamp: int | None) -> None:
        self._store = store
        self._file = store.blobs.writer()
        self._index_file = store.blobs.index_writer()
        self._blob = BlobWriter(self._file)
        self.index = IndexWriter(self._index_file)
        self.write = self._blob.write
        self._tar = TarWriter(self._blob.write, self.index.add, clamp)
        self._done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if not self._done:
            self._blob.abort()
            self._file.discard()
            self._index_file.discard()

    def add(
        self, entry: Entry, content: Readable | None = None, *, vouched: bool = False
    ) -> Digest | None:
        """Add the next entry, in layer order; see `TarWriter.add`."""
        return self._tar.add(entry, content, vouched=vouched)

    def add_files(self, files: Iterable[tuple[Entry, bytes, Digest]]) -> None:
        """Add files with their contents; see `TarWriter.add_files`."""
        self._tar.add_files(files)

    def finish_tar(self) -> None:
        """End the tar that `add` wrote."""
        self._tar.finish()

    def finish(self) -> Layer:
        """Put the layer into the store and return it."""
        layer = self._blob.finish()
        self.index.finish(layer.diff_id, layer.uncompressed_size)
        self._index_file.commit(layer.diff_id)
        self._file.commit(layer.descriptor.digest, layer.descriptor.size)
        self._done = True
        return layer
