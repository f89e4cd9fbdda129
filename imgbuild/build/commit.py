"""Entries -> a layer in the store: blob and index, both whole or not at all."""

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from imgbuild.errors import SecretInLayerError
from imgbuild.layer.compress import BlobWriter
from imgbuild.layer.entry import Entry
from imgbuild.layer.index import IndexWriter, read_index
from imgbuild.layer.stream import Readable
from imgbuild.layer.tarwrite import TarWriter
from imgbuild.oci.descriptor import Layer
from imgbuild.oci.digest import Digest
from imgbuild.store.store import Store

if TYPE_CHECKING:
    from imgbuild.build.leaks import Hit, Search


class LayerMaker:
    """Make one layer; leaving the context without `finish` leaves nothing behind.

    Use `add` for entries, or `write` and `index` for a tar that someone else writes. `secrets` are
    values that it must not hold, by name: `finish` raises `SecretInLayerError`.
    """

    def __init__(
        self, store: Store, clamp: int | None, secrets: Mapping[str, bytes] | None = None
    ) -> None:
        self._store = store
        self._file = store.blobs.writer()
        self._index_file = store.blobs.index_writer()
        self._blob = BlobWriter(self._file)
        self.index = IndexWriter(self._index_file)
        self._search = self._searching(secrets) if secrets else None
        self.write = self._blob.write if self._search is None else self._searched
        self._tar = TarWriter(self.write, self.index.add, clamp)
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
        if self._search is not None and self._search.hits:
            raise self._leak(self._search.hits[0], layer)
        self._index_file.commit(layer.diff_id)
        self._file.commit(layer.descriptor.digest, layer.descriptor.size)
        self._done = True
        return layer

    def _searching(self, secrets: Mapping[str, bytes]) -> "Search | None":
        from imgbuild.build.leaks import Search, needles

        wanted = needles(secrets)
        return Search(wanted) if wanted else None

    def _searched(self, data: bytes) -> None:
        assert self._search is not None  # noqa: S101  it is only used with one
        self._search.feed(data)
        self._blob.write(data)

    def _leak(self, hit: "Hit", layer: Layer) -> SecretInLayerError:
        from imgbuild.build.leaks import leak_error

        with self._index_file.path.open("rb", buffering=0) as file:
            return leak_error(hit, read_index(file, layer.diff_id))
