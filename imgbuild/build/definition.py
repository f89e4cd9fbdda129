"""The Dockerfile of a build: found, and read within limits."""

import errno
import os
import stat
from collections.abc import Sequence
from os import fsdecode, fsencode
from pathlib import Path
from typing import BinaryIO, NamedTuple

from imgbuild.build.context import ContextTree
from imgbuild.build.copyrules import clean, resolve
from imgbuild.build.places import no_dockerfile, not_inside, unreadable
from imgbuild.errors import ContextError, UsageError
from imgbuild.layer.stream import Readable
from imgbuild.snapshot.view import RootView

# BuildKit refuses a larger one as well (frontend/dockerui, maxDockerfileSize is not documented).
_LARGEST = 16 << 20
_NAMES = ("Dockerfile", "dockerfile")


class Definition(NamedTuple):
    """A Dockerfile: its name for messages, its bytes, and where it is (None: in no folder)."""

    name: str
    data: bytes
    place: Path | None = None


def read_local(context: Path, asked: Path | None) -> Definition:
    """Read the Dockerfile `asked` for, else that of a folder; raise `ContextError`."""
    tried = _candidates(context, asked)
    for path in tried:
        try:
            with open(path, "rb", opener=_at_once if asked is None else None) as file:
                if asked is None:
                    _check_regular(file, path)
                return read_stream(file, path.name, str(path))._replace(place=path)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
                raise unreadable(path, error) from None
    raise no_dockerfile(context, asked, tried)


def _at_once(path: str, flags: int) -> int:
    """Open what nobody named without waiting for whoever may write to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _check_regular(file: BinaryIO, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise ContextError(
            f"the Dockerfile {path} is not a regular file",
            hint=f"to read it all the same: -f {path}",
        )


def local_place(context: Path, asked: Path | None) -> Path | None:
    """Return where the Dockerfile of a folder is; None where none is needed or there.

    Raises `ContextError` for one that was named and is not there.
    """
    tried = _candidates(context, asked)
    for path in tried:
        if path.exists():
            return path
    if asked is not None:
        raise no_dockerfile(context, asked, tried)
    return None


def _candidates(context: Path, asked: Path | None) -> list[Path]:
    if asked is None:
        return [context / name for name in _NAMES]
    # As docker: relative to the current folder, else to the context.
    return [asked] if asked.is_absolute() else [asked, context / asked]


def read_inside(tree: ContextTree | RootView, asked: Path | None, where: str) -> Definition:
    """Read the Dockerfile of a context that is no folder here; raise `ContextError`.

    `where` is what errors call the context.
    """
    for path in _inside(asked):
        real = resolve(tree.lstat, path)
        entry = tree.lstat(real) if real else None
        if entry is not None and entry.type == "file":
            name = fsdecode(path.rpartition(b"/")[2])
            with tree.open(real) as stream:
                return read_stream(stream, name, f"{fsdecode(path)} in {where}")
    raise not_inside(where, asked, [fsdecode(name) for name in tree.listdir(b"")])


def _inside(asked: Path | None) -> Sequence[bytes]:
    return [clean(fsencode(name)) for name in (_NAMES if asked is None else (str(asked),))]


def read_stream(stream: Readable, name: str, shown: str) -> Definition:
    """Read a Dockerfile to its end; `shown` is what errors call it. Raises `ContextError`."""
    parts: list[bytes] = []
    left = _LARGEST + 1
    while left and (data := stream.read(left)):
        check_bytes(data, f"the Dockerfile {shown}")
        parts.append(data)
        left -= len(data)
    if not left:
        raise ContextError(f"the Dockerfile {shown} is larger than {_LARGEST} bytes")
    return Definition(name, b"".join(parts))


def check_bytes(data: object, shown: str) -> None:
    """Raise `UsageError` for what a file gives that was opened as text; `shown` is the file."""
    if not isinstance(data, bytes):
        raise UsageError(
            f"{shown} gives text, not bytes",
            hint="give a binary file: open(path, 'rb'), sys.stdin.buffer or io.BytesIO",
        )
