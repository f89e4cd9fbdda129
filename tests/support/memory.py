"""A `BlobSource`, `BlobSink` and `ImageNames` in memory: a real implementation, for tests."""

import io
from typing import BinaryIO

from imgbuild.errors import NameNotFoundError, StoreError
from imgbuild.oci import media_types
from imgbuild.oci.config import HistoryEntry, ImageConfig, RunConfig, dump_config
from imgbuild.oci.content import Opener, VerifiedReader
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import digest_bytes
from imgbuild.oci.manifest import Index, Manifest, dump_manifest
from imgbuild.oci.platform import Platform

EPOCH = "1970-01-01T00:00:00Z"
AMD64 = Platform("linux", "amd64")


class MemoryStore:
    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.named: dict[str, Descriptor] = {}
        # What was asked of this store, in order, for tests that count.
        self.opened: list[str] = []
        self.stored: list[str] = []

    def open(self, descriptor: Descriptor) -> BinaryIO:
        self.opened.append(descriptor.digest)
        if descriptor.digest not in self.blobs:
            raise StoreError(f"{descriptor.digest} is not in memory")
        stream = io.BytesIO(self.blobs[descriptor.digest])
        return io.BufferedReader(VerifiedReader(stream, descriptor))

    def exists(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self.blobs

    def put(self, descriptor: Descriptor, opener: Opener, origin: str | None = None) -> None:
        if self.exists(descriptor):
            return
        with VerifiedReader(opener(), descriptor) as stream:
            data = stream.read()
        self.blobs[descriptor.digest] = data
        self.stored.append(descriptor.digest)

    def resolve(self, name: str) -> Descriptor:
        if name not in self.named:
            raise NameNotFoundError(f"no such image: {name}")
        return self.named[name]

    def tag(self, name: str, descriptor: Descriptor) -> None:
        self.named[name] = descriptor

    def add(self, media_type: str, data: bytes) -> Descriptor:
        descriptor = Descriptor(media_type, digest_bytes(data), len(data))
        self.blobs[descriptor.digest] = data
        return descriptor


def add_image(
    store: MemoryStore,
    layers: tuple[bytes, ...] = (b"one", b"two"),
    platform: Platform = AMD64,
) -> Descriptor:
    """Put a small valid image whose layers are tars of one file each; return its manifest."""
    tars = [tar_of({f"file{n}": content}) for n, content in enumerate(layers)]
    config = ImageConfig(
        platform,
        RunConfig(env=(("PATH", "/bin"),), cmd=("sh",)),
        diff_ids=tuple(digest_bytes(tar) for tar in tars),
        # umoci 0.4 falls over history without a time.
        history=tuple(HistoryEntry(EPOCH, f"COPY file{n}") for n in range(len(layers))),
        created=EPOCH,
    )
    manifest = Manifest(
        media_types.OCI_MANIFEST,
        store.add(media_types.OCI_CONFIG, dump_config(config)),
        tuple(store.add(media_types.OCI_LAYER_GZIP, _gzip(tar)) for tar in tars),
    )
    return store.add(media_types.OCI_MANIFEST, dump_manifest(manifest))


def add_index(store: MemoryStore, *manifests: Descriptor) -> Descriptor:
    index = Index(media_types.OCI_INDEX, manifests)
    return store.add(media_types.OCI_INDEX, dump_manifest(index))


def tar_of(files: dict[str, bytes]) -> bytes:
    """Return a tar of plain files, owned by root, from 1970."""
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _gzip(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, mtime=0)
