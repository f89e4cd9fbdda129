"""Walk an image: an index lists manifests, a manifest lists a config and layers."""

from collections.abc import Iterator

from imgbuild.errors import ImageError
from imgbuild.oci import media_types
from imgbuild.oci.codec import MAX_DOCUMENT
from imgbuild.oci.content import BlobSource
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.manifest import Index, Manifest, parse_manifest

# An index of indexes is legal; nobody nests deeper, and a hostile source could nest forever.
_MAX_DEPTH = 4
_MAX_DOCUMENTS = 1000


def read_document(source: BlobSource, descriptor: Descriptor) -> bytes:
    """Return the whole of a manifest, index or config, verified; raise `ImageError` for a huge one."""
    if descriptor.size > MAX_DOCUMENT:
        raise ImageError(
            f"{descriptor.digest} has {descriptor.size} bytes, too many for a document"
        )
    with source.open(descriptor) as stream:
        return stream.read()


def read_manifest(source: BlobSource, descriptor: Descriptor) -> Manifest | Index:
    """Read and parse the manifest or index that `descriptor` names."""
    return parse_manifest(read_document(source, descriptor), descriptor.media_type)


def is_document(descriptor: Descriptor) -> bool:
    """Tell whether `descriptor` names a manifest or an index: something with children."""
    return descriptor.media_type in media_types.INDEXES | media_types.MANIFESTS


def walk(source: BlobSource, root: Descriptor) -> Iterator[tuple[Descriptor, bytes | None]]:
    """Yield everything below `root` and then `root`, each digest once, children before parents.

    Manifests and indexes come with their bytes, all else with None. Layers that only their
    vendor may hand out are passed over (image-spec layer.md, non-distributable layers).
    """
    return _walk(source, root, set(), [0], 0)


def _walk(
    source: BlobSource, node: Descriptor, seen: set[str], documents: list[int], depth: int
) -> Iterator[tuple[Descriptor, bytes | None]]:
    if node.digest in seen or media_types.is_foreign(node.media_type):
        return
    seen.add(node.digest)
    if not is_document(node):
        yield node, None
        return
    documents[0] += 1
    if depth >= _MAX_DEPTH or documents[0] > _MAX_DOCUMENTS:
        raise ImageError(f"image index {node.digest} is nested too deeply or has too many entries")
    data = read_document(source, node)
    for child in parse_manifest(data, node.media_type).children():
        yield from _walk(source, child, seen, documents, depth + 1)
    yield node, data
