"""Check images without using any code of imgbuild: every digest, size, diff id and count is found anew.

`image` and `layout` return all problems they find, as sentences; an empty list is a valid image.
The JSON schemas of the OCI image-spec are applied where `$IMGBUILD_SCHEMAS` (default: a sibling
folder `shared/schemas`) has them.
"""

import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_INDEX = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
_MANIFEST = {
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def schemas_dir() -> Path | None:
    """Return the folder of the JSON schemas, or None where there is none."""
    given = os.environ.get("IMGBUILD_SCHEMAS")
    default = Path(__file__).resolve().parents[3] / "shared" / "schemas"
    folder = Path(given) if given else default
    return folder if (folder / "image-manifest-schema.json").exists() else None


def image(root: Path | str, which: Any = None) -> list[str]:
    """Check one image of a layout or store: `which` is a name, a digest, a descriptor, or None for all."""
    check = _Check(Path(root))
    entries = check.index()
    if which is not None:
        digest = str(getattr(which, "digest", which))
        wanted = {digest, f"docker.io/{digest}", f"docker.io/library/{digest}"}
        wanted |= {f"{name}:latest" for name in wanted}
        chosen = [e for e in entries if e.get("digest") == digest or wanted & _names(e)]
        if not chosen and _DIGEST.fullmatch(digest):
            size = getattr(which, "size", None)
            chosen = [check.entry_for(digest, size)]
        if not chosen:
            return [*check.problems, f"index.json has no {which}"]
        entries = chosen
    for entry in entries:
        check.descriptor(entry, "index.json entry")
        check.image(entry)
    return check.problems


def layout(root: Path | str) -> list[str]:
    """Check the layout's own files, and every image in it."""
    root = Path(root)
    check = _Check(root)
    version = json.loads((root / "oci-layout").read_bytes())
    check.schema(version, "image-layout-schema.json", "oci-layout")
    if version != {"imageLayoutVersion": "1.0.0"}:
        check.say(f"oci-layout is {version}")
    for path in sorted((root / "blobs").glob("*/*")):
        if hashlib.new(path.parent.name, path.read_bytes()).hexdigest() != path.name:
            check.say(f"blob {path.name} has other content")
    return check.problems + image(root)


def _names(entry: dict[str, Any]) -> set[str]:
    notes = entry.get("annotations") or {}
    keys = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
    return {notes[key] for key in keys if key in notes}


class _Check:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []

    def say(self, problem: str) -> None:
        self.problems.append(problem)

    def index(self) -> list[dict[str, Any]]:
        document = json.loads((self.root / "index.json").read_bytes())
        self.schema(document, "image-index-schema.json", "index.json")
        entries = document.get("manifests")
        return entries if isinstance(entries, list) else []

    def entry_for(self, digest: str, size: int | None) -> dict[str, Any]:
        path = self.path(digest)
        data = path.read_bytes() if path.exists() else b"{}"
        media_type = json.loads(data).get("mediaType", "application/vnd.oci.image.manifest.v1+json")
        return {
            "mediaType": media_type,
            "digest": digest,
            "size": len(data) if size is None else size,
        }

    def path(self, digest: str) -> Path:
        algorithm, _, encoded = digest.partition(":")
        return self.root / "blobs" / algorithm / encoded

    def schema(self, document: Any, name: str, what: str) -> None:
        folder = schemas_dir()
        if folder is None:
            return
        for error in _validator(folder, name).iter_errors(document):
            self.say(f"{what}: schema: {error.message}")

    def descriptor(self, item: Any, what: str) -> bytes | None:
        """Check size and digest of what a descriptor names; return its path's bytes when small."""
        self.schema(item, "content-descriptor.json", what)
        digest = str(item.get("digest"))
        if not _DIGEST.fullmatch(digest):
            self.say(f"{what}: bad digest {digest!r}")
            return None
        path = self.path(digest)
        if path.is_symlink() or not path.is_file():
            self.say(f"{what}: blob {digest} is missing")
            return None
        if path.stat().st_size != item.get("size"):
            self.say(f"{what}: size is {path.stat().st_size}, not {item.get('size')}")
        with path.open("rb") as file:
            if "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() != digest:
                self.say(f"{what}: {digest} has other content")
        for key, value in (item.get("annotations") or {}).items():
            if value == "":
                self.say(f"{what}: annotation {key} is empty")
        return path.read_bytes() if path.stat().st_size < 1 << 23 else None

    def image(self, entry: dict[str, Any]) -> None:
        data = self.descriptor(entry, "root")
        if data is None:
            return
        try:
            document = json.loads(data)
        except ValueError:
            self.say(f"{entry['digest']} is not JSON")
            return
        own = document.get("mediaType")
        if own is not None and own != entry["mediaType"]:
            self.say(f"mediaType is {own}, its descriptor says {entry['mediaType']}")
        if entry["mediaType"] in _INDEX:
            self._index_document(document)
        elif entry["mediaType"] in _MANIFEST:
            self._manifest(document, entry)
        else:
            self.say(f"root has unknown type {entry['mediaType']}")

    def _index_document(self, document: dict[str, Any]) -> None:
        self.schema(document, "image-index-schema.json", "index")
        if "layers" in document:
            self.say("an index has layers")
        for child in document.get("manifests", []):
            self.descriptor(child, "index entry")
            self.image(child)

    def _manifest(self, document: dict[str, Any], entry: dict[str, Any]) -> None:
        self.schema(document, "image-manifest-schema.json", "manifest")
        if "manifests" in document:
            self.say("a manifest lists manifests")
        layers = document.get("layers", [])
        data = self.descriptor(document.get("config", {}), "config")
        diff_ids = [self._layer(layer, number) for number, layer in enumerate(layers)]
        if data is not None:
            self._config(json.loads(data), diff_ids, entry.get("platform"))

    def _config(
        self, config: dict[str, Any], diff_ids: list[str | None], platform: dict[str, Any] | None
    ) -> None:
        rootfs = config.get("rootfs") or {}
        listed = rootfs.get("diff_ids") or []
        # For an image without layers BuildKit writes null here, and so do we; the schema wants a list.
        checked = {**config, "rootfs": {**rootfs, "diff_ids": listed}}
        self.schema(checked, "config-schema.json", "config")
        if len(listed) != len(diff_ids):
            self.say(f"{len(listed)} diff ids for {len(diff_ids)} layers")
        for number, (said, found) in enumerate(zip(listed, diff_ids, strict=False)):
            if found is not None and said != found:
                self.say(f"layer {number}: diff id is {found}, not {said}")
        history = config.get("history")
        if history is not None:
            filled = sum(not item.get("empty_layer") for item in history)
            if filled != len(diff_ids):
                self.say(f"history has {filled} layers, the manifest {len(diff_ids)}")
        for item in [config, *(history or [])]:
            if "created" in item and not _CREATED.fullmatch(str(item["created"])):
                self.say(f"created is {item['created']!r}")
        for key in ("os", "architecture", "variant"):
            if platform is not None and config.get(key, "") != platform.get(key, ""):
                self.say(f"config {key} is {config.get(key)!r}, its descriptor says otherwise")

    def _layer(self, layer: dict[str, Any], number: int) -> str | None:
        what = f"layer {number}"
        known = len(self.problems)
        self.descriptor(layer, what)
        if len(self.problems) > known and not self.path(str(layer.get("digest"))).is_file():
            return None
        try:
            with self.path(layer["digest"]).open("rb") as file:
                stream = _Hashed(file, str(layer.get("mediaType")))
                self._tar(stream, what)
                stream.drain()
                return "sha256:" + stream.hash.hexdigest()
        except (OSError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
            self.say(f"{what}: cannot be read: {error}")
            return None

    def _tar(self, stream: BinaryIO, what: str) -> None:
        """Check names and order of a layer's members."""
        seen: set[str] = set()
        folders = {""}
        with tarfile.open(fileobj=stream, mode="r|", errorlevel=2, errors="surrogateescape") as tar:
            for member in tar:
                name = member.name
                if name.startswith("/") or ".." in name.split("/"):
                    self.say(f"{what}: member {name!r} leaves the root")
                if name in seen:
                    self.say(f"{what}: member {name!r} is there twice")
                seen.add(name)
                if member.isdir():
                    folders.add(name)
                for key in ("atime", "ctime"):
                    if key in member.pax_headers:
                        self.say(f"{what}: member {name!r} has {key}")
                if member.uid >= 1 << 31 or member.gid >= 1 << 31:
                    self.say(f"{what}: member {name!r} has owner {member.uid}:{member.gid}")


class _Hashed(io.RawIOBase):
    """The uncompressed bytes of a layer, hashed as they pass; the media type has to tell the truth."""

    def __init__(self, file: BinaryIO, media_type: str) -> None:
        super().__init__()
        self.hash = hashlib.sha256()
        self._stream = _chunks(file, media_type)
        self._left = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        parts = [self._left]
        have = len(self._left)
        wanted = -1 if size is None else size
        while wanted < 0 or have < wanted:
            chunk = next(self._stream, b"")
            if not chunk:
                break
            self.hash.update(chunk)
            parts.append(chunk)
            have += len(chunk)
        data = b"".join(parts)
        end = len(data) if wanted < 0 else wanted
        self._left = data[end:]
        return data[:end]

    def drain(self) -> None:
        self._left = b""
        for chunk in self._stream:
            self.hash.update(chunk)


def _chunks(file: BinaryIO, media_type: str) -> Iterator[bytes]:
    if media_type.endswith(("+gzip", ".gzip")):
        yield from _gunzip(file)
    elif media_type.endswith(("+zstd", ".zstd")):
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(
            file, read_across_frames=True, closefd=False
        ) as reader:
            while chunk := reader.read(1 << 20):
                yield chunk
    elif media_type.endswith(".tar"):
        while chunk := file.read(1 << 20):
            yield chunk
    else:
        raise ValueError(f"unknown layer type {media_type}")


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    # zlib itself rather than the gzip module: it has to see every member and nothing but members.
    left = b""
    while left or (left := file.read(1 << 20)):
        inflate = zlib.decompressobj(wbits=31)
        while not inflate.eof:
            if not left and not (left := file.read(1 << 20)):
                raise EOFError("gzip data ends early")
            yield inflate.decompress(left)
            left = inflate.unused_data


def _validator(folder: Path, name: str) -> Any:
    import referencing
    from jsonschema import Draft4Validator, FormatChecker
    from referencing.jsonschema import DRAFT4

    def retrieve(uri: str) -> Any:
        text = (folder / uri.rpartition("/")[2]).read_text()
        return referencing.Resource.from_contents(json.loads(text), DRAFT4)

    registry: Any = referencing.Registry(retrieve=retrieve)  # type: ignore[call-arg]  # attrs
    schema = json.loads((folder / name).read_text())
    return Draft4Validator(schema, registry=registry, format_checker=FormatChecker())
