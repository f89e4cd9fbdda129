"""The processes of a command as their supervisor sees them: memory, directories, paths, descriptors.

They are hostile: each may end, change or be another one at any moment, and so may what they name.
Everything is reached by descriptors, and a path is resolved inside the root of its process.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from contextlib import suppress

from imgbuild import inroot
from imgbuild.sandbox.child import syscalls
from imgbuild.sandbox.child.failure import Failed

_LONGEST = 4096  # PATH_MAX, linux/limits.h
_PAGE = 4096
_HANDLE = os.O_PATH | os.O_CLOEXEC
_PIDFD_THREAD = os.O_EXCL  # Linux 6.9
_SIZE_OF_LONG = struct.calcsize("l")
# A straight look-up met a symlink or "..": the long way is needed.
_NOT_STRAIGHT = frozenset({errno.ELOOP, errno.EXDEV})
_STREAMS = {b"/dev/stdin": b"0", b"/dev/stdout": b"1", b"/dev/stderr": b"2"}


class Processes:
    """A view of /proc in which the processes of a command have the numbers that their calls tell.

    To be made before the root changes. `use` has to be called once before anything else.
    """

    def __init__(self) -> None:
        self._proc, self.number = _open_proc()
        self._buffer = ctypes.create_string_buffer(_PAGE)
        self._address = ctypes.addressof(self._buffer)
        self._by_file = False

    def use(self) -> None:
        """Make /proc the current directory: calls that take no descriptor reach files from there."""
        os.fchdir(self._proc)

    def check(self, pid: int) -> None:
        """Make sure that memory can be read; `pid` is a fork of this process, not yet executed.

        Raises `Failed` where the host forbids it.
        """
        try:
            self.read(pid, self._address, 1)
        except OSError:
            self._by_file = True  # the call may be filtered out where the file is not
            try:
                self.read(pid, self._address, 1)
            except OSError as problem:
                what = f"its memory cannot be read: {problem.strerror}"
                raise Failed("supervise", what, problem.errno) from None

    # --- memory ---

    def read(self, pid: int, address: int, size: int) -> bytes:
        """Read at most a page of memory: up to `size` bytes, fewer where the rest is not mapped."""
        size = min(size, _PAGE)
        if self._by_file:
            return self._read_file(pid, address, size)
        count = self._transfer("process_vm_readv", pid, address, size)
        return ctypes.string_at(self._address, count)

    def write(self, pid: int, address: int, data: bytes) -> None:
        """Write at most a page of memory; EFAULT when not all of it can be written."""
        ctypes.memmove(self._buffer, data, len(data))
        if self._transfer("process_vm_writev", pid, address, len(data)) != len(data):
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))

    def text(self, pid: int, address: int) -> bytes:
        """Read a path: up to its NUL. EFAULT and ENAMETOOLONG as the kernel would answer."""
        text = b""
        while len(text) < _LONGEST:
            here = address + len(text)
            # Up to the end of a page: the next one need not be mapped.
            part = self.read(pid, here, min(_PAGE - here % _PAGE, _LONGEST - len(text)))
            if not part:
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
            head, end, _ = part.partition(b"\0")
            text += head
            if end:
                return text
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    def _transfer(self, call: str, pid: int, address: int, size: int) -> int:
        if address + size > 1 << 8 * _SIZE_OF_LONG:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        here, there = struct.pack("PN", self._address, size), struct.pack("PN", address, size)
        return syscalls.call(call, pid, here, 1, there, 1, 0)

    def _read_file(self, pid: int, address: int, size: int) -> bytes:
        fd = self.open(pid, "mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, size, address)
        except (OSError, OverflowError):
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT)) from None
        finally:
            os.close(fd)

    # --- files ---

    def open(self, pid: int, name: str, flags: int = _HANDLE) -> int:
        """Open something of a process, such as `root`; EBADF for a descriptor it does not have."""
        try:
            return os.open(f"{self.number(pid)}/{name}", flags, dir_fd=self._proc)
        except FileNotFoundError:
            code = errno.EBADF if name.startswith("fd/") else errno.ESRCH
            raise OSError(code, os.strerror(code)) from None

    def open_fd(self, pid: int, number: int) -> int:
        """Give a handle of what a process has open; its current directory for AT_FDCWD."""
        if number == syscalls.AT_FDCWD:
            return self.open(pid, "cwd")
        if number < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.open(pid, f"fd/{number}")

    def umask(self, pid: int) -> int:
        return int(_field(self._proc, f"{self.number(pid)}/status", b"Umask:")[0], 8)

    def look_up(self, pid: int, at: int, path: bytes, *, follow: bool, flags: int = 0) -> int:
        """Give a handle of what a path names for a process, never of anything outside its root."""
        if not path:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        flags |= _HANDLE | (0 if follow else os.O_NOFOLLOW)
        if path.startswith(b"/"):
            return self._look_up_from_root(pid, path, flags, follow=follow)
        base = self.open_fd(pid, at)
        try:
            return inroot.open_straight(base, path, flags)
        except OSError as problem:
            if problem.errno not in _NOT_STRAIGHT:
                raise
            # Links and ".." are followed from the root, which they must not leave.
            above = self.path_in_root(pid, base)
            return self._look_up_from_root(pid, above + b"/" + path, flags, follow=follow)
        finally:
            os.close(base)

    def _look_up_from_root(self, pid: int, path: bytes, flags: int, *, follow: bool) -> int:
        root = self.open(pid, "root")
        try:
            number = _descriptor(path) if follow else None
            if number is None:
                try:
                    return inroot.open_in_root(root, path.lstrip(b"/"), flags)
                except OSError as problem:
                    if not follow or problem.errno not in {errno.ELOOP, errno.ENOENT}:
                        raise
                    # A link into /proc leads elsewhere for its process than for this one.
                    number = self._descriptor_behind(root, path)
                    if number is None:
                        raise
        finally:
            os.close(root)
        return self.open_fd(pid, number)

    @staticmethod
    def _descriptor_behind(root: int, path: bytes) -> int | None:
        try:
            link = inroot.open_in_root(root, path.lstrip(b"/"), _HANDLE | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            return _descriptor(os.readlink(b"", dir_fd=link))
        except OSError:
            return None
        finally:
            os.close(link)

    def path_in_root(self, pid: int, base: int) -> bytes:
        """Give the path of a directory as its process has it; ENOENT for one outside its root."""
        root = self.open(pid, "root")
        try:
            top = self.path_of(root).rstrip(b"/")
        finally:
            os.close(root)
        path = self.path_of(base)
        if path != top and not path.startswith(top + b"/"):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return path[len(top) :]

    def path_of(self, fd: int) -> bytes:
        """Give the path of an open file as this process has it."""
        return os.readlink(b"self/fd/%d" % fd, dir_fd=self._proc)


def _descriptor(path: bytes) -> int | None:
    """Tell which of its own descriptors a process means by a path, if any."""
    path = b"/" + path.lstrip(b"/")
    if path in _STREAMS:
        return int(_STREAMS[path])
    above, _, name = path.rpartition(b"/")
    if above in {b"/dev/fd", b"/proc/self/fd", b"/proc/thread-self/fd"} and name.isdigit():
        return int(name[:9])
    return None


def _open_proc() -> tuple[int, Callable[[int], int]]:
    """Open /proc, with what turns the number of a process here into the one it has there."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        proc = os.open("/proc", flags)
        seen = int(os.readlink("self", dir_fd=proc))
    except (OSError, ValueError) as problem:
        raise Failed("supervise", f"/proc: {problem}") from None
    if seen == os.getpid():
        return proc, lambda pid: pid
    try:
        filesystem = syscalls.fsopen(b"proc")
        try:
            own = syscalls.fsmount(filesystem, syscalls.NOSUID | syscalls.NODEV | syscalls.NOEXEC)
        finally:
            os.close(filesystem)
    except OSError:  # parts of /proc are hidden here, so there must not be a new one
        return proc, lambda pid: _translated(proc, pid)
    os.close(proc)
    return own, lambda pid: pid


def _translated(proc: int, pid: int) -> int:
    """Find the number of a process or thread in a /proc of outer numbers."""
    try:
        handle = syscalls.call("pidfd_open", pid, _PIDFD_THREAD)
    except OSError as problem:
        if problem.errno != errno.EINVAL:
            raise
        return _searched(proc, pid)
    try:
        return int(_field(proc, f"self/fdinfo/{handle}", b"Pid:")[0])
    finally:
        os.close(handle)


def _searched(proc: int, pid: int) -> int:
    """Do the same without a handle of a thread: among all that descend from this process."""
    here = len(_field(proc, "self/status", b"NSpid:")) - 1
    left = [os.readlink("self", dir_fd=proc)]
    while left:
        process = left.pop()
        with suppress(FileNotFoundError):  # it has just ended
            for thread in _list(proc, f"{process}/task"):
                task = f"{process}/task/{thread}"
                numbers = _field(proc, f"{task}/status", b"NSpid:")
                if numbers[here : here + 1] == [b"%d" % pid]:
                    return int(thread)
                left += os.fsdecode(_content(proc, f"{task}/children")).split()
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def _field(proc: int, path: str, name: bytes) -> list[bytes]:
    """Read the words of one line of a file in /proc; ESRCH when there is none."""
    for line in _content(proc, path).splitlines():
        if line.startswith(name):
            return line.split()[1:]
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def _content(proc: int, path: str) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc), "rb") as file:
        return file.read()


def _list(proc: int, path: str) -> list[str]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)
