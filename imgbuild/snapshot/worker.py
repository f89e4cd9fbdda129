"""The process inside the build's namespaces: what needs the rights of the container's root.

It unpacks layers, makes and removes the directories of steps, and streams changes. Each request
runs in a process of its own (see `serve`). It trusts the caller and nothing that it reads.
"""

import errno
import os
import resource
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, overload

from imgbuild import inroot
from imgbuild.errors import ImageError
from imgbuild.layer.extract import extract
from imgbuild.layer.index import encode_entry
from imgbuild.layer.owners import Ownership
from imgbuild.layer.tarwrite import TarWriter
from imgbuild.sandbox.child import lent, network, overlay
from imgbuild.sandbox.child.serve import Handler, serve
from imgbuild.snapshot import scan
from imgbuild.snapshot.attribution import APT_FOLDER, APT_NAME, APT_TEXT
from imgbuild.snapshot.changes import STUB_DIRECTORIES, STUB_FILES, ChangeWalk
from imgbuild.snapshot.gather import gather
from imgbuild.snapshot.mountverbs import VERBS as MOUNT_VERBS
from imgbuild.snapshot.remove import empty_directory, remove_tree
from imgbuild.snapshot.scanned import Known, ScanWalk

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CHUNK = 1 << 20
# A path of the image leads nowhere, or to what can never be opened (a socket).
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG})


def prepare(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Make directories for steps, and once what all steps share."""
    top = os.fsencode(params["top"])
    owner = params["owner"]
    if params["shared"]:
        _make_skeleton(top + b"/skeleton", owner)
        if params["single"]:
            _make_apt_skeleton(top + b"/skeleton-apt", owner)
        for name, text in params["files"].items():
            _write(top + b"/" + name.encode(), text.encode("utf-8", "surrogateescape"), owner)
    for name in params["places"]:
        place = top + b"/" + name.encode()
        os.mkdir(place, 0o700)
        _make_directory(place + b"/upper", owner)
        os.mkdir(place + b"/work", 0o700)
    return {}


def renew(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Make the directory anew that an overlay works in: the kernel takes none for a second time."""
    work = os.fsencode(params["work"])
    remove_tree(work)
    os.mkdir(work, 0o700)
    return {}


def write_script(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Write an executable file into the directory of a step."""
    path, owner = os.fsencode(params["path"]), params["owner"]
    _write(path, params["text"].encode("utf-8", "surrogateescape"), owner)
    os.chmod(path, 0o755)  # noqa: S103 - whoever the step is has to run it
    return {}


def unpack(params: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Unpack the tar that comes through the first descriptor into a new directory.

    The second descriptor carries the lock of that directory; having it open keeps the lock.
    The third tells when the layers below are there.
    """
    stream_fd, _, ready = fds
    target = Path(params["target"])
    ownership = Ownership(**params["ownership"])
    remove_tree(os.fsencode(target))
    _make_directory(os.fsencode(target), ownership.shift)
    try:
        with open(stream_fd, "rb", buffering=_CHUNK) as stream:
            notes = extract(stream, target, ownership, _Parents(params["parents"], ready))
            _drain(stream)
    except BaseException:
        remove_tree(os.fsencode(target))
        raise
    return {"notes": notes}


def unpack_over(params: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Unpack the tar that comes through the first descriptor over the layers below it."""
    target = os.fsencode(params["target"])
    ownership = Ownership(**params["ownership"])
    if not os.path.lexists(target):
        _make_directory(target, ownership.shift)
    root = os.open(target, _DIRECTORY)
    with open(fds[0], "rb", buffering=_CHUNK) as stream:
        notes = extract(stream, root, ownership, merge=True)
        _drain(stream)
    return {"notes": notes}


def _drain(stream: BinaryIO) -> None:
    while stream.read(_CHUNK):
        pass  # the writer may go on after the end of the archive


class _Parents(Sequence[Path]):
    """The layers below, which are unpacked at the same time: asking for one waits for all."""

    def __init__(self, paths: list[str], ready: int) -> None:
        self._paths = [Path(path) for path in paths]
        self._ready = ready
        self._waited = False

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if not self._waited and not os.read(self._ready, 1):
            raise ImageError("a layer below could not be unpacked")
        self._waited = True
        return self._paths[index]


def changes(params: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Write what a step changed as a tar to the first descriptor, its index to the second."""
    upper = os.open(params["upper"], _DIRECTORY)
    lowers = [os.open(lower, _DIRECTORY) for lower in params["lowers"]]
    with _layer(fds, params["clamp"]) as writer:
        walk = ChangeWalk(
            writer,
            Ownership(**params["ownership"]),
            clamp=params["clamp"],
            settle=params["settle"],
            maker=tuple(params["maker"]),
        )
        walk.run(upper, lowers)
        writer.finish()
    return {}


def record(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Keep what a root holds before a step, in a file."""
    if not os.path.lexists(params["root"]):  # of an image without layers
        _make_directory(os.fsencode(params["root"]), params["owner"])
    with open(params["file"], "wb", buffering=_CHUNK) as out:
        scan.record(os.open(params["root"], _DIRECTORY), out)
    return {}


def compare(params: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Write how a root differs from what was recorded to the first descriptor."""
    root = os.open(params["root"], _DIRECTORY)
    with (
        open(params["file"], "rb", buffering=_CHUNK) as before,
        open(fds[0], "wb", buffering=_CHUNK, closefd=False) as out,
    ):
        differences = scan.compare(scan.recorded(before), scan.walk(root))
        return {"touched": scan.write_changes(differences, out)}


def scanned(params: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Write what a step changed as a tar to the first descriptor, its index to the second.

    The third has what `compare` found, the fourth what the layers below have where something was
    touched.
    """
    root = os.open(params["root"], _DIRECTORY)
    with (
        _layer(fds, params["clamp"]) as writer,
        open(fds[2], "rb", buffering=_CHUNK) as found,
        open(fds[3], "rb", buffering=_CHUNK) as known,
    ):
        walk = ScanWalk(
            writer,
            Ownership(**params["ownership"]),
            clamp=params["clamp"],
            settle=params["settle"],
            maker=tuple(params["maker"]),
        )
        walk.run_changes(root, found, Known(known).look)
        writer.finish()
    return {}


@contextmanager
def _layer(fds: Sequence[int], clamp: int | None) -> Iterator[TarWriter]:
    """Give a writer whose tar goes to the first descriptor, and the index to the second."""
    with open(fds[0], "wb", buffering=_CHUNK) as tar, open(fds[1], "wb", buffering=_CHUNK) as lines:
        yield TarWriter(tar.write, lambda entry: lines.write(encode_entry(entry)), clamp)


def gather_layers(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Copy what layers show at a path; raise `ImageError` where there is nothing."""
    lowers = [os.open(lower, _DIRECTORY) for lower in params["lowers"]]
    folder, _, name = os.fsencode(params["target"]).rpartition(b"/")
    try:
        gather(lowers, os.fsencode(params["path"]), os.open(folder, _DIRECTORY), name)
    except OSError as problem:
        if problem.errno not in _NOT_THERE:
            raise
        raise ImageError(f"/{params['path']} to mount: {problem.strerror}") from None
    return {}


def open_in_directory(params: dict[str, Any], _fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Open something in a root that is a directory for reading, as `open_path` does."""
    return {}, [_open_in(os.open(params["root"], _DIRECTORY), params["path"])]


def open_path(params: dict[str, Any], _fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Open something in the merged root for reading; symlinks stay inside it.

    Raises `ImageError` for what is not there.
    """
    root = overlay.mount([os.fsencode(lower) for lower in params["lowers"]], None, None)
    return {}, [_open_in(root, params["path"])]


def _open_in(root: int, path: str) -> int:
    try:
        return inroot.open_in_root(root, os.fsencode(path), os.O_RDONLY | os.O_NONBLOCK)
    except OSError as problem:
        if problem.errno not in _NOT_THERE:
            raise
        raise ImageError(f"/{path} of the image: {problem.strerror}") from None


def move(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Move a directory, over what may be at its target."""
    target = os.fsencode(params["target"])
    remove_tree(target)
    os.rename(os.fsencode(params["source"]), target)
    return {}


def remove(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Remove trees; what was lent to a root among them is given back first."""
    give_back(params, _fds)
    for path in params["paths"]:
        remove_tree(os.fsencode(path))
    return {}


def give_back(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Give back what was lent to roots, which are given, or are in directories that are."""
    for path in map(os.fsencode, params["paths"]):
        lent.give_back(path)
        with suppress(OSError):
            for name in os.listdir(path):
                if name.endswith(b".aside"):
                    lent.give_back(os.path.join(path, name.removesuffix(b".aside")))
    return {}


def empty(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Remove everything in a directory."""
    empty_directory(os.fsencode(params["path"]))
    return {}


def _make_skeleton(top: bytes, owner: int) -> None:
    """Make what there is to mount on below an image that lacks it."""
    _make_directory(top, owner)
    for name in STUB_DIRECTORIES:
        _make_directory(top + b"/" + name, owner)
    for name in STUB_FILES:
        _write(top + b"/" + name, b"", owner)


def _make_apt_skeleton(top: bytes, owner: int) -> None:
    """Make the same for images with apt, which cannot change its user where there is one id."""
    _make_skeleton(top, owner)
    path = top + b"/etc"
    for name in APT_FOLDER.split(b"/")[1:]:
        path += b"/" + name
        _make_directory(path, owner)
    _write(path + b"/" + APT_NAME, APT_TEXT, owner)


def _make_directory(path: bytes, owner: int) -> None:
    os.mkdir(path, 0o755)
    os.chown(path, owner, owner)


def _write(path: bytes, data: bytes, owner: int) -> None:
    with open(path, "wb") as file:
        file.write(data)
        os.fchown(file.fileno(), owner, owner)


VERBS: dict[str, Handler] = {
    "prepare": prepare,
    "script": write_script,
    "unpack": unpack,
    "changes": changes,
    "open": open_path,
    "unpack over": unpack_over,
    "record": record,
    "compare": compare,
    "scanned": scanned,
    "open in": open_in_directory,
    "gather": gather_layers,
    "move": move,
    "remove": remove,
    "give back": give_back,
    "empty": empty,
    "renew": renew,
    "network": network.make,
    **MOUNT_VERBS,
}


def main(sock: socket.socket, verbs: Mapping[str, Handler] = VERBS) -> None:
    """Serve requests until the session closes `sock`."""
    os.umask(0o022)
    # A walk holds one descriptor for each level of each layer.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    serve(sock, verbs)
