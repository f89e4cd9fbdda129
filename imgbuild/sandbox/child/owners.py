"""Let a command that has one id change owners and make device nodes: what it asks for is recorded.

The kernel refuses owners that are not mapped. What `recorded` describes is set on the file instead,
through the overlay, so that it reaches the layer and later steps. To the command all files go on
to belong to itself. See docs/single-id.md for what that breaks.
"""

import errno
import os
import stat
from collections.abc import Collection
from contextlib import suppress

from imgbuild import recorded
from imgbuild.sandbox.child import seccomp
from imgbuild.sandbox.child.notify import Answer, Call, Handler

_NO_ID = 0xFFFFFFFF
_SYMLINK_NOFOLLOW, _EMPTY_PATH = 0x100, 0x1000  # AT_*
# Of these, i386 and arm have one with 16-bit ids and one with the suffix "32".
_CHOWN = ("chown", "lchown", "fchown")
_SET_UID = ["setuid", "setreuid", "setresuid", "setfsuid"]
_SET_GID = ["setgid", "setregid", "setresgid", "setfsgid", "setgroups"]
_DEVICE_TYPES = (stat.S_IFCHR, stat.S_IFBLK)
_NOT_POSSIBLE = frozenset({errno.ENOTSUP, errno.EINVAL})


def supervision(uid: int, capabilities: Collection[str]) -> dict[str, seccomp.Action]:
    """Tell which calls a command of an id has to be supervised in, for the filter."""
    actions: dict[str, seccomp.Action] = {"fchownat": seccomp.NOTIFY}
    for name in _CHOWN:
        actions |= dict.fromkeys((name, name + "32"), seccomp.NOTIFY)
    if uid != 0:
        return actions
    for capability, names in (("setuid", _SET_UID), ("setgid", _SET_GID)):
        if capability in capabilities:
            both = (*names, *(name + "32" for name in names))
            actions |= dict.fromkeys(both, seccomp.PRETEND)
    if "mknod" in capabilities:
        actions["mknod"] = tuple((1, "type", kind) for kind in _DEVICE_TYPES)
        actions["mknodat"] = tuple((2, "type", kind) for kind in _DEVICE_TYPES)
    return actions


class Owners:
    """Handlers for a command of some user, who may change all owners with CAP_CHOWN only."""

    def __init__(
        self, uid: int, gid: int, groups: Collection[int], capabilities: Collection[str]
    ) -> None:
        self._uid = uid
        self._groups = {gid, *groups}
        self._may_all = uid == 0 and "chown" in capabilities

    def handlers(self) -> dict[str, Handler]:
        """Give a handler for each call of `supervision`."""
        handlers: dict[str, Handler] = {"fchownat": self._fchownat}
        for name in _CHOWN:
            handlers |= {name: self._chown, name + "32": self._chown}
        return handlers | {"mknod": _mknod, "mknodat": _mknod}

    def _chown(self, call: Call) -> Answer:
        processes = call.processes
        if call.name.startswith("fchown"):
            fd = processes.open_fd(call.pid, max(call.signed(0), -1))
        else:
            follow = not call.name.startswith("l")
            fd = processes.look_up(call.pid, -100, call.text(0), follow=follow)
        narrow = call.narrow and not call.name.endswith("32")
        return self._change(call, fd, _id(call, 1, narrow=narrow), _id(call, 2, narrow=narrow))

    def _fchownat(self, call: Call) -> Answer:
        flags = call.signed(4)
        if flags & ~(_SYMLINK_NOFOLLOW | _EMPTY_PATH):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        empty = bool(flags & _EMPTY_PATH)
        path = b"" if empty and not call.arguments[1] else call.text(1)
        if not path and empty:
            fd = call.processes.open_fd(call.pid, call.signed(0))
        else:
            follow = not flags & _SYMLINK_NOFOLLOW
            fd = call.processes.look_up(call.pid, call.signed(0), path, follow=follow)
        return self._change(call, fd, _id(call, 2), _id(call, 3))

    def _change(self, call: Call, fd: int, uid: int | None, gid: int | None) -> Answer:
        """Change the owner of what a handle is of, and close that."""
        try:
            call.ensure_waiting()
            path = b"self/fd/%d" % fd
            kind = stat.S_IFMT(os.fstat(fd).st_mode)
            before = _read(path, kind)
            if not self._may_all:
                self._check(before, uid, gid)
            # What the kernel does itself: clear bits and capabilities, refuse what is read-only.
            os.chown(path, -1, -1)
            after = (before[0] if uid is None else uid, before[1] if gid is None else gid)
            if after != recorded.OPEN:
                _write(path, kind, after)
        finally:
            os.close(fd)
        return 0

    def _check(self, before: recorded.Halves, uid: int | None, gid: int | None) -> None:
        """Refuse what the kernel refuses to those without CAP_CHOWN (chown(2))."""
        # What has no owner yet was made by the command, or is root's: the kernel cannot tell.
        owner = self._uid if before[0] is None else before[0]
        keeps_user = uid is None or uid == owner
        keeps_group = gid is None or gid == before[1] or gid in self._groups
        changes_nothing = uid is None and gid is None
        if not (changes_nothing or (owner == self._uid and keeps_user and keeps_group)):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _id(call: Call, index: int, *, narrow: bool = False) -> int | None:
    """Give an id of a call; None for -1."""
    value = call.arguments[index] & (0xFFFF if narrow else _NO_ID)
    return None if value == (0xFFFF if narrow else _NO_ID) else value


def _read(path: bytes, kind: int) -> recorded.Halves:
    try:
        if kind in {stat.S_IFREG, stat.S_IFDIR}:
            return recorded.parse_owner(os.getxattr(path, recorded.OWNER))
        if kind in {stat.S_IFLNK, stat.S_IFIFO}:
            return recorded.parse_special(os.getxattr(path, recorded.SPECIAL))
    except OSError as problem:
        if problem.errno not in {errno.ENODATA, errno.ENOTSUP}:
            raise
    return recorded.OPEN


def _write(path: bytes, kind: int, owner: recorded.Halves) -> None:
    """Record an owner; what cannot have one (a socket, a file in /proc) is in no layer either."""
    try:
        if kind in {stat.S_IFREG, stat.S_IFDIR}:
            os.setxattr(path, recorded.OWNER, recorded.owner_value(owner))
        elif kind in {stat.S_IFLNK, stat.S_IFIFO}:
            os.setxattr(path, recorded.SPECIAL, recorded.special_value(owner))
    except OSError as problem:
        if problem.errno not in _NOT_POSSIBLE:
            raise


def _mknod(call: Call) -> Answer:
    """Make an empty file that says which device node it stands for."""
    at, rest = (-100, 0) if call.name == "mknod" else (call.signed(0), 1)
    path = call.text(rest)
    mode, device = call.arguments[rest + 1], call.arguments[rest + 2] & 0xFFFFFFFF
    kind = "char" if stat.S_IFMT(mode) == stat.S_IFCHR else "block"
    # new_decode_dev() of linux/kdev_t.h
    value = recorded.device_value(kind, device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00)
    if recorded.parse_device(value) is None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    above, slash, name = path.rpartition(b"/")
    if name in {b"", b".", b".."}:
        code = errno.EEXIST if path.strip(b"/") or slash else errno.ENOENT
        raise OSError(code, os.strerror(code))
    processes = call.processes
    allowed = stat.S_IMODE(mode) & ~processes.umask(call.pid)
    parent = processes.look_up(
        call.pid, at, (above or slash) or b".", follow=True, flags=os.O_DIRECTORY
    )
    try:
        call.ensure_waiting()
        _make_placeholder(parent, name, value, allowed)
    finally:
        os.close(parent)
    return 0


def _make_placeholder(parent: int, name: bytes, device: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=parent)
    try:
        os.setxattr(fd, recorded.DEVICE, device)
        os.fchmod(fd, mode)
    except OSError as problem:
        with suppress(OSError):
            os.unlink(name, dir_fd=parent)
        if problem.errno == errno.ENOTSUP:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from None
        raise
    finally:
        os.close(fd)
