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
from imgbuild.sandbox.child import seccomp, syscalls
from imgbuild.sandbox.child.notify import CONTINUE, Answer, Call, Handler

_NO_ID = 0xFFFFFFFF
_CWD = syscalls.AT_FDCWD
_SYMLINK_NOFOLLOW, _EMPTY_PATH = 0x100, 0x1000  # AT_*
# Of these, i386 and arm have one with 16-bit ids and one with the suffix "32".
_CHOWN = ("chown", "lchown", "fchown")
_SET_UID = ["setuid", "setreuid", "setresuid", "setfsuid"]
_SET_GID = ["setgid", "setregid", "setresgid", "setfsgid", "setgroups"]
_RENAME = ("rename", "renameat", "renameat2")
_EXCHANGE = 2  # RENAME_EXCHANGE
_DEVICE_TYPES = (stat.S_IFCHR, stat.S_IFBLK)
_NOT_POSSIBLE = frozenset({errno.ENOTSUP, errno.EINVAL})


def supervision(uid: int, capabilities: Collection[str]) -> dict[str, seccomp.Action]:
    """Tell which calls a command of an id has to be supervised in, for the filter."""
    actions: dict[str, seccomp.Action] = {"fchownat": seccomp.NOTIFY}
    for name in _CHOWN:
        actions |= dict.fromkeys((name, name + "32"), seccomp.NOTIFY)
    if uid != 0:
        return actions
    actions |= dict.fromkeys(_RENAME, seccomp.NOTIFY)  # only root can guess an owner wrongly
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
        self._gid = gid
        self._groups = {gid, *groups}
        self._may_all = uid == 0 and "chown" in capabilities

    def handlers(self) -> dict[str, Handler]:
        """Give a handler for each call of `supervision`."""
        handlers: dict[str, Handler] = {"fchownat": self._fchownat}
        for name in _CHOWN:
            handlers |= {name: self._chown, name + "32": self._chown}
        handlers |= dict.fromkeys(_RENAME, _rename)
        return handlers | {"mknod": _mknod, "mknodat": _mknod}

    def _chown(self, call: Call) -> Answer:
        processes = call.processes
        narrow = call.narrow and not call.name.endswith("32")
        ids = _id(call, 1, narrow=narrow), _id(call, 2, narrow=narrow)
        if call.name.startswith("fchown"):
            fd = processes.open_fd(call.pid, max(call.signed(0), -1))
            return self._change(call, fd, *ids, guess=True)
        follow = not call.name.startswith("l")
        return self._change(
            call, processes.look_up(call.pid, _CWD, call.text(0), follow=follow), *ids
        )

    def _fchownat(self, call: Call) -> Answer:
        flags = call.signed(4)
        if flags & ~(_SYMLINK_NOFOLLOW | _EMPTY_PATH):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        empty = bool(flags & _EMPTY_PATH)
        path = b"" if empty and not call.arguments[1] else call.text(1)
        ids = _id(call, 2), _id(call, 3)
        if not path and empty:
            fd = call.processes.open_fd(call.pid, call.signed(0))
            return self._change(call, fd, *ids, guess=True)
        follow = not flags & _SYMLINK_NOFOLLOW
        fd = call.processes.look_up(call.pid, call.signed(0), path, follow=follow)
        return self._change(call, fd, *ids)

    def _change(
        self, call: Call, fd: int, uid: int | None, gid: int | None, *, guess: bool = False
    ) -> Answer:
        """Change the owner of what a handle is of, and close that.

        With `guess`, 0 takes no other owner away: programs that work with descriptors hand on
        what they see on another file, and that is always 0.
        """
        try:
            call.ensure_waiting()
            path = _path(fd)
            kind = stat.S_IFMT(os.fstat(fd).st_mode)
            before, doubtful = _read(path, kind)
            if guess and before == recorded.OPEN:
                before = _of_original(call, fd)
            if not self._may_all:
                uid, gid = self._allowed(before, uid, gid)
            # What the kernel does itself: clear bits and capabilities, refuse what is read-only.
            os.chown(path, -1, -1)
            after = _merged(before, (uid, gid), guess=guess)
            if after != recorded.OPEN:
                fresh = any(
                    old is None and new == 0 for old, new in zip(before, (uid, gid), strict=True)
                )
                _write(path, kind, after, guessed=guess and (doubtful or fresh))
        finally:
            os.close(fd)
        return 0

    def _allowed(
        self, before: recorded.Halves, uid: int | None, gid: int | None
    ) -> recorded.Halves:
        """Refuse what those without CAP_CHOWN may not (chown(2)); give what is left to record."""
        # What has no owner yet was made by the command, or is root's: the kernel cannot tell. So
        # nothing is recorded that would be the owner of new things anyway.
        owner = self._uid if before[0] is None else before[0]
        keeps_user = uid is None or uid == owner
        keeps_group = gid is None or gid == before[1] or gid in self._groups
        changes_nothing = uid is None and gid is None
        if not (changes_nothing or (owner == self._uid and keeps_user and keeps_group)):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return None, None if before[1] is None and gid == self._gid else gid


def _id(call: Call, index: int, *, narrow: bool = False) -> int | None:
    """Give an id of a call; None for -1."""
    value = call.arguments[index] & (0xFFFF if narrow else _NO_ID)
    return None if value == (0xFFFF if narrow else _NO_ID) else value


def _merged(before: recorded.Halves, asked: recorded.Halves, *, guess: bool) -> recorded.Halves:
    """Give the owner after a change; what is None, or 0 and guessed, leaves the one before."""
    uid, gid = (
        old if new is None or (guess and new == 0 and old is not None) else new
        for old, new in zip(before, asked, strict=True)
    )
    return uid, gid


def _of_original(call: Call, fd: int) -> recorded.Halves:
    """Give the owner of the file that a new file is a backup of: useradd and such keep `shadow-`."""
    try:
        path = call.processes.path_in_root(call.pid, fd)
        if not path.endswith(b"-"):
            return recorded.OPEN
        original = call.processes.look_up(call.pid, _CWD, path[:-1], follow=False)
    except OSError:  # no original; or no path at all, as for a pipe
        return recorded.OPEN
    try:
        return _read(_path(original), stat.S_IFMT(os.fstat(original).st_mode))[0]
    finally:
        os.close(original)


def _path(fd: int) -> bytes:
    """Name what a handle is of, for calls that take no handles; see `Processes.use`."""
    return b"self/fd/%d" % fd


def _read(path: bytes, kind: int) -> tuple[recorded.Halves, bool]:
    """Read a recorded owner, and whether it is guessed."""
    try:
        if kind in {stat.S_IFREG, stat.S_IFDIR}:
            value = os.getxattr(path, recorded.OWNER)
            return recorded.parse_owner(value), recorded.is_guessed(value)
        if kind in {stat.S_IFLNK, stat.S_IFIFO}:
            return recorded.parse_special(os.getxattr(path, recorded.SPECIAL)), False
    except OSError as problem:
        if problem.errno not in {errno.ENODATA, errno.ENOTSUP}:
            raise
    return recorded.OPEN, False


def _write(path: bytes, kind: int, owner: recorded.Halves, *, guessed: bool) -> None:
    """Record an owner; what cannot have one (a socket, a file in /proc) is in no layer either."""
    try:
        if kind in {stat.S_IFREG, stat.S_IFDIR}:
            os.setxattr(path, recorded.OWNER, recorded.owner_value(owner, guessed=guessed))
        elif kind in {stat.S_IFLNK, stat.S_IFIFO}:
            os.setxattr(path, recorded.SPECIAL, recorded.special_value(owner))
    except OSError as problem:
        if problem.errno not in _NOT_POSSIBLE:
            raise


def _rename(call: Call) -> Answer:
    """Give a file with a guessed owner that of the file it replaces; the kernel does the rest."""
    with suppress(OSError):  # the kernel will find the same
        if call.name == "rename":
            old, new = (_CWD, call.text(0)), (_CWD, call.text(1))
        elif call.name == "renameat2" and call.signed(4) & _EXCHANGE:
            return CONTINUE
        else:
            old, new = (call.signed(0), call.text(1)), (call.signed(2), call.text(3))
        source = call.processes.look_up(call.pid, *old, follow=False)
        try:
            _take_over(call, source, new)
        finally:
            os.close(source)
    return CONTINUE


def _take_over(call: Call, source: int, new: tuple[int, bytes]) -> None:
    kind = stat.S_IFMT(os.fstat(source).st_mode)
    owner, guessed = _read(_path(source), kind)
    if not guessed or kind != stat.S_IFREG:
        return
    target = call.processes.look_up(call.pid, *new, follow=False)
    try:
        before, _ = _read(_path(target), stat.S_IFMT(os.fstat(target).st_mode))
        call.ensure_waiting()
        _write(_path(source), kind, _merged(before, owner, guess=True), guessed=False)
    finally:
        os.close(target)


def _mknod(call: Call) -> Answer:
    """Make an empty file that says which device node it stands for."""
    at, rest = (_CWD, 0) if call.name == "mknod" else (call.signed(0), 1)
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
