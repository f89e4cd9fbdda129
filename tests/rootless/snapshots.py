"""Snapshots of small roots for tests, as any user; also the worker that can show what is in them."""

import hashlib
import io
import json
import os
import socket
import stat
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self

from imgbuild import inroot, recorded
from imgbuild.layer.entry import Entry
from imgbuild.layer.tarread import scan
from imgbuild.oci.descriptor import Descriptor, Layer
from imgbuild.oci.digest import digest_bytes
from imgbuild.sandbox.candidates import candidates
from imgbuild.sandbox.child import overlay
from imgbuild.sandbox.choice import start
from imgbuild.sandbox.idmap import IdMap
from imgbuild.sandbox.session import Session
from imgbuild.sandbox.spec import SandboxSpec
from imgbuild.snapshot import worker
from imgbuild.snapshot.roots import Roots
from imgbuild.snapshot.view import LayerFiles, RootView
from imgbuild.snapshot.workspace import Workspace
from tests.support import roots
from tests.support.bench import SEARCH_PATH

ENV = (("PATH", "/bin:/usr/bin"), ("HOME", "/root"))
OLD = 1_000_000_000


class Shelf:
    """A store's worth of folders, and layers kept in memory."""

    def __init__(self, place: Path, isolation: str = "auto") -> None:
        self.place = place
        self._isolation = isolation
        self.trees = place / "layers"
        self.steps = place / "steps"
        self.trees.mkdir(exist_ok=True)
        self.steps.mkdir(exist_ok=True)
        self.tars: dict[str, bytes] = {}
        self.opened: list[str] = []
        self.abandoned: list[Path] = []
        self.open_layer: Callable[[Layer], BinaryIO] = self._open
        self.roots = Roots(
            self.trees,
            self._scratch,
            lambda layer: self.open_layer(layer),  # noqa: PLW0108 - tests replace it
            self._start,
            abandoned=lambda: self.abandoned,
            view=self._view,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.roots.remove_trees(self.trees)
        self.roots.close()

    def add(self, tar: bytes) -> Layer:
        """Keep a tar as a layer."""
        digest = digest_bytes(tar)
        self.tars[digest] = tar
        media_type = "application/vnd.oci.image.layer.v1.tar"
        return Layer(Descriptor(media_type, digest, len(tar)), digest, len(tar))

    def base(self) -> Layer:
        """Make a layer with a shell and some files to change."""
        tree = roots.make_root(self.place / "base")
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.add(tree, ".", filter=_by_root)
            for name in ("d", "d/sub", "d/sub/deep", "e", "empty"):
                tar.addfile(info(f"work/{name}", tarfile.DIRTYPE, mode=0o755))
            for name in ("a", "b", "d/x", "d/y", "d/sub/z", "d/sub/deep/w", "e/v"):
                add_file(tar, f"work/{name}", f"content of {name}".encode())
            link = info("work/link", tarfile.SYMTYPE)
            link.linkname = "d/x"
            tar.addfile(link)
            hard = info("work/hard", tarfile.LNKTYPE)
            hard.linkname = "work/b"
            tar.addfile(hard)
        return self.add(out.getvalue())

    def run(self, workspace: Workspace, script: str) -> str:
        """Run a shell script to its end, which must be a good one."""
        reader, writer = os.pipe()
        spec = SandboxSpec(("/bin/sh", "-euc", script), ENV)
        running = workspace.run(spec, stdin=writer, stdout=writer, stderr=writer)
        os.close(writer)
        with open(reader, "rb") as stream:
            said = stream.read().decode(errors="replace")
        status = running.wait()
        assert status == 0, f"status {status}: {said}"
        return said

    def changes(
        self, workspace: Workspace, *, clamp: int | None = None, settle: bool = False
    ) -> tuple[Layer, list[Entry]]:
        """Make a layer of what a workspace changed."""
        out = io.BytesIO()
        entries: list[Entry] = []
        workspace.changes(out.write, entries.append, clamp=clamp, settle=settle)
        return self.add(out.getvalue()), entries

    def scan(self, *trees: Path) -> dict[str, Any]:
        """Describe everything in trees stacked on each other, top first."""
        params = {"lowers": [str(tree) for tree in trees], "shift": self.idmap.shift}
        _, fds = self.roots.session.request("scan", params)
        with open(fds[0], "rb") as file:
            found: dict[str, Any] = json.load(file)
        return found

    def scan_layers(self, *layers: Layer) -> dict[str, Any]:
        """Describe an image; layers bottom first."""
        return self.scan(*reversed(self.roots.unpack(layers)), self.empty())

    def scan_workspace(self, workspace: Workspace) -> dict[str, Any]:
        root = workspace.rootfs
        return self.scan(Path(root.upper), *map(Path, root.lowers[:-1]), self.empty())

    def view(self, *layers: Layer) -> dict[str, Any]:
        """Describe an image as look-ups in its indexes do, in the terms of `_plain`."""
        found: dict[str, Any] = {}
        with self._view(layers) as view:
            for path, entry in view.walk(b""):
                mode = 0 if entry.type == "symlink" else entry.mode
                row: list[Any] = [entry.type, mode, entry.mtime, entry.linkname.decode()]
                if entry.type == "file":
                    with view.open(path) as content:
                        row.append(hashlib.sha256(content.read()).hexdigest())
                found[os.fsdecode(path)] = row
        return found

    def _view(self, layers: Sequence[Layer]) -> RootView:
        files = []
        for layer in layers:
            entries: list[Entry] = []
            scan(io.BytesIO(self.tars[layer.diff_id]), entries.append)
            opener = partial(io.BytesIO, self.tars[layer.diff_id])
            files.append(LayerFiles(partial(list, entries), opener))
        return RootView(files)

    def describe(self, workspace: Workspace) -> dict[str, Any]:
        """Describe a root that is a directory, but for what is no part of an image."""
        owner = self.roots.session.tier.idmap.shift
        params = {"directory": workspace.rootfs.path, "shift": owner}
        _, fds = self.roots.session.request("scan", params)
        with open(fds[0], "rb") as file:
            found: dict[str, Any] = json.load(file)
        outside = ("dev", "proc", "sys")
        return {path: row for path, row in found.items() if path.split("/")[0] not in outside}

    def empty(self) -> Path:
        # An overlay wants two directories at least.
        path = self.place / "empty"
        path.mkdir(exist_ok=True)
        return path

    def _open(self, layer: Layer) -> BinaryIO:
        self.opened.append(layer.diff_id)
        return io.BytesIO(self.tars[layer.diff_id])

    def _scratch(self) -> Path:
        path = self.steps / str(os.getpid())
        path.mkdir()
        return path

    @property
    def idmap(self) -> IdMap:
        return self.roots.session.tier.idmap

    def _start(self, steps: Path | None) -> Session:
        return start(
            candidates(SEARCH_PATH, self._isolation),
            "tests.rootless.snapshots",
            [self.place],
            steps,
        )


def check(place: Path, scripts: dict[str, str]) -> dict[str, Any]:
    """Run each script on a base; compare what is left with base and layer, both ways to have it."""
    found = {}
    with Shelf(place) as shelf:
        base = shelf.base()
        for name, script in scripts.items():
            with shelf.roots.workspace([base]) as workspace:
                shelf.run(workspace, script)
                merged = shelf.scan_workspace(workspace)
                layer, entries = shelf.changes(workspace)
                again, _ = shelf.changes(workspace, settle=True)
                unpacked = shelf.scan_layers(base, layer)
                kept = shelf.scan_workspace(workspace)
            found[name] = {
                "entries": [(e.type, e.path.decode(errors="replace")) for e in entries],
                "unpacked": _differences(merged, unpacked),
                "kept": _differences(unpacked, kept),
                "view": _differences(_plain(unpacked), shelf.view(base, layer)),
                "steady": layer.diff_id == again.diff_id,
            }
    return found


_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Reduce what `scan` found to what an index can tell in every mapping."""
    plain = {}
    for path, row in found.items():
        mode = int(row[0], 8)
        kind = _KINDS[stat.S_IFMT(mode)]
        link = row[4] if kind == "symlink" else ""
        # The mode of a symlink means nothing.
        plain[path] = [kind, 0 if link else stat.S_IMODE(mode), row[3], link]
        if kind == "file":
            plain[path].append(row[6])
    return plain


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[Any]:
    names = sorted(set(one) | set(other))
    return [(n, one.get(n), other.get(n)) for n in names if one.get(n) != other.get(n)]


def info(name: str, kind: bytes, mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.mtime = kind, mode, OLD
    return made


def add_file(tar: tarfile.TarFile, name: str, data: bytes = b"", mode: int = 0o644) -> None:
    made = info(name, tarfile.REGTYPE, mode)
    made.size = len(data)
    tar.addfile(made, io.BytesIO(data))


def archive(fill: Callable[[tarfile.TarFile], None]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        fill(tar)
    return out.getvalue()


def _by_root(found: tarfile.TarInfo) -> tarfile.TarInfo:
    found.uid = found.gid = 0
    found.mtime = OLD
    return found


def _scan(params: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Describe a stack of trees as overlayfs shows it."""
    if "directory" in params:
        root = os.open(params["directory"], os.O_RDONLY | os.O_DIRECTORY)
    else:
        root = overlay.mount([os.fsencode(path) for path in params["lowers"]], None, None)
    found: dict[str, Any] = {}
    links: dict[tuple[int, int], str] = {}

    def visit(directory: int, prefix: str) -> None:
        for name in sorted(os.listdir(directory)):
            status = os.lstat(name, dir_fd=directory)
            path = prefix + name
            found[path] = [
                oct(status.st_mode),
                status.st_uid - params["shift"],
                status.st_gid - params["shift"],
                status.st_mtime_ns // 10**9,
            ]
            if stat.S_ISLNK(status.st_mode):
                found[path].append(os.readlink(name, dir_fd=directory))
            elif stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
                attributes = {x: os.getxattr(fd, x) for x in os.listxattr(fd)}
                if recorded.parse_owner(attributes.get(recorded.OWNER, b"")) == (0, 0):
                    del attributes[recorded.OWNER]  # says what is so without it
                found[path].append({x: value.hex() for x, value in attributes.items()})
                if stat.S_ISDIR(status.st_mode):
                    visit(fd, path + "/")
                else:
                    data = os.pread(fd, status.st_size + 1, 0)
                    found[path] += [status.st_size, hashlib.sha256(data).hexdigest()]
                    if status.st_nlink > 1:
                        key = status.st_dev, status.st_ino
                        found[path].append("link to " + links.setdefault(key, path))
                os.close(fd)

    top = inroot.open_in_root(root, b"", os.O_RDONLY | os.O_DIRECTORY)
    visit(top, "")
    out = os.memfd_create("scan")
    os.write(out, json.dumps(found).encode())
    os.lseek(out, 0, os.SEEK_SET)
    return {}, [out]


def main(sock: socket.socket) -> None:
    worker.main(sock, {**worker.VERBS, "scan": _scan})
