"""What the worker does for mounts of steps: directories and sockets of the container's ids.

Like all of the worker, it trusts the caller and nothing that it reads.
"""

import os
import socket
import stat
from typing import Any

from imgbuild import recorded
from imgbuild.errors import SandboxError
from imgbuild.layer.owners import Ownership
from imgbuild.layer.tarwrite import TarWriter
from imgbuild.sandbox.child.serve import Handler
from imgbuild.snapshot.changes import ChangeWalk
from imgbuild.snapshot.remove import remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_BLOCK = 512  # bytes; what st_blocks counts
_BACKLOG = 64


def make_overlay(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Make a directory with an upper and a work directory for one mount."""
    place, owner = os.fsencode(params["place"]), params["owner"]
    os.mkdir(place, 0o700)
    os.mkdir(place + b"/work", 0o700)
    os.mkdir(place + b"/upper", 0o755)
    os.chown(place + b"/upper", owner, owner)
    return {}


def make_directory(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Make an empty directory in one step, instead of what is left of one."""
    path, ownership = os.fsencode(params["path"]), Ownership(**params["ownership"])
    fresh = path + b".new"
    remove_tree(fresh)
    remove_tree(path)
    os.mkdir(fresh, 0o700)
    _own(fresh, params, ownership)
    os.rename(fresh, path)
    return {}


def listen(params: dict[str, Any], _fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Make a socket with an owner and a mode, and hand over the end that connections come to."""
    folder, name = os.path.split(os.fsencode(params["path"]))
    os.chdir(folder)  # the name of a socket has 107 bytes at most
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.bind(name)
        _own(name, params, Ownership(**params["ownership"]))
        sock.listen(_BACKLOG)
        return {}, [sock.detach()]


def pack(params: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Write what a directory holds as a tar, with the container's ids, to the first descriptor."""
    top = os.open(params["path"], _DIRECTORY)
    with open(fds[0], "wb", buffering=_CHUNK) as tar:
        writer = TarWriter(tar.write)
        ChangeWalk(writer, Ownership(**params["ownership"]), whole=True).run(top, ())
        writer.finish()
    return {}


def measure(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Tell how many bytes directories take on disk; a file with several names counts once."""
    return {"sizes": [_size(os.fsencode(path)) for path in params["paths"]]}


def _own(path: bytes, params: dict[str, Any], ownership: Ownership) -> None:
    uid, gid = params["uid"], params["gid"]
    if ownership.single:
        # The one id has it anyway; a directory can tell whose it would be.
        if (uid or gid) and os.path.isdir(path):
            os.setxattr(path, recorded.OWNER, recorded.owner_value((uid, gid)))
    elif max(uid, gid) >= ownership.count:
        raise SandboxError(
            f"a mount cannot belong to {uid}:{gid}: only {ownership.count} ids are mapped here",
            hint="see `imgbuild doctor` for how to get more",
        )
    else:
        os.chown(path, ownership.shift + uid, ownership.shift + gid, follow_symlinks=False)
    os.chmod(path, params["mode"] & 0o7777)


def _size(top: bytes) -> int:
    total, seen = 0, set()
    here = os.open(top, _DIRECTORY)
    way = [(here, iter(os.listdir(here)))]
    while way:
        here, names = way[-1]
        name = next(names, None)
        if name is None:
            os.close(way.pop()[0])
            continue
        found = os.stat(name, dir_fd=here, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            below = os.open(name, _DIRECTORY, dir_fd=here)
            way.append((below, iter(os.listdir(below))))
        elif found.st_nlink > 1:
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
        total += found.st_blocks * _BLOCK
    return total


VERBS: dict[str, Handler] = {
    "overlay": make_overlay,
    "directory": make_directory,
    "listen": listen,
    "pack": pack,
    "measure": measure,
}
