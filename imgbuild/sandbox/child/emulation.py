"""Answer what a command asks of /proc and /dev where nothing can be mounted there.

A convenience for programs, not a boundary: paths are taken as they are written, and what is reached
by a link or from a directory is not seen. What is given is about the process that asks alone; a
descriptor given never leads out of the command's root, so no directory of a real /proc is.
"""

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from imgbuild.sandbox.child import procfiles, seccomp, statlayout, syscalls
from imgbuild.sandbox.child.notify import CONTINUE, Answer, Call, Handler
from imgbuild.sandbox.child.procfiles import Target

# Which argument of each call is the path; what else they are is told by the handlers.
_PATHS = {
    "open": 0,
    "creat": 0,
    "openat": 1,
    "openat2": 1,
    "stat": 0,
    "lstat": 0,
    "stat64": 0,
    "lstat64": 0,
    "newfstatat": 1,
    "fstatat64": 1,
    "statx": 1,
    "readlink": 0,
    "readlinkat": 1,
    "access": 0,
    "faccessat": 1,
    "faccessat2": 1,
    "statfs": 0,
    "statfs64": 0,
}
# The C library takes no other file system for shared memory (glibc before 2.34).
_FILE_SYSTEMS = {b"/dev/shm": 0x01021994, b"/proc": 0x9FA0}  # linux/magic.h: tmpfs, proc
_IDS = {b"Uid": 0, b"Gid": 1, b"Groups": 1}  # lines of a status with ids of users and groups
_NODES = (stat.S_IFCHR, stat.S_IFBLK)
CALLS: dict[str, seccomp.Action] = {
    **dict.fromkeys(_PATHS, seccomp.NOTIFY),
    # Device nodes, of which 0:0 would be a removal to overlayfs, need no capability to be made.
    "mknod": tuple((1, "type", kind) for kind in _NODES),
    "mknodat": tuple((2, "type", kind) for kind in _NODES),
}

_NO_FOLLOW = 0x100  # AT_SYMLINK_NOFOLLOW
_MAKING = os.O_CREAT | os.O_EXCL | os.O_TRUNC
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_STRANGER = 65534  # who an id that is not mapped looks like
_LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LISTINGS = 64


class Ids(NamedTuple):
    """Which ids a command knows: `number` from `first` on, which are here those from `shift` on."""

    shift: int
    number: int
    first: Sequence[int]

    @property
    def differ(self) -> bool:
        """Tell whether the command knows other ids than this process."""
        return self.shift > 0 or any(self.first)

    def known(self, found: os.stat_result) -> tuple[int, int]:
        """Give the owner of a file as the command sees it."""
        return self.inside(found.st_uid, 0), self.inside(found.st_gid, 1)

    def inside(self, number: int, which: int) -> int:
        """Give an id as the command has it: a user's for 0, a group's for 1."""
        offset = number - self.shift
        # One that is not mapped here is nobody's inside as well.
        if number == _STRANGER or not 0 <= offset < self.number:
            return _STRANGER
        return offset + self.first[which]


class Emulation:
    """Handlers for the commands in a root, given by its descriptor."""

    def __init__(self, root: int, ids: Ids) -> None:
        self._root = root
        # By this descriptor: the command may put a link to anywhere in its place.
        self._proc = os.open(b"proc", _LISTING, dir_fd=root)
        self._ids = ids
        self._listings: list[bytes] = []
        self._acting = Acting()

    def handlers(self) -> dict[str, Handler]:
        """Give a handler for each of `CALLS`."""
        by_call: dict[str, Callable[[Call, Target], Answer]] = {
            "readlink": lambda call, target: self._readlink(call, target, 1),
            "readlinkat": lambda call, target: self._readlink(call, target, 2),
            "access": lambda call, target: self._access(call, target, 1),
            "faccessat": lambda call, target: self._access(call, target, 2),
            "faccessat2": lambda call, target: self._access(call, target, 2),
            "open": lambda call, target: self._open(call, target, call.arguments[1]),
            "creat": lambda call, target: self._open(call, target, os.O_WRONLY | _MAKING),
            "openat": lambda call, target: self._open(call, target, call.arguments[2]),
            "openat2": lambda call, target: self._open(call, target, self._how(call)),
        }
        stats = dict.fromkeys(set(_PATHS) - set(by_call) - {"statfs", "statfs64"}, self._stat)
        answers = {name: self._answering(act) for name, act in (by_call | stats).items()}
        answers |= dict.fromkeys(("statfs", "statfs64"), self._statfs)
        return {**answers, "mknod": _refuse, "mknodat": _refuse}

    def _answering(self, act: Callable[[Call, Target], Answer]) -> Handler:
        def handle(call: Call) -> Answer:
            path = self._path(call)
            if not path.startswith((b"/proc/", b"/dev/")):
                return CONTINUE
            process = _Process(call)
            target = procfiles.find(path, process.known_number())
            return CONTINUE if target is None else act(call, target)

        return handle

    def _path(self, call: Call) -> bytes:
        """Read the path of a call; empty where the kernel knows best what is wrong with it."""
        try:
            return self._text(call)
        except OSError:
            return b""

    def _text(self, call: Call) -> bytes:
        index = _PATHS[call.name]
        try:
            return call.text(index)
        except PermissionError:  # of another user, and this process is no tracer of everybody
            with self._acting.for_memory(_Process(call)):
                return call.text(index)

    # --- open

    def _how(self, call: Call) -> int:
        """Read the flags of openat2(2)."""
        flags: int = struct.unpack("<Q", call.processes.read(call.pid, call.arguments[2], 8))[0]
        return flags

    def _open(self, call: Call, target: Target, flags: int) -> Answer:
        close_on_exec = bool(flags & os.O_CLOEXEC)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise _error(errno.EEXIST)
        flags = flags & 0xFFFFFFFF & ~_MAKING | os.O_CLOEXEC | os.O_NOCTTY
        if flags & os.O_PATH:  # which cannot be given; what can be read can do as much
            flags &= os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        process = _Process(call)
        if target.kind in {"listing", "self"} and flags & _ACCESS == os.O_RDONLY:
            fd = self._list(process, target.name)
        else:
            with self._acting.for_files(process):
                fd = self._opened(process, target, flags)
        try:
            call.ensure_waiting()
            return call.give_fd(fd, close_on_exec=close_on_exec)
        finally:
            os.close(fd)

    def _opened(self, process: "_Process", target: Target, flags: int) -> int:
        kind, name = target
        if kind == "device":
            return os.open(name, flags)
        if kind == "link":
            return self._open_link(process, name, flags)
        if flags & _ACCESS != os.O_RDONLY:
            raise _error(errno.EISDIR if kind in {"listing", "self"} else errno.EACCES)
        if flags & os.O_DIRECTORY:
            raise _error(errno.ENOTDIR)
        if kind == "text":
            return _memory(name)
        if name == b"status" and self._ids.differ:
            return _memory(self._translated(process))
        return os.open(name if kind == "global" else process.path(name), flags)

    def _translated(self, process: "_Process") -> bytes:
        """Give the status of a process with the ids that it knows."""
        lines = []
        with open(process.path(b"status"), "rb") as file:
            for line in file:
                name, _, values = line.partition(b":")
                if name in _IDS:
                    which = _IDS[name]
                    ids = (str(self._ids.inside(int(word), which)) for word in values.split())
                    line = name + b":\t" + "\t".join(ids).encode() + b"\n"  # noqa: PLW2901
                elif name in {b"Tgid", b"Pid"}:
                    line = name + b":\t" + process.known_number() + b"\n"  # noqa: PLW2901
                lines.append(line)
        return b"".join(lines)

    def _open_link(self, process: "_Process", name: bytes, flags: int) -> int:
        if flags & os.O_NOFOLLOW:
            raise _error(errno.ELOOP)
        path = process.path(name)
        if name.startswith(b"fd/"):
            process.check_mode(name, flags, self._is_inside(path))
        elif not self._is_inside(path):
            raise _error(errno.EACCES)
        # A FIFO without another end would hold up everybody.
        fd = os.open(path, flags | os.O_NONBLOCK)
        if not flags & os.O_NONBLOCK:
            os.set_blocking(fd, True)
        return fd

    def _list(self, process: "_Process", name: bytes) -> int:
        """Give a directory with the names that a real one has, inside of the root."""
        if name not in {b"fd", b"task"}:
            names: list[bytes] = []
        else:
            with self._acting.for_files(process):
                names = list(map(os.fsencode, os.listdir(process.path(name))))
        place = os.urandom(8).hex().encode()
        self._forget_listings()
        self._listings.append(place)
        os.mkdir(place, 0o755, dir_fd=self._proc)
        fd = os.open(place, _LISTING, dir_fd=self._proc)
        for entry in names:
            os.close(os.open(entry, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444, dir_fd=fd))
        return fd

    def _forget_listings(self) -> None:
        while len(self._listings) >= _MOST_LISTINGS:
            place = self._listings.pop(0)
            with contextlib.suppress(OSError):
                fd = os.open(place, _LISTING, dir_fd=self._proc)
                for entry in os.listdir(fd):
                    os.unlink(entry, dir_fd=fd)
                os.close(fd)
                os.rmdir(place, dir_fd=self._proc)

    # --- the other calls

    def _stat(self, call: Call, target: Target) -> Answer:
        name = call.name
        follow, place = name.startswith("stat"), 1
        if name in {"newfstatat", "fstatat64"}:
            follow, place = not call.arguments[3] & _NO_FOLLOW, 2
        elif name == "statx":
            follow, place = not call.arguments[2] & _NO_FOLLOW, 4
        process = _Process(call)
        with self._acting.for_files(process):
            found = self._status(process, target, follow=follow)
        uid, gid = self._ids.known(found)
        if name == "statx":
            data = statlayout.statx_bytes(found, uid, gid)
        else:
            data = statlayout.stat_bytes(call.machine, name, found, uid, gid)
        return self._write(call, place, data)

    def _status(self, process: "_Process", target: Target, *, follow: bool) -> os.stat_result:
        kind, name = target
        if kind in {"device", "global"}:
            return os.stat(name)
        if kind == "text":
            return os.stat(process.path(b"mounts"))
        if kind == "self" and not follow:
            return os.lstat("/proc/self")
        path = process.path(name)
        return os.stat(path) if follow or kind != "link" else os.lstat(path)

    def _statfs(self, call: Call) -> Answer:
        kind = _FILE_SYSTEMS.get(self._path(call).rstrip(b"/"))
        wide = call.machine in {"x86_64", "aarch64"}
        if kind is None or not (wide or call.name == "statfs64"):
            return CONTINUE
        data = statlayout.statfs_bytes(call.machine, os.fstatvfs(self._root), kind)
        return self._write(call, 1 if wide else 2, data)

    def _readlink(self, call: Call, target: Target, place: int) -> Answer:
        process = _Process(call)
        if target.kind == "self":
            text = process.known_number()
        elif target.kind == "link":
            with self._acting.for_files(process):
                text = self._shown(os.readlink(process.path(target.name)))
        else:
            raise _error(errno.EINVAL)
        text = text[: call.arguments[place + 1]]
        self._write(call, place, text)
        return len(text)

    def _access(self, call: Call, target: Target, place: int) -> Answer:
        process = _Process(call)
        with self._acting.for_files(process):
            found = self._status(process, target, follow=True)
        mode = call.arguments[place] & 7
        writable = target.kind in {"device", "link"}
        if (mode & os.W_OK and not writable) or (
            mode & os.X_OK and not (stat.S_ISDIR(found.st_mode) or target.name == b"exe")
        ):
            raise _error(errno.EACCES)
        return 0

    def _write(self, call: Call, place: int, data: bytes) -> Answer:
        call.ensure_waiting()
        try:
            call.processes.write(call.pid, call.arguments[place], data)
        except PermissionError:
            with self._acting.for_memory(_Process(call)):
                call.processes.write(call.pid, call.arguments[place], data)
        return 0

    # --- what is inside

    def _top(self) -> bytes:
        return os.readlink(b"/proc/self/fd/%d" % self._root)

    def _is_inside(self, link: bytes) -> bool:
        path, top = os.readlink(link), self._top()
        return path == top or path.startswith(top + b"/")

    def _shown(self, path: bytes) -> bytes:
        """Give a path as the command knows it; of what lies outside of its root, only the name."""
        top = self._top()
        if path == top or path.startswith(top + b"/"):
            return path[len(top) :] or b"/"
        if path.startswith(b"/") and not path.startswith(b"/dev/"):
            return b"/" + path.rpartition(b"/")[2]
        return path


class _Process:
    """Who asks, in the numbers of /proc here."""

    def __init__(self, call: Call) -> None:
        self._number = call.processes.number(call.pid)

    def known_number(self) -> bytes:
        """Give the number that the process knows itself by."""
        return self._line(b"NStgid:").split()[-1]

    def path(self, name: bytes) -> bytes:
        return b"/proc/%d/%s" % (self._number, name)

    def owner(self) -> tuple[int, int]:
        found = os.stat(self.path(b""))
        return found.st_uid, found.st_gid

    def check_mode(self, name: bytes, flags: int, inside: bool) -> None:
        """Refuse to open for more than what an open file allows: it may lie outside of the root."""
        with open(self.path(b"fdinfo/" + name.removeprefix(b"fd/")), "rb") as file:
            had = int(next(line for line in file if line.startswith(b"flags:")).split()[1], 8)
        if had & os.O_PATH:
            if not inside:
                raise _error(errno.EACCES)
            return
        wanted = flags & _ACCESS
        if had & _ACCESS not in {wanted, os.O_RDWR}:
            raise _error(errno.EACCES)

    def _line(self, name: bytes) -> bytes:
        with open(self.path(b"status"), "rb") as file:
            return next(line for line in file if line.startswith(name))


class Acting:
    """Take on the user ids of a process for a while: with them its rights, and access to it.

    What it may not open, it must not be given. And without CAP_SYS_PTRACE, as in a container, not
    even root sees anything of a process of another user.
    """

    def __init__(self) -> None:
        self._own = os.geteuid(), os.getegid()

    @contextlib.contextmanager
    def for_files(self, process: "_Process") -> Iterator[None]:
        """Open files with the rights of a process."""
        ids = process.owner()
        if ids == self._own:
            yield
            return
        parent = os.getppid()
        self._set_files(ids)
        try:
            yield
        finally:
            self._set_files(self._own)
            syscalls.tell_of_parent(parent)  # the change of ids disarmed it

    @contextlib.contextmanager
    def for_memory(self, process: "_Process") -> Iterator[None]:
        """Read and write the memory of a process."""
        uid, gid = process.owner()
        os.setresgid(gid, -1, -1)
        os.setresuid(uid, -1, -1)
        try:
            yield
        finally:
            os.setresuid(self._own[0], -1, -1)
            os.setresgid(self._own[1], -1, -1)

    @staticmethod
    def _set_files(ids: tuple[int, int]) -> None:
        # Root last on the way to a user, and first on the way back.
        calls = (("setfsgid", ids[1]), ("setfsuid", ids[0]))
        for name, number in calls if ids[0] else reversed(calls):
            syscalls.call(name, number)


def _refuse(_call: Call) -> Answer:
    raise _error(errno.EPERM)


def _memory(content: bytes) -> int:
    fd = os.memfd_create("imgbuild-proc", os.MFD_CLOEXEC)
    os.write(fd, content)
    reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return reading


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
