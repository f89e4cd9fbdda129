"""An OCI image layout in a directory: what `--output type=oci,tar=false` writes and
`oci-layout://` reads (image-spec image-layout.md).

Layouts come from anywhere, so reading trusts nothing: no symbolic link below the directory is
followed, and all content is verified.
"""

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from imgbuild.errors import ImageError, UsageError
from imgbuild.oci import media_types
from imgbuild.oci.codec import (
    MAX_DOCUMENT,
    descriptor_from_json,
    dump_indented,
    expect,
    load_object,
)
from imgbuild.oci.content import Opener, VerifiedReader
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest, parse_digest
from imgbuild.oci.reference import parse_reference
from imgbuild.store.failure import explained
from imgbuild.store.names import FULL_NAME, LAYOUT_FILE, REF_NAME, empty_index, named_entry
from imgbuild.store.staging import Flusher, StagedFile, replace_file

_CHUNK = 1 << 20
_SCHEME = "oci-layout://"


class OciLayout:
    """A layout directory: `BlobSource`, `BlobSink` and `ImageNames`.

    With `create` an empty directory or none becomes a layout. Content is on disk once `tag` or
    `flush` returned.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._path = Path(os.path.abspath(path))
        self._count = 0
        self._flusher = Flusher()
        if create and not (self._path / "oci-layout").exists():
            self._create()
        data = self._read_top("oci-layout")
        if load_object(data, "oci-layout").get("imageLayoutVersion") != "1.0.0":
            raise ImageError(f"{self._path} is an OCI layout of an unknown version")

    # --- BlobSource ---

    def open(self, descriptor: Descriptor) -> BinaryIO:
        """Return a stream that verifies itself; raise `ImageError` for what is no plain file."""
        raw = self._open_plain(self._blob(descriptor.digest))
        return io.BufferedReader(VerifiedReader(raw, descriptor), _CHUNK)

    # --- BlobSink ---

    def exists(self, descriptor: Descriptor) -> bool:
        path = self._path / self._blob(descriptor.digest)
        return self._flusher.size(path) == descriptor.size

    def put(self, descriptor: Descriptor, opener: Opener, origin: str | None = None) -> None:  # noqa: ARG002  # the port's; nothing can be mounted here
        if self.exists(descriptor):
            return
        with self._stage() as out, VerifiedReader(opener(), descriptor) as stream:
            while chunk := stream.read(_CHUNK):
                out.write(chunk)
            out.commit(descriptor.digest, descriptor.size)

    def flush(self) -> None:
        """Wait until everything that was put is on disk."""
        self._flusher.flush()

    def close(self) -> None:
        self._flusher.close()

    # --- ImageNames ---

    def resolve(self, name: str) -> Descriptor:
        """Return the image called `name`: a tag, a full name, a digest, or "" for the only one.

        A name that is not found is taken for the only image when the layout has just one and
        `name` is `latest`, which is what people leave out.
        """
        entries = self._entries()
        if name.startswith(("sha256:", "sha512:")):
            return self._by_digest(parse_digest(name), entries)
        found = {d.digest: d for d in entries if name and _answers_to(d, name)}
        if not found and name in {"", "latest"}:
            found = {item.digest: item for item in entries}
        if len(found) == 1:
            return _without_names(next(iter(found.values())))
        names = sorted({d.annotations.get(REF_NAME, "") for d in entries} - {""})
        what = f"image {name!r}" if name else "single image"
        raise ImageError(
            f"no {what} in the OCI layout {self._path}",
            hint=f"it has: {', '.join(names)}" if names else "its index.json has no names",
        )

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let `name` stand for `descriptor` once all that was put is on disk."""
        self.name_all([name], descriptor)

    def name_all(self, names: "list[str] | tuple[str, ...]", descriptor: Descriptor) -> None:
        """List `descriptor` under all `names` at once, or without a name when there are none."""
        self.flush()
        document = load_object(self._read_top("index.json"), "index.json")
        added = index_entries(names, descriptor)
        taken = {entry["annotations"][REF_NAME] for entry in added if "annotations" in entry}
        kept = [item for item in document.get("manifests", []) if not _replaced(item, taken, added)]
        document["manifests"] = kept + added
        self._replace("index.json", dump_indented(document))

    # --- the machinery ---

    def _create(self) -> None:
        with explained(f"make {self._path}"):
            self._path.mkdir(parents=True, exist_ok=True)
            if strangers := sorted(os.listdir(self._path)):
                raise UsageError(
                    f"{self._path} is not empty and no OCI layout: it has {strangers[0]}",
                    hint="give a new or empty directory",
                )
            (self._path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        self._replace("index.json", empty_index())
        self._replace("oci-layout", LAYOUT_FILE)

    def _temporary(self) -> Path:
        self._count += 1
        return self._path / f".imgbuild-{os.getpid()}-{id(self):x}-{self._count}"

    def _stage(self) -> StagedFile:
        return StagedFile(self._temporary(), self._place)

    def _place(self, file: StagedFile, key: object, _size: int) -> None:
        self._flusher.submit(file, self._path / self._blob(parse_digest(key)))

    def _replace(self, name: str, data: bytes) -> None:
        replace_file(self._temporary(), self._path / name, data)

    def _blob(self, digest: Digest) -> str:
        return f"blobs/{digest.algorithm}/{digest.encoded}"

    def _read_top(self, name: str) -> bytes:
        with self._open_plain(name) as file:
            return file.read(MAX_DOCUMENT + 1)

    def _open_plain(self, relative: str) -> io.FileIO:
        """Open a file below the layout; a symbolic link anywhere on the way is refused."""
        with explained(f"read the OCI layout {self._path}"):
            self._wait_for(relative)
            try:
                handle = _open_beneath(self._path, relative)
            except FileNotFoundError:
                raise ImageError(
                    f"{self._path} has no {relative}: no complete OCI layout",
                    hint="name the folder that has the files oci-layout and index.json",
                ) from None
            except OSError as error:
                if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                    raise ImageError(
                        f"{self._path}/{relative} is or goes through a symbolic link"
                    ) from None
                raise
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise ImageError(f"{self._path}/{relative} is not a plain file")
        return io.FileIO(handle, "rb")

    def _wait_for(self, relative: str) -> None:
        if self._flusher.is_pending(self._path / relative):
            self._flusher.flush()

    def _entries(self) -> list[Descriptor]:
        document = load_object(self._read_top("index.json"), "index.json")
        listed = expect(document.get("manifests", []), list, "index.json manifests")
        return [descriptor_from_json(item, "index.json entry") for item in listed]

    def _by_digest(self, digest: Digest, entries: list[Descriptor]) -> Descriptor:
        for entry in entries:
            if entry.digest == digest:
                return _without_names(entry)
        with self._open_plain(self._blob(digest)) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_DOCUMENT:
                raise ImageError(f"{digest} is too large to be a manifest")
            with VerifiedReader(file, Descriptor("", digest, size)) as stream:
                document = load_object(stream.read(), str(digest))
        guess = media_types.OCI_INDEX if "manifests" in document else media_types.OCI_MANIFEST
        media_type = expect(document.get("mediaType", guess), str, "manifest mediaType")
        return Descriptor(media_type, digest, size)


def _open_beneath(root: Path, relative: str) -> int:
    *parents, last = relative.split("/")
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        for name in parents:
            lower = os.open(name, flags | os.O_DIRECTORY, dir_fd=handle)
            os.close(handle)
            handle = lower
        # Without O_NONBLOCK a FIFO would keep us waiting for a writer.
        return os.open(last, flags | os.O_NONBLOCK, dir_fd=handle)
    finally:
        os.close(handle)


def index_entries(names: "list[str] | tuple[str, ...]", root: Descriptor) -> list[dict[str, Any]]:
    """Return the entries of an exported `index.json`: as BuildKit writes them, one a name.

    The reference name is the tag (`skopeo inspect oci:DIR:latest`), unless two names share a tag.
    """
    if not names:
        entry = named_entry(root, "", "")
        entry["annotations"] = {k: v for k, v in entry["annotations"].items() if v}
        if not entry["annotations"]:
            del entry["annotations"]
        return [entry]
    tags = [parse_reference(name).tag for name in names]
    unique = len(set(tags)) == len(tags) and all(tags)
    return [
        named_entry(root, name, tag if unique else name)
        for name, tag in zip(names, tags, strict=True)
    ]


def _answers_to(entry: Descriptor, name: str) -> bool:
    full, short = entry.annotations.get(FULL_NAME, ""), entry.annotations.get(REF_NAME, "")
    return name in {full, short} or full.endswith(f":{name}") or short.endswith(f":{name}")


def _without_names(entry: Descriptor) -> Descriptor:
    from dataclasses import replace

    kept = {k: v for k, v in entry.annotations.items() if k not in {FULL_NAME, REF_NAME}}
    return replace(entry, annotations=kept)


def _replaced(item: Any, taken: set[str], added: list[dict[str, Any]]) -> bool:
    if item in added:
        return True
    annotations = item.get("annotations") if isinstance(item, dict) else None
    return isinstance(annotations, dict) and annotations.get(REF_NAME) in taken


@contextmanager
def new_layout(path: Path) -> Iterator[OciLayout]:
    """Give a layout to fill that is at `path` once the block ends well, and nowhere otherwise.

    An existing layout at `path` is added to, blobs first, its `index.json` last.
    """
    path = Path(os.path.abspath(path))
    if path.exists() and not (path.is_dir() and not os.listdir(path)):
        layout = OciLayout(path, create=True)
        try:
            yield layout
        finally:
            layout.close()
        return
    staged = path.with_name(f".{path.name}.imgbuild-{os.getpid()}")
    try:
        layout = OciLayout(staged, create=True)
        try:
            yield layout
        finally:
            layout.close()
        with explained(f"write {path}"):
            os.rename(staged, path)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def split_location(text: str) -> tuple[Path, str]:
    """Split `oci-layout://PATH[:TAG|@DIGEST]` into the path and the name for `OciLayout.resolve`.

    A path may hold colons: the longest part that is a directory is the path.
    """
    rest = text.removeprefix(_SCHEME)
    head, at, digest = rest.rpartition("@")
    if at and digest.startswith(("sha256:", "sha512:")):
        path, _ = split_location(head)
        return path, str(parse_digest(digest))
    if os.path.isdir(rest):
        return Path(rest), ""
    ends = [i for i, letter in enumerate(rest) if letter == ":"]
    for end in reversed(ends):
        if os.path.isdir(rest[:end]):
            return Path(rest[:end]), rest[end + 1 :]
    raise UsageError(
        f"no such OCI layout: {rest}", hint="write it as oci-layout://PATH[:TAG|@DIGEST]"
    )
