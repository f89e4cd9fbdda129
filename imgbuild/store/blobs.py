"""Content by digest, and the index files of layers by diff id."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from imgbuild.errors import DigestMismatchError, ImageError, StoreError
from imgbuild.oci.codec import MAX_DOCUMENT
from imgbuild.oci.content import Opener, VerifiedReader
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest, digest_bytes, parse_digest
from imgbuild.store.failure import explained
from imgbuild.store.paths import StorePaths
from imgbuild.store.staging import Flusher, StagedFile

_CHUNK = 1 << 20


class BlobStore:
    """Blobs of a store: a `BlobSource` and a `BlobSink`.

    What was put or committed can be read at once by this process, and by others once it is on
    disk; `flush` waits for that. A blob that is there is never written again.
    """

    def __init__(self, paths: StorePaths, stage: Callable[[], Path]) -> None:
        self._paths = paths
        self._stage = stage
        self._flusher = Flusher()

    # --- BlobSource ---

    def open(self, descriptor: Descriptor) -> BinaryIO:
        """Return the blob as a stream that verifies itself; a damaged blob is removed.

        Raises `StoreError` when it is not there, `DigestMismatchError` while reading.
        """
        path = self._paths.blob(descriptor.digest)
        file = self._open_file(path, f"blob {descriptor.digest}")
        return io.BufferedReader(_StoredBlob(file, descriptor, path), _CHUNK)

    def read(self, digest: Digest) -> bytes:
        """Return the whole of a small blob, such as a manifest, verified."""
        path = self._paths.blob(digest)
        with self._open_file(path, f"blob {digest}") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_DOCUMENT:
                raise ImageError(f"{digest} has {size} bytes, too many for a document")
            with _StoredBlob(file, Descriptor("", digest, size), path) as stream:
                return stream.read()

    # --- BlobSink ---

    def exists(self, descriptor: Descriptor) -> bool:
        """Tell whether the whole blob is there; one of another size is not."""
        return self._flusher.size(self._paths.blob(descriptor.digest)) == descriptor.size

    def put(self, descriptor: Descriptor, opener: Opener, origin: str | None = None) -> None:  # noqa: ARG002  # the port's; nothing can be mounted here
        if self.exists(descriptor):
            return
        with self.writer() as out, VerifiedReader(opener(), descriptor) as stream:
            while chunk := stream.read(_CHUNK):
                out.write(chunk)
            out.commit(descriptor.digest, descriptor.size)

    def add(self, media_type: str, data: bytes) -> Descriptor:
        """Put a document that was just made and return its descriptor."""
        descriptor = Descriptor(media_type, digest_bytes(data), len(data))
        if not self.exists(descriptor):
            with self.writer() as out:
                out.write(data)
                out.commit(descriptor.digest, descriptor.size)
        return descriptor

    def writer(self) -> StagedFile:
        """Return a new file; `commit(digest, size)` makes it that blob."""
        return StagedFile(self._stage(), self._place_blob)

    def flush(self) -> None:
        """Wait until everything that was put is on disk; raise `DiskFullError` or `StoreError`."""
        self._flusher.flush()

    def close(self) -> None:
        self._flusher.close()

    # --- indexes of layers ---

    def has_index(self, diff_id: Digest) -> bool:
        return self._flusher.size(self._paths.index(diff_id)) >= 0

    def open_index(self, diff_id: Digest) -> io.FileIO:
        """Return the index file of a layer; raise `StoreError` when it is not there."""
        return self._open_file(self._paths.index(diff_id), f"index of layer {diff_id}")

    def index_writer(self) -> StagedFile:
        """Return a new file; `commit(diff_id)` makes it the index of that layer."""
        return StagedFile(self._stage(), self._place_index)

    def drop_index(self, diff_id: Digest) -> None:
        """Remove an index that turned out to be damaged, so that it is made again."""
        with explained("remove a damaged index"):
            self._paths.index(diff_id).unlink(missing_ok=True)

    # --- the machinery ---

    def _place_blob(self, file: StagedFile, key: object, size: int) -> None:
        self._settle(file, self._paths.blob(parse_digest(key)), size)

    def _place_index(self, file: StagedFile, key: object, size: int) -> None:
        self._settle(file, self._paths.index(parse_digest(key)), size)

    def _settle(self, file: StagedFile, target: Path, size: int) -> None:
        if self._flusher.size(target) == size:
            file.discard()
        else:
            self._flusher.submit(file, target)

    def _open_file(self, path: Path, what: str) -> io.FileIO:
        with explained(f"read {what}"):
            try:
                return self._flusher.open(path)
            except FileNotFoundError:
                raise StoreError(
                    f"{what} is not in the store",
                    hint="pull or build the image again",
                ) from None


class _StoredBlob(VerifiedReader):
    """A reader that removes the file when its content is not what its name says."""

    def __init__(self, file: io.FileIO, descriptor: Descriptor, path: Path) -> None:
        super().__init__(file, descriptor)
        # When the sizes differ it may be the descriptor that is wrong.
        self._suspect = os.fstat(file.fileno()).st_size == descriptor.size
        self._path = path

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            with explained(f"read blob {self._path.name}"):
                return super().read(size)
        except DigestMismatchError as error:
            if not self._suspect:
                raise
            self._suspect = False
            try:
                self._path.unlink(missing_ok=True)
            except OSError:
                raise error from None
            raise DigestMismatchError(
                f"the stored blob sha256:{self._path.name} is damaged",
                hint="it was removed; pull or build the image again",
            ) from error
