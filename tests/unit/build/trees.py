"""Trees for tests: images and sources described in a line each, views over layers in memory."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from imgbuild.layer.entry import Entry, sort_key
from imgbuild.layer.tarwrite import TarWriter
from imgbuild.snapshot.view import LayerFiles, RootView

Spec = Mapping[str, Any]


def entry(path: str, spec: Any) -> tuple[Entry, bytes]:
    """Read one line: text is a file; `{dir}`, `{link}` and `{hard}` with mode, uid, gid, mtime."""
    if isinstance(spec, str):
        spec = {"data": spec}
    raw = path.encode()
    owner = spec.get("uid", 0), spec.get("gid", 0)
    mtime = spec.get("mtime", 0)
    mode = int(str(spec["mode"]), 8) if "mode" in spec else None
    if spec.get("dir"):
        return Entry(raw, "dir", 0o755 if mode is None else mode, *owner, mtime), b""
    if "link" in spec:
        return Entry(raw, "symlink", 0o777, *owner, mtime, linkname=spec["link"].encode()), b""
    if "hard" in spec:
        return Entry(raw, "hardlink", 0o644, *owner, mtime, linkname=spec["hard"].encode()), b""
    data = spec["data"].encode()
    return Entry(raw, "file", 0o644 if mode is None else mode, *owner, mtime, len(data)), data


def view(*layers: Spec) -> RootView:
    """Return a view of layers, each a mapping of paths to what `entry` reads."""
    return RootView([_files(layer) for layer in layers])


def _files(spec: Spec) -> LayerFiles:
    out, index = io.BytesIO(), []
    tar = TarWriter(out.write, index.append)
    for item, data in sorted(
        (entry(path, value) for path, value in spec.items()), key=lambda p: sort_key(p[0].path)
    ):
        tar.add(item, io.BytesIO(data) if item.type == "file" else None)
    tar.finish()
    return LayerFiles(lambda: index, lambda: io.BytesIO(out.getvalue()))


def shown(entries: Sequence[Entry]) -> list[str]:
    """Return entries as lines: `/`-ended directories, `->` symlinks, `=>` hard links."""
    return [line(item) for item in entries]


def line(item: Entry) -> str:
    path = item.path.decode()
    tail = {
        "dir": "/",
        "symlink": f" -> {item.linkname.decode()}",
        "hardlink": f" => {item.linkname.decode()}",
    }.get(item.type, "")
    mode = "" if item.type in ("symlink", "hardlink") else f" {item.mode:04o}"
    owner = f" {item.uid}:{item.gid}" if (item.uid, item.gid) != (0, 0) else ""
    return f"{path}{tail}{mode}{owner}"
