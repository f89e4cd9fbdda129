"""Image archives: one tar file that other tools load.

`write_oci_archive` writes an OCI layout as a tar. `write_docker_archive` adds docker's
`manifest.json`, which makes the file what `docker save` writes since version 25: docker, podman,
skopeo and containerd all load it. Both are deterministic: same image and names, same bytes.
"""

import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from imgbuild.errors import ImageError, UsageError
from imgbuild.oci import media_types
from imgbuild.oci.codec import dump_compact, dump_indented
from imgbuild.oci.content import BlobSource
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.graph import read_manifest, walk
from imgbuild.oci.manifest import Index, Manifest
from imgbuild.oci.reference import parse_reference
from imgbuild.store.failure import explained
from imgbuild.store.layout import index_entries
from imgbuild.store.names import LAYOUT_FILE, named_entry

_CHUNK = 1 << 20
_BLOCK = 512
# tar(1) reads records of 20 blocks and warns about less.
_RECORD = 20 * _BLOCK


def write_oci_archive(
    source: BlobSource, root: Descriptor, names: Sequence[str], dest: Path | BinaryIO
) -> None:
    """Write `root` and all below it as the tar of an OCI layout.

    `names` are full names. A `dest` that is a path appears whole or not at all.
    """
    blobs = _collect(source, root)
    index = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": index_entries(tuple(names), root),
    }
    _write(source, blobs, {"index.json": dump_indented(index)}, dest)


def write_docker_archive(
    source: BlobSource, root: Descriptor, names: Sequence[str], dest: Path | BinaryIO
) -> None:
    """Write the image `root` for `docker load` and `podman load`.

    Raises `ImageError` for several platforms in one image and for layers that docker cannot
    load: zstd, and those only their vendor may hand out.
    """
    root, manifest = _single(source, root)
    _check_layers(manifest)
    blobs = _collect(source, root)
    # podman takes the whole reference name for the image's, so it has to be the full one.
    entries = [named_entry(root, name, name) for name in names] or list(index_entries((), root))
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}
    listing = [
        {
            "Config": _path(manifest.config),
            # Full names: podman takes a short one for an image of its own, localhost/NAME.
            "RepoTags": [str(ref) for ref in map(parse_reference, names) if not ref.digest],
            "Layers": [_path(layer) for layer in manifest.layers],
        }
    ]
    documents = {"index.json": dump_indented(index), "manifest.json": dump_compact(listing)}
    _write(source, blobs, documents, dest)


def _single(source: BlobSource, root: Descriptor) -> tuple[Descriptor, Manifest]:
    document = read_manifest(source, root)
    if isinstance(document, Index):
        images = [
            item
            for item in document.manifests
            if item.media_type in media_types.MANIFESTS
            and (item.platform is None or item.platform.os != "unknown")
        ]
        if len(images) != 1:
            raise ImageError(
                f"a docker archive holds one platform, this image has {len(images)}",
                hint="choose one with --platform, or write --output type=oci",
            )
        return _single(source, images[0])
    return root, document


def _check_layers(manifest: Manifest) -> None:
    for layer in manifest.layers:
        if media_types.is_foreign(layer.media_type) or layer.media_type.endswith("zstd"):
            raise ImageError(
                f"docker cannot load a layer of type {layer.media_type} from an archive",
                hint="write --output type=oci, or push the image to a registry",
            )


def _collect(source: BlobSource, root: Descriptor) -> dict[str, tuple[Descriptor, bytes | None]]:
    return {_path(item): (item, data) for item, data in walk(source, root)}


def _path(descriptor: Descriptor) -> str:
    return f"blobs/{descriptor.digest.algorithm}/{descriptor.digest.encoded}"


def _write(
    source: BlobSource,
    blobs: dict[str, tuple[Descriptor, bytes | None]],
    documents: dict[str, bytes],
    dest: Path | BinaryIO,
) -> None:
    documents = {**documents, "oci-layout": LAYOUT_FILE}
    folders = {"blobs"} | {path.rpartition("/")[0] for path in blobs}
    with _destination(dest) as out:
        for path in sorted({*folders, *blobs, *documents}):
            if path in folders:
                out.write(_header(path + "/", 0o755, 0, directory=True))
            elif path in documents:
                _member(out, path, len(documents[path]), io.BytesIO(documents[path]))
            else:
                descriptor, data = blobs[path]
                stream = source.open(descriptor) if data is None else io.BytesIO(data)
                with stream:
                    _member(out, path, descriptor.size, stream)
        out.write(bytes(2 * _BLOCK))
        out.write(bytes(-out.written % _RECORD))


def _member(out: "_Counted", path: str, size: int, content: BinaryIO) -> None:
    out.write(_header(path, 0o644, size))
    while chunk := content.read(_CHUNK):
        out.write(chunk)
    out.write(bytes(-size % _BLOCK))


def _header(path: str, mode: int, size: int, *, directory: bool = False) -> bytes:
    from tarfile import DIRTYPE, GNU_FORMAT, TarInfo

    info = TarInfo(path)
    info.mode, info.size = mode, size
    if directory:
        info.type = DIRTYPE
    # All names are short; GNU differs from ustar only in sizes from 8 GiB.
    return info.tobuf(GNU_FORMAT)


class _Counted:
    """Write everything and count it; a full disk is told as such."""

    def __init__(self, stream: BinaryIO, what: str) -> None:
        self._stream = stream
        self._action = f"write {what}"
        self.written = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        with explained(self._action):
            while view:
                count = self._stream.write(view)
                self.written += count
                view = view[count:]


@contextmanager
def _destination(dest: Path | BinaryIO) -> Iterator[_Counted]:
    if not isinstance(dest, Path):
        out = _Counted(dest, "the archive")
        yield out
        with explained("write the archive"):
            dest.flush()
        return
    # Renaming replaces a link, writing follows it.
    path = Path(os.path.realpath(dest))
    if path.is_dir():
        raise UsageError(f"{dest} is a directory", hint="name a file for the archive")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a directory", hint="make it first")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with explained(f"write {dest}"), path.open("wb") as device:
            yield _Counted(device, str(dest))
        return
    with _replacing(path) as file:
        yield _Counted(file, str(dest))


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    staged = path.with_name(f".{path.name}.imgbuild-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with explained(f"write {path}"):
            file = staged.open("xb", buffering=0)
        with file:
            yield file
            with explained(f"write {path}"):
                os.fsync(file.fileno())
        with explained(f"write {path}"):
            os.rename(staged, path)
    finally:
        staged.unlink(missing_ok=True)
