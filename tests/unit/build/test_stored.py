import io

import pytest

from imgbuild.build.stored import read_manifest
from imgbuild.errors import ImageError
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import digest_bytes
from imgbuild.store.store import Store


def test_an_index_is_no_image(store: Store) -> None:
    data = b'{"schemaVersion":2,"manifests":[]}'
    media_type = "application/vnd.oci.image.index.v1+json"
    descriptor = Descriptor(media_type, digest_bytes(data), len(data))
    store.blobs.put(descriptor, lambda: io.BytesIO(data))
    with pytest.raises(ImageError, match="is an index, not an image"):
        read_manifest(store, descriptor)
