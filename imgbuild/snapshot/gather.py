"""Copy what stacked layers show at a path, for a mount where nothing can be mounted."""

import errno
import os
import stat
from collections.abc import Sequence

from imgbuild.layer.lowers import is_stored
from imgbuild.snapshot.lower import LowerDirectory, Shown, open_directory, open_file

_MOST_LINKS = 40
_CHUNK = 1 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def gather(lowers: Sequence[int], path: bytes, at: int, name: bytes) -> None:
    """Make `name` in an open directory a copy of `path` in open layers, top first.

    Links on the way are followed inside the layers. OSError where there is nothing to copy.
    """
    top = LowerDirectory([os.dup(fd) for fd in lowers])
    try:
        parts = _resolved(top, path)
        here = _walk(top, parts[:-1])
        try:
            if not parts:
                _copy_directory(here, os.fstat(lowers[0]), lowers[0], at, name)
                return
            shown = here.look(parts[-1])
            if shown is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            _copy(here, parts[-1], shown, at, name)
        finally:
            here.close()
    finally:
        top.close()


def _resolved(top: LowerDirectory, path: bytes) -> list[bytes]:
    """Follow all links of a path; give the names that lead there from the top."""
    done: list[bytes] = []
    todo = list(reversed(path.split(b"/")))
    links = 0
    while todo:
        name = todo.pop()
        if name in {b"", b"."}:
            continue
        if name == b"..":
            del done[-1:]
            continue
        text = _link_text(top, done, name)
        if text is None:
            done.append(name)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if text.startswith(b"/"):
            done.clear()
        todo += reversed(text.split(b"/"))
    return done


def _link_text(top: LowerDirectory, parents: list[bytes], name: bytes) -> bytes | None:
    here = _walk(top, parents)
    try:
        shown = here.look(name)
        if shown is None or not stat.S_ISLNK(shown.status.st_mode):
            return None
        return os.readlink(name, dir_fd=shown.at)
    finally:
        here.close()


def _walk(top: LowerDirectory, names: Sequence[bytes]) -> LowerDirectory:
    here = LowerDirectory([os.dup(fd) for fd in top.parts])
    for name in names:
        inner = here.descend(name)
        here.close()
        here = inner
    return here


def _copy(here: LowerDirectory, name: bytes, shown: Shown, at: int, new: bytes) -> None:
    mode = shown.status.st_mode
    if stat.S_ISDIR(mode):
        inner = here.descend(name)
        source = open_directory(name, shown.at)
        try:
            _copy_directory(inner, shown.status, source, at, new)
        finally:
            os.close(source)
            inner.close()
    elif stat.S_ISREG(mode):
        _copy_file(name, shown, at, new)
    elif stat.S_ISLNK(mode):
        os.symlink(os.readlink(name, dir_fd=shown.at), new, dir_fd=at)
        _finish(at, new, shown.status)
    elif stat.S_ISFIFO(mode):
        os.mkfifo(new, 0o600, dir_fd=at)
        _finish(at, new, shown.status)


def _copy_directory(
    inner: LowerDirectory, status: os.stat_result, source: int, at: int, new: bytes
) -> None:
    os.mkdir(new, 0o700, dir_fd=at)
    made = open_directory(new, at)
    try:
        for name in sorted(inner.names()):
            shown = inner.look(name)
            if shown is not None:
                _copy(inner, name, shown, made, name)
        _copy_attributes(source, made)
    finally:
        os.close(made)
    _finish(at, new, status)


def _copy_file(name: bytes, shown: Shown, at: int, new: bytes) -> None:
    source = open_file(name, shown.at)
    made = os.open(new, _NEW, 0o600, dir_fd=at)
    try:
        while os.sendfile(made, source, None, _CHUNK):
            pass
        os.fchown(made, shown.status.st_uid, shown.status.st_gid)
        _copy_attributes(source, made)
    finally:
        os.close(source)
        os.close(made)
    _finish(at, new, shown.status)


def _copy_attributes(source: int, made: int) -> None:
    for name in os.listxattr(source):
        if is_stored(name):
            os.setxattr(made, name, os.getxattr(source, name))


def _finish(at: int, name: bytes, status: os.stat_result) -> None:
    """Give a copy its owner, mode and times."""
    now = os.lstat(name, dir_fd=at)
    if (now.st_uid, now.st_gid) != (status.st_uid, status.st_gid):
        os.chown(name, status.st_uid, status.st_gid, dir_fd=at, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=at)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=at, follow_symlinks=False)
