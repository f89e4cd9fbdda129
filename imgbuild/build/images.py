"""Images that are in some blob source, read: manifest, config and layers that belong together."""

from imgbuild.errors import ImageError
from imgbuild.oci.config import check_history, parse_config
from imgbuild.oci.content import BlobSource
from imgbuild.oci.descriptor import Descriptor, Layer
from imgbuild.oci.manifest import Manifest, parse_manifest, select_platform
from imgbuild.oci.platform import Platform
from imgbuild.plan.model import BaseImage
from imgbuild.transfer import read_document

# An index may list indexes; nobody nests them deeper.
_MOST_INDEXES = 4


def for_platform(
    source: BlobSource, root: Descriptor, platform: Platform
) -> tuple[Descriptor, Manifest]:
    """Return the manifest for `platform` that `root`, a manifest or an index, leads to."""
    descriptor = root
    for _ in range(_MOST_INDEXES):
        document = parse_manifest(read_document(source, descriptor), descriptor.media_type)
        if isinstance(document, Manifest):
            return descriptor, document
        descriptor = select_platform(document, platform)
    raise ImageError(f"{root.digest} is an index of indexes of indexes")


def load_image(source: BlobSource, name: str, root: Descriptor, platform: Platform) -> BaseImage:
    """Read manifest and config of an image; raise `ImageError` when they do not belong together."""
    descriptor, manifest = for_platform(source, root, platform)
    config = parse_config(read_document(source, manifest.config))
    if len(config.diff_ids) != len(manifest.layers):
        raise ImageError(
            f"{name}: the manifest has {len(manifest.layers)} layers, "
            f"but the config names {len(config.diff_ids)}",
            hint="the image is damaged; push or pull it again",
        )
    check_history(config)
    pairs = zip(manifest.layers, config.diff_ids, strict=True)
    return BaseImage(name, descriptor.digest, config, tuple(Layer(d, i) for d, i in pairs))
