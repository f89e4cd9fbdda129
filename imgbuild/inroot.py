"""The only module that joins a root directory and a path inside it.

Symlinks are resolved as a process with that root would see them: absolute ones start at the root,
".." stops there. Paths are bytes, relative to the root; b"" is the root itself. The result never
lies outside the root, whatever links the tree holds and whoever changes them meanwhile.

By default directories are opened one by one, each relative to the last, which needs nothing but
the standard library. After `use_openat2()` the kernel does it in one call (openat2(2)).
"""

import errno
import os
import struct
from collections.abc import Callable

Owner = tuple[int, int]

_MOST_LINKS = 40  # as Linux allows in one look-up
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPENAT2 = 437  # the same number on every architecture
_IN_ROOT = 0x10 | 0x02  # RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_STRAIGHT = 0x08 | 0x04 | 0x02  # RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS

_kernel_open: Callable[..., int] | None = None


def open_in_root(root_fd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open a path inside a root.

    `flags` and `mode` are those of open(2); O_NOFOLLOW is about the last component only.
    OSError is raised for what the kernel refuses, ValueError for a path with a NUL.
    """
    if b"\0" in path:
        raise ValueError("embedded null byte in a path")
    flags |= os.O_CLOEXEC
    if _kernel_open is not None:
        return _kernel_open(root_fd, path or b".", flags, mode)
    return _walk(root_fd, path, flags, mode)


def open_parent(
    root_fd: int,
    path: bytes,
    *,
    create: bool = False,
    dir_mode: int = 0o755,
    owner: Owner | None = None,
    follow: bool = True,
) -> tuple[int, bytes]:
    """Open the directory that holds `path`; give it with the last component, which is not touched.

    Missing directories are made when `create` is set. Without `follow`, a symlink among the
    parents is an error (ENOTDIR). A last component that names no entry ("", ".", "..") is EINVAL.
    """
    parent, _, last = path.rpartition(b"/")
    if last in {b"", b".", b".."} or b"\0" in last:
        raise OSError(errno.EINVAL, "no name at the end of the path", path)
    if create:
        return make_dirs(root_fd, parent, dir_mode, owner, follow=follow), last
    if follow:
        fd = open_in_root(root_fd, parent, os.O_PATH | os.O_DIRECTORY)
    else:
        fd = _walk(root_fd, parent, os.O_PATH | os.O_DIRECTORY, follow=False)
    return _readable(fd), last


def open_straight(at: int, path: bytes, flags: int) -> int:
    """Open a path below a directory that leads over no symlink and never up.

    Any other path is an error: EXDEV for "..", ELOOP for a symlink; O_NOFOLLOW opens one at the end.
    """
    if b"\0" in path:
        raise ValueError("embedded null byte in a path")
    if _kernel_open is not None:
        return _kernel_open(at, path or b".", flags | os.O_CLOEXEC, 0, _STRAIGHT)
    if b".." in path.split(b"/") or path.startswith(b"/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    try:
        return _walk(at, path, flags, follow=False)
    except NotADirectoryError:  # it says so of a symlink, too
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None


def lstat_in_root(root_fd: int, path: bytes) -> os.stat_result:
    """Describe what a path inside a root names; a symlink at its end is described itself."""
    fd = open_in_root(root_fd, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def make_dirs(
    root_fd: int, path: bytes, mode: int = 0o755, owner: Owner | None = None, *, follow: bool = True
) -> int:
    """Open a directory inside a root; make it and its parents where they are missing.

    Only directories that are made get `mode` (exactly, whatever the umask) and `owner`. The
    target of a dangling symlink is made, inside the root.
    """

    def make(name: bytes, at: int) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=at)
        except FileExistsError:
            return
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        try:
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    if b"\0" in path:
        raise ValueError("embedded null byte in a path")
    flags = os.O_PATH | os.O_DIRECTORY
    return _readable(_walk(root_fd, path, flags, make=make, follow=follow))


def use_openat2() -> bool:
    """Let the kernel resolve paths from now on, where it can (Linux 5.6); loads ctypes."""
    global _kernel_open  # noqa: PLW0603 - which of two equal ways is used is a fact of the process
    opener = _openat2_opener()
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(opener(root, b".", os.O_PATH | os.O_CLOEXEC, 0))
    except OSError:
        return False
    finally:
        os.close(root)
    _kernel_open = opener
    return True


def _openat2_opener() -> Callable[..., int]:
    import ctypes

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    number = ctypes.c_long(_OPENAT2)
    makes = os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY

    def opener(root_fd: int, path: bytes, flags: int, mode: int, resolve: int = _IN_ROOT) -> int:
        # openat2 refuses a mode where nothing is made.
        how = struct.pack("QQQ", flags, mode if flags & makes else 0, resolve)
        for _ in range(100):
            fd = syscall(number, ctypes.c_long(root_fd), path, how, ctypes.c_long(len(how)))
            if fd >= 0:
                return int(fd)
            code = ctypes.get_errno()
            if code not in {errno.EAGAIN, errno.EINTR}:  # EAGAIN: raced with a rename
                raise OSError(code, os.strerror(code), path)
        raise OSError(errno.EAGAIN, "the tree keeps changing", path)

    return opener


def _walk(
    root_fd: int,
    path: bytes,
    flags: int,
    mode: int = 0,
    *,
    make: Callable[[bytes, int], None] | None = None,
    follow: bool = True,
) -> int:
    """Go from directory to directory without ever letting the kernel follow a link."""
    way = [os.dup(root_fd)]  # the open directories from the root to here; ".." drops the last
    todo = _names(path)
    links = 0
    try:
        while todo:
            name = todo.pop()
            if name == b"..":
                _drop(way, max(1, len(way) - 1))
                continue
            if todo or not flags & os.O_NOFOLLOW:
                target = _link_target(name, way[-1])
                if target is not None:
                    links += 1
                    if not follow:
                        raise NotADirectoryError(errno.ENOTDIR, "a symbolic link", path)
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    if target.startswith(b"/"):
                        _drop(way, 1)
                    todo.extend(_names(target))
                    continue
            if make is not None:
                make(name, way[-1])
            if not todo:
                return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=way[-1])
            way.append(os.open(name, _DIRECTORY, dir_fd=way[-1]))
        return os.open(b".", flags | os.O_CLOEXEC, dir_fd=way[-1])
    finally:
        _drop(way, 0)


def _names(path: bytes) -> list[bytes]:
    """Split a path into its components, the last first."""
    return [name for name in reversed(path.split(b"/")) if name not in {b"", b"."}]


def _drop(way: list[int], keep: int) -> None:
    """Close all but the first `keep` descriptors."""
    while len(way) > keep:
        os.close(way.pop())


def _link_target(name: bytes, at: int) -> bytes | None:
    """Give the text of a symlink, or None for anything else (also for nothing)."""
    try:
        return os.readlink(name, dir_fd=at)
    except OSError as problem:
        if problem.errno in {errno.EINVAL, errno.ENOENT}:
            return None
        raise


def _readable(fd: int) -> int:
    """Swap a handle of a directory for one that can be listed, where it may be read."""
    try:
        real = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    except PermissionError:
        return fd
    os.close(fd)
    return real
