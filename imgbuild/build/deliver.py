"""What leaves a finished build beside the store: archives, layouts and small files."""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from imgbuild.errors import StoreError
from imgbuild.oci.codec import descriptor_to_json
from imgbuild.oci.content import BlobSource
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest
from imgbuild.options import STDOUT, BuildOptions, Output


def write_output(
    output: Output, source: BlobSource, root: Descriptor, names: Sequence[str]
) -> None:
    """Write one `--output`, whole or not at all but for standard output."""
    if output.tar:
        from imgbuild.store.archive import write_docker_archive, write_oci_archive

        write = write_docker_archive if output.type == "docker" else write_oci_archive
        if output.dest == STDOUT:
            with open(1, "wb", buffering=0, closefd=False) as out:
                write(source, root, names, out)
        else:
            write(source, root, names, output.dest)
    else:
        from imgbuild.store.layout import new_layout
        from imgbuild.transfer import copy_image

        with new_layout(output.dest) as layout:
            copy_image(source, layout, root)
            layout.name_all(tuple(names), root)


def write_records(options: BuildOptions, root: Descriptor, config: Digest) -> None:
    """Write what `--iidfile` and `--metadata-file` ask for."""
    if options.iidfile:
        write_iidfile(options.iidfile, config)
    if options.metadata_file:
        write_metadata(options.metadata_file, root, config, options.tags)


def write_iidfile(path: Path, config: Digest) -> None:
    """Write the image ID, which is the config's digest, as docker does: no newline."""
    _replace(path, str(config).encode())


def write_metadata(path: Path, root: Descriptor, config: Digest, names: Sequence[str]) -> None:
    """Write digests and names with the keys that buildx uses."""
    document: dict[str, object] = {
        "containerimage.config.digest": str(config),
        "containerimage.descriptor": descriptor_to_json(root),
        "containerimage.digest": str(root.digest),
    }
    if names:
        document["image.name"] = ",".join(names)
    _replace(path, json.dumps(document, indent=2).encode() + b"\n")


def _replace(path: Path, data: bytes) -> None:
    """Let `path` hold `data`, never a part of it."""
    try:
        import tempfile

        handle, staged = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        os.replace(staged, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(staged)
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
