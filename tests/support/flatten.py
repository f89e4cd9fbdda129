"""Read the root file system of an image without any code of imgbuild: layers applied by Python's tarfile.

What comes back is compared between builders, so times are left out, and whatever an archive format
may say in several ways is said in one.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

_TYPES = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
}
_XATTR = "SCHILY.xattr."


class Node(NamedTuple):
    """What is at a path; `names` are all paths of the same file, of which there are at least two."""

    type: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    digest: str = ""
    link: str = ""
    device: tuple[int, int] | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.type} {self.mode:04o} {self.uid}:{self.gid}"
        if self.type == "file":
            text += f" {self.size} bytes {self.digest[:8]}"
        for value in (self.link, self.device, self.xattrs, self.names):
            text += f" {value}" if value else ""
        return text


# By path, without a leading slash; names that are not UTF-8 have their bytes escaped as Python does.
Tree = dict[str, Node]


class _Inode:
    """A file; hard links share it."""

    def __init__(self, node: Node) -> None:
        self.node = node


def layout(root: Path) -> Tree:
    """Return the root file system of the only image in an OCI layout."""
    blobs = root / "blobs"

    def blob(descriptor: dict[str, Any]) -> Path:
        return blobs / descriptor["digest"].replace(":", "/")

    (entry,) = json.loads((root / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(entry).read_bytes())
    return layers(_opened(blob(layer)) for layer in manifest["layers"])


def _opened(path: Path) -> BinaryIO:
    data = path.read_bytes()
    return io.BytesIO(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)


def layers(tars: Iterable[BinaryIO]) -> Tree:
    """Apply layers, the lowest first, and return what there is in the end."""
    files: dict[str, _Inode] = {}
    for stream in tars:
        _apply(stream, files)
    names: dict[int, list[str]] = {}
    for path, inode in files.items():
        names.setdefault(id(inode), []).append(path)
    return {
        path: inode.node._replace(names=_several(names[id(inode)]))
        for path, inode in sorted(files.items())
    }


def _several(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted(names)) if len(names) > 1 else ()


def _apply(stream: BinaryIO, files: dict[str, _Inode]) -> None:
    """Apply a layer: its whiteouts hide what was there before it, never what it brings itself."""
    with tarfile.open(fileobj=stream, mode="r:", errors="surrogateescape") as tar:
        members = [(member.name.strip("/").removeprefix("./"), member) for member in tar]
        for path, _ in members:
            above, _, name = path.rpartition("/")
            if name == ".wh..wh..opq":
                _remove_below(files, above)
            elif name.startswith(".wh."):
                gone = f"{above}/{name[4:]}".lstrip("/")
                files.pop(gone, None)
                _remove_below(files, gone)
        for path, member in members:
            if path in {"", "."} or path.rpartition("/")[2].startswith(".wh."):
                continue
            _put(tar, path, member, files)


def _put(
    tar: tarfile.TarFile, path: str, member: tarfile.TarInfo, files: dict[str, _Inode]
) -> None:
    for above in _above(path):
        if above in files and files[above].node.type != "dir":
            raise ValueError(f"{path!r} lies below {above!r}, which is no directory")
    if member.islnk():
        files[path] = files[member.linkname.strip("/").removeprefix("./")]
        return
    kind = _TYPES[member.type]
    if kind != "dir":
        _remove_below(files, path)
    files[path] = _Inode(_node(tar, member, kind))


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _remove_below(files: dict[str, _Inode], path: str) -> None:
    prefix = f"{path}/" if path else ""
    for below in [other for other in files if other.startswith(prefix)]:
        del files[below]


def _node(tar: tarfile.TarFile, member: tarfile.TarInfo, kind: str) -> Node:
    mode = member.mode & 0o7777 if kind != "symlink" else 0o777
    xattrs = tuple(
        sorted(
            (key.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape"))
            for key, value in member.pax_headers.items()
            if key.startswith(_XATTR)
        )
    )
    node = Node(kind, mode, member.uid, member.gid, xattrs=xattrs)
    if kind == "symlink":
        return node._replace(link=member.linkname)
    if kind in {"char", "block"}:
        return node._replace(device=(member.devmajor, member.devminor))
    if kind != "file":
        return node
    content = tar.extractfile(member)
    assert content is not None
    data = content.read()
    return node._replace(size=len(data), digest=hashlib.sha256(data).hexdigest())
