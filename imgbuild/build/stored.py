"""Images of the store, read."""

from imgbuild.build.results import ImageInfo
from imgbuild.errors import ImageError
from imgbuild.oci.config import parse_config
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.manifest import Manifest, parse_manifest
from imgbuild.oci.reference import parse_reference
from imgbuild.store.store import Store


def read_manifest(store: Store, descriptor: Descriptor) -> tuple[Manifest, bytes]:
    """Return a manifest, read and as it is stored; raise `ImageError` for an index."""
    data = store.blobs.read(descriptor.digest)
    document = parse_manifest(data, descriptor.media_type)
    if not isinstance(document, Manifest):
        raise ImageError(f"{descriptor.digest} is an index, not an image")
    return document, data


def image_info(store: Store, name: str, descriptor: Descriptor) -> ImageInfo:
    """Describe an image; `name` may be empty."""
    manifest, data = read_manifest(store, descriptor)
    config = parse_config(store.blobs.read(manifest.config.digest))
    size = len(data) + sum(child.size for child in manifest.children())
    familiar = parse_reference(name).familiar if name else "<none>"
    return ImageInfo(name, familiar, descriptor.digest, size, config.created)
