"""Mount an overlay of unpacked layers, attached nowhere yet."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from imgbuild.sandbox.child import syscalls

# Nothing here needs to survive a crash, so the kernel need not sync the whole filesystem.
_VOLATILE = b"volatile"


def mount_root(root: dict[str, Any]) -> int:
    """Give the mount of a spec's root, an overlay or a directory, attached nowhere."""
    if root["kind"] == "directory":
        tree = syscalls.open_tree(os.fsencode(root["path"]))
        syscalls.mount_setattr(tree, b"", syscalls.NODEV)
        return tree
    lowers = [os.fsencode(path) for path in root["lowers"]]
    return mount(lowers, os.fsencode(root["upper"]), os.fsencode(root["work"]))


def mount(lowers: Sequence[bytes], upper: bytes | None, work: bytes | None) -> int:
    """Give the mount of an overlay; lowers come top first.

    Without an upper it is read-only, and overlayfs wants two lowers at least.
    """
    try:
        return _by_descriptor(lowers, upper, work)
    except OSError as problem:
        if problem.errno not in {errno.ENOSYS, errno.EINVAL} or _knows_single_lowers():
            raise
    return by_path(lowers, upper, work)


def can_change(place: bytes, owner: int) -> bool:
    """Tell whether a directory can keep what an overlay changes."""
    with _trial(place) as (lower, upper, work):
        os.chown(upper, owner, owner)
        root = mount([lower], upper, work)
        try:
            os.rmdir(b"gone", dir_fd=root)
        finally:
            os.close(root)
        os.setxattr(upper, "user.imgbuild.trial", b"y")
        found = os.lstat(upper + b"/gone")
        return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
    return False


def can_hide(place: bytes) -> bool:
    """Tell whether layers in a directory can hide what is below them by files with an attribute."""
    with _trial(place) as (lower, upper, _):
        os.close(os.open(upper + b"/gone", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        os.setxattr(upper + b"/gone", "user.overlay.whiteout", b"y")
        os.setxattr(upper, "user.overlay.opaque", b"x")
        root = mount([upper, lower], None, None)
        try:
            reading = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        finally:
            os.close(root)
        try:
            return os.listdir(reading) == []
        finally:
            os.close(reading)
    return False


@contextlib.contextmanager
def _trial(place: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Give a lower, an upper and a work directory; what is not possible with them is no error."""
    top = place + b"/trial"
    lower, upper, work = (top + name for name in (b"/lower", b"/upper", b"/work"))
    for path in (lower + b"/gone", upper, work):
        os.makedirs(path)
    try:
        yield lower, upper, work
    except OSError as problem:
        if problem.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise
    finally:
        for folder, folders, files in os.walk(top, topdown=False):
            for name in folders:
                os.rmdir(os.path.join(folder, name))
            for name in files:
                os.unlink(os.path.join(folder, name))
        os.rmdir(top)


def _by_descriptor(lowers: Sequence[bytes], upper: bytes | None, work: bytes | None) -> int:
    """Mount with one option a layer, so that 500 layers of any path length fit (Linux 6.7)."""
    fs = syscalls.fsopen(b"overlay")
    try:
        syscalls.fsconfig_string(fs, b"source", b"overlay")
        syscalls.fsconfig_flag(fs, b"userxattr")
        for lower in lowers:
            syscalls.fsconfig_string(fs, b"lowerdir+", lower)
        if upper is not None and work is not None:
            syscalls.fsconfig_flag(fs, _VOLATILE)
            syscalls.fsconfig_string(fs, b"upperdir", upper)
            syscalls.fsconfig_string(fs, b"workdir", work)
        return syscalls.fsmount(fs, syscalls.NODEV)
    finally:
        os.close(fs)


def _knows_single_lowers() -> bool:
    try:
        fs = syscalls.fsopen(b"overlay")
    except OSError:
        return False
    try:
        syscalls.fsconfig_string(fs, b"lowerdir+", b"/")
    except OSError:
        return False
    finally:
        os.close(fs)
    return True


def by_path(lowers: Sequence[bytes], upper: bytes | None, work: bytes | None) -> int:
    """Mount with mount(2), in a mount namespace of its own that this process is left in.

    All options share one page of memory, so layers are named by descriptor: about 200 fit.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.set_propagation(syscalls.MS_PRIVATE)
    opened: list[int] = []

    def short(path: bytes) -> bytes:
        opened.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return b"/proc/self/fd/%d" % opened[-1]

    try:
        target = short(upper if upper is not None else lowers[0])
        below = [short(lower) for lower in lowers]
        options = [b"userxattr", b"lowerdir=" + b":".join(below)]
        if upper is not None and work is not None:
            options += [_VOLATILE, b"upperdir=" + short(upper), b"workdir=" + short(work)]
        text = b",".join(options)
        if len(text) >= os.sysconf("SC_PAGE_SIZE"):
            raise OSError(errno.E2BIG, f"this kernel cannot stack {len(lowers)} layers")
        syscalls.mount(b"overlay", target, b"overlay", syscalls.MS_NODEV, text)
        return syscalls.open_tree(upper if upper is not None else lowers[0])
    finally:
        for fd in opened:
            os.close(fd)
