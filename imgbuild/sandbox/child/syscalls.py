"""The system calls that Python 3.11 has no function for, by number through syscall(2).

syscall(2) is in every libc; wrappers for the newer calls are not. All functions raise OSError
with the call's name; all descriptors they give are close-on-exec.
"""

import ctypes
import os
import select
import struct

# Numbers from 424 on are the same everywhere (asm-generic/unistd.h).
_SHARED = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "close_range": 436,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}
_NUMBERS = {
    "x86_64": {
        "capget": 125,
        "capset": 126,
        "keyctl": 250,
        "mount": 165,
        "pivot_root": 155,
        "prctl": 157,
        "renameat2": 316,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "seccomp": 317,
        "setfsgid": 123,
        "setfsuid": 122,
        "sethostname": 170,
        "setns": 308,
        "umount2": 166,
        "unshare": 272,
    },
    "aarch64": {
        "capget": 90,
        "capset": 91,
        "keyctl": 219,
        "mount": 40,
        "pivot_root": 41,
        "prctl": 167,
        "renameat2": 276,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "seccomp": 277,
        "setfsgid": 152,
        "setfsuid": 151,
        "sethostname": 161,
        "setns": 268,
        "umount2": 39,
        "unshare": 97,
    },
}

MACHINE = os.uname().machine
NUMBERS = _SHARED | _NUMBERS.get(MACHINE, {})

CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NODEV = 4
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

READONLY = 1  # MOUNT_ATTR_*
NOSUID = 2
NODEV = 4
NOEXEC = 8

AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_SIGKILL, _SIGTERM = 9, 15  # the module `signal` takes long to import

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def call(name: str, *args: object) -> int:
    """Do one system call; integers are passed as longs, bytes and buffers as pointers."""
    number = NUMBERS.get(name)
    if number is None:
        raise OSError(38, f"{name} on {MACHINE}: not supported")
    passed = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = _syscall(ctypes.c_long(number), *passed)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return int(result)


def unshare(flags: int) -> None:
    call("unshare", flags)


def setns(namespace: int, kind: int) -> None:
    """Enter a namespace given by descriptor; `kind` is its CLONE_ flag."""
    call("setns", namespace, kind)


def mount(source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes = b"") -> None:
    call("mount", source, target, fstype, flags, data)


def set_propagation(flags: int) -> None:
    """Set how mounts below / spread (MS_PRIVATE or MS_SLAVE)."""
    call("mount", None, b"/", None, MS_REC | flags, None)


def umount(target: bytes, flags: int = MNT_DETACH) -> None:
    call("umount2", target, flags)


def pivot_root(new: bytes, old: bytes) -> None:
    call("pivot_root", new, old)


def sethostname(name: bytes) -> None:
    call("sethostname", name, len(name))


def close_on_exec_from(first: int) -> None:
    """Mark all descriptors from `first` on close-on-exec."""
    call("close_range", first, 0xFFFFFFFF, 4)


def open_tree(path: bytes, *, at: int = AT_FDCWD, recursive: bool = False) -> int:
    """Clone what is mounted at a path, as a mount that is attached nowhere."""
    flags = 1 | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= _AT_EMPTY_PATH
    return call("open_tree", at, path, flags)


def mount_setattr(
    fd: int, path: bytes, attributes: int, *, cleared: int = 0, recursive: bool = False
) -> None:
    """Add and clear attributes of a mount; an empty path means the descriptor's own mount."""
    flags = (_AT_RECURSIVE if recursive else 0) | (0 if path else _AT_EMPTY_PATH)
    data = struct.pack("QQQQ", attributes, cleared, 0, 0)
    call("mount_setattr", fd, path, flags, data, len(data))


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attach a mount at what a descriptor names."""
    call("move_mount", mount_fd, b"", target_fd, b"", 0x4 | 0x40)  # F_EMPTY_PATH | T_EMPTY_PATH


def fsopen(fstype: bytes) -> int:
    return call("fsopen", fstype, 1)


def fsconfig_string(fd: int, key: bytes, value: bytes) -> None:
    _fsconfig(fd, 1, key, value)


def fsconfig_flag(fd: int, key: bytes) -> None:
    _fsconfig(fd, 0, key, None)


def fsmount(fd: int, attributes: int) -> int:
    """Create the filesystem that was configured; give its mount, attached nowhere."""
    _fsconfig(fd, 6, None, None)
    return call("fsmount", fd, 1, attributes)


def _fsconfig(fd: int, command: int, key: bytes | None, value: bytes | None) -> None:
    try:
        call("fsconfig", fd, command, key, value, 0)
    except OSError as problem:
        said = _mount_messages(fd)
        what = b" ".join(part for part in (key, value) if part).decode(errors="replace")
        text = f"mount option {what}" if what else "mount"
        raise OSError(problem.errno, f"{text}: {said or os.strerror(problem.errno or 0)}") from None


def _mount_messages(fd: int) -> str:
    """Read what the kernel has to say about a failed fsconfig."""
    said = []
    for _ in range(8):
        try:
            said.append(os.read(fd, 4096).decode(errors="replace").strip())
        except OSError:
            break
    return "; ".join(said)


def exchange(at: int, name: bytes, other_at: int, other: bytes) -> None:
    """Let two names, each in an open directory, change places."""
    call("renameat2", at, name, other_at, other, 2)  # RENAME_EXCHANGE


def prctl(option: int, *args: int) -> int:
    return call("prctl", option, *args, *([0] * (4 - len(args))))


def die_with_parent(parent: int) -> None:
    """Let the kernel end this process when its parent ends; end at once when it has already."""
    prctl(1, _SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def tell_of_parent(parent: int) -> None:
    """Let SIGTERM come to this process when its parent ends; at once when it has already."""
    prctl(1, _SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os.kill(os.getpid(), _SIGTERM)


def die_with(pidfd: int) -> None:
    """Do the same in a new PID namespace, where the parent is known by descriptor alone."""
    prctl(1, _SIGKILL)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if poll.poll(0):
        os._exit(1)


def landlock_scope() -> bool:
    """Cut this process off from outer abstract sockets and signals, where Linux can (6.12)."""
    try:
        if call("landlock_create_ruleset", None, 0, 1) < 6:  # LANDLOCK_CREATE_RULESET_VERSION
            return False
        rules = struct.pack("QQQ", 0, 0, 3)  # SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL
        fd = call("landlock_create_ruleset", rules, len(rules), 0)
        call("landlock_restrict_self", fd, 0)
    except OSError:
        return False
    os.close(fd)
    return True


def install_filter(program: bytes, flags: int = 0) -> int:
    """Install a seccomp filter given as packed `struct sock_filter`s."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    return call("seccomp", 1, flags, header)  # SECCOMP_SET_MODE_FILTER
