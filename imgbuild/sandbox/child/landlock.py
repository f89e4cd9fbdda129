"""Keep a process that shares this machine's namespaces to some directories, where Linux can (5.19)."""

import os
import struct
from collections.abc import Iterable

from imgbuild.sandbox.child import capabilities, syscalls

_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_SCOPES = 3  # SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL
# How many rights on files each version knows (linux/landlock.h); later versions have no more.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_WRITE_FILE = 1 << 1
# All but EXECUTE, READ_FILE and READ_DIR, and IOCTL_DEV.
_WRITING = (1 << 15) - 1 & ~(1 << 0 | 1 << 2 | 1 << 3)
# The first version refuses every rename and link from one directory to another.
_LEAST = 2


def get_ready() -> None:
    """Do what Landlock and filters need of a process that lacks CAP_SYS_ADMIN.

    Set-uid programs give it no privileges from then on.
    """
    if "sys_admin" not in capabilities.permitted():
        syscalls.prctl(_NO_NEW_PRIVILEGES, 1)


def confine(root_fd: int) -> bool:
    """Allow files below a directory alone, and signals and abstract sockets of its own (6.12).

    Tell whether the kernel does that. Needs `get_ready`. Descriptors that are
    open already stay usable.
    """
    version = _version()
    rights = (1 << _RIGHTS.get(version, 16)) - 1
    return _restrict(version, rights, _SCOPES, [(rights, root_fd)])


def confine_writing(paths: Iterable[bytes]) -> bool:
    """Allow to make, change and remove files below some directories alone.

    Tell whether the kernel does that. Needs `get_ready`. Owners, modes and attributes of what is
    elsewhere are not covered.
    """
    version = _version()
    rights = (1 << _RIGHTS.get(version, 16)) - 1 & _WRITING
    opened = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths]
    null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
    try:
        rules = [(rights, fd) for fd in opened]
        return _restrict(version, rights, 0, [*rules, (_WRITE_FILE, null)])
    finally:
        for fd in (*opened, null):
            os.close(fd)


def _version() -> int:
    try:
        return syscalls.call("landlock_create_ruleset", None, 0, _VERSION)
    except OSError:
        return 0


def _restrict(version: int, rights: int, scopes: int, beneath: Iterable[tuple[int, int]]) -> bool:
    """Refuse some rights but for what is below descriptors, each given with what it allows."""
    if version < _LEAST:
        return False
    rules = struct.pack("QQQ", rights, 0, scopes if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = syscalls.call("landlock_create_ruleset", rules[:size], size, 0)
    try:
        for allowed, fd in beneath:
            rule = struct.pack("<Qi", allowed, fd)
            syscalls.call("landlock_add_rule", ruleset, _PATH_BENEATH, rule, 0)
        syscalls.call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return True
