"""Names of the images in a store: `index.json` of the OCI layout.

Each name is one entry, with the full name (`docker.io/library/app:latest`) in both annotations:
`io.containerd.image.name`, as BuildKit and containerd write it, and
`org.opencontainers.image.ref.name`, by which other tools address an image in a layout. So
`skopeo inspect oci:STORE:docker.io/library/app:latest` works, and so do umoci, buildah and podman;
a bare tag there would be ambiguous between repositories. Entries that other tools wrote are kept.

The last builds that were given no name are entries without one, marked as ours; so they can be
told by digest.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgbuild.errors import ImageError, NameNotFoundError, StoreError, UsageError
from imgbuild.oci import media_types
from imgbuild.oci.codec import descriptor_from_json, descriptor_to_json, dump_indented, load_object
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest
from imgbuild.oci.reference import parse_reference
from imgbuild.store.failure import explained
from imgbuild.store.locks import locked
from imgbuild.store.paths import StorePaths
from imgbuild.store.staging import replace_file

FULL_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
UNNAMED = "io.github.imgbuild.unnamed"
LAYOUT_FILE = b'{"imageLayoutVersion": "1.0.0"}'
_PATIENCE = 30.0
_KEPT = 16  # builds without a name
_DAMAGED = "the store is damaged: `imgbuild reset` empties it"

Entries = list[dict[str, Any]]


class NameStore:
    """The names of a store: an `ImageNames`. A name is `str(Reference)`.

    `complete` is called with what is about to be named; it makes sure that the content is on disk.
    """

    def __init__(
        self, paths: StorePaths, stage: Callable[[], Path], complete: Callable[[Descriptor], None]
    ) -> None:
        self._paths = paths
        self._stage = stage
        self._complete = complete

    def resolve(self, name: str) -> Descriptor:
        """Return what `name` stands for; with a digest (`repo@sha256:…`) any image of that digest.

        Raises `NameNotFoundError` that suggests a similar name.
        """
        entries = self._read()["manifests"]
        digest = name.partition("@")[2]
        for entry in entries:
            if entry.get("digest") == digest or name_of(entry) == name:
                return _bare(entry)
        raise self._unknown(name, [name_of(entry) for entry in entries])

    def list(self) -> dict[str, Descriptor]:
        """Return every name and what it stands for, sorted by name."""
        entries = self._read()["manifests"]
        found = {name_of(entry): _bare(entry) for entry in entries if name_of(entry)}
        return dict(sorted(found.items()))

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let `name` stand for `descriptor`; nothing is written when it already does."""
        entry = named_entry(descriptor, name, name)
        if any(item == entry for item in self._read()["manifests"]):
            return
        self._complete(descriptor)

        def change(entries: Entries) -> Entries:
            kept = [item for item in entries if name_of(item) != name]
            kept = [item for item in kept if not _is_unnamed(item, descriptor.digest)]
            return sorted([*kept, entry], key=name_of)

        self._update(change)

    def unnamed(self) -> Sequence[Descriptor]:
        """Return the builds that were kept without a name, the last one first."""
        found = [_bare(entry) for entry in self._read()["manifests"] if _is_unnamed(entry)]
        return found[::-1]

    def keep(self, descriptor: Descriptor) -> None:
        """Remember a build that has no name, and forget the oldest of too many.

        Nothing is written for an image that is listed already.
        """
        digest = str(descriptor.digest)
        if any(entry.get("digest") == digest for entry in self._read()["manifests"]):
            return
        self._complete(descriptor)
        annotations = dict(sorted({**descriptor.annotations, UNNAMED: "true"}.items()))
        entry = descriptor_to_json(replace(descriptor, annotations=annotations))

        def change(entries: Entries) -> Entries:
            kept = [item for item in entries if not _is_unnamed(item, digest)]
            ours = [item for item in kept if _is_unnamed(item)]
            oldest = ours[: max(len(ours) - _KEPT + 1, 0)]
            return sorted([*(item for item in kept if item not in oldest), entry], key=name_of)

        self._update(change)

    def forget(self, digest: Digest) -> None:
        """Remove a build that was kept without a name, if it is there."""
        self._update(lambda entries: [e for e in entries if not _is_unnamed(e, digest)])

    def untag(self, name: str) -> Descriptor:
        """Remove `name` and return what it stood for; raise `NameNotFoundError`."""
        removed: Entries = []

        def change(entries: Entries) -> Entries:
            removed.extend(item for item in entries if name_of(item) == name)
            if not removed:
                raise self._unknown(name, [name_of(item) for item in entries])
            return [item for item in entries if name_of(item) != name]

        self._update(change)
        return _bare(removed[0])

    def clear(self) -> None:
        """Remove every name, also where the file that holds them is damaged."""
        with self._locked():
            replace_file(self._stage(), self._paths.names, empty_index())

    def _update(self, change: Callable[[Entries], Entries]) -> None:
        with self._locked():
            document = self._read()
            document["manifests"] = change(document["manifests"])
            replace_file(self._stage(), self._paths.names, dump_indented(document))

    def _locked(self) -> AbstractContextManager[int]:
        return locked(self._paths.names_lock, seconds=_PATIENCE, sessions=self._paths.sessions)

    def _read(self) -> dict[str, Any]:
        return read_index(self._paths.names)

    def _unknown(self, name: str, known: Sequence[str]) -> NameNotFoundError:
        from difflib import get_close_matches

        # What all names begin and end with makes none of them similar.
        near = get_close_matches(_short(name), [_short(item) for item in known if item], n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"see `imgbuild images` for what is there; imgbuild pull {_short(name)} fetches it"
        )
        return NameNotFoundError(f"no such image: {name}", hint=hint)


def _short(name: str) -> str:
    """Return a name as people write it, as far as it is one."""
    try:
        return parse_reference(name).familiar.removesuffix(":latest")
    except UsageError:
        return name


def read_index(path: Path) -> dict[str, Any]:
    """Read the `index.json` of a layout, whose entries are objects; raise `StoreError`."""
    with explained(f"read {path}"):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            data = file.read()
    try:
        document = load_object(data, str(path))
    except ImageError as error:
        raise StoreError(error.message, hint=_DAMAGED) from None
    entries = document.setdefault("manifests", [])
    if not isinstance(entries, list) or not all(isinstance(item, dict) for item in entries):
        raise StoreError(f"{path} has no list of manifests", hint=_DAMAGED)
    return document


def empty_index() -> bytes:
    """Return an `index.json` without images."""
    return dump_indented({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []})


def name_of(entry: Mapping[str, Any]) -> str:
    """Return the name an entry of `index.json` carries, or an empty string."""
    annotations = entry.get("annotations")
    if not isinstance(annotations, dict):
        return ""
    name = annotations.get(FULL_NAME) or annotations.get(REF_NAME) or ""
    return name if isinstance(name, str) else ""


def named_entry(descriptor: Descriptor, full_name: str, ref_name: str) -> dict[str, Any]:
    """Return the entry of `index.json` that gives `descriptor` a name."""
    annotations = {**descriptor.annotations, FULL_NAME: full_name, REF_NAME: ref_name}
    return descriptor_to_json(replace(descriptor, annotations=dict(sorted(annotations.items()))))


def _bare(entry: Mapping[str, Any]) -> Descriptor:
    descriptor = descriptor_from_json(entry, "entry of index.json")
    own = {FULL_NAME, REF_NAME, UNNAMED}
    kept = {k: v for k, v in descriptor.annotations.items() if k not in own}
    return replace(descriptor, annotations=kept)


def _is_unnamed(entry: Mapping[str, Any], digest: str | None = None) -> bool:
    """Tell whether an entry is a build of ours without a name, and of `digest` when that is given."""
    annotations = entry.get("annotations")
    ours = isinstance(annotations, dict) and UNNAMED in annotations and not name_of(entry)
    return ours and digest in {None, entry.get("digest")}
