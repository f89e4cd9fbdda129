"""Keep a process that shares this machine's namespaces to one directory, where Linux can (5.19)."""

import os
import struct

from imgbuild.sandbox.child import syscalls

_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_SCOPES = 3  # SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL
# How many rights on files each version knows (linux/landlock.h); later versions have no more.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
# The first version refuses every rename and link from one directory to another.
_LEAST = 2


def confine(root_fd: int) -> bool:
    """Allow files below a directory alone, and signals and abstract sockets of its own (6.12).

    Tell whether the kernel does that. Needs CAP_SYS_ADMIN or no_new_privs. Descriptors that are
    open already stay usable.
    """
    try:
        version = syscalls.call("landlock_create_ruleset", None, 0, _VERSION)
    except OSError:
        return False
    if version < _LEAST:
        return False
    rights = (1 << _RIGHTS.get(version, 16)) - 1
    rules = struct.pack("QQQ", rights, 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = syscalls.call("landlock_create_ruleset", rules[:size], size, 0)
    try:
        beneath = struct.pack("<Qi", rights, root_fd)
        syscalls.call("landlock_add_rule", ruleset, _PATH_BENEATH, beneath, 0)
        syscalls.call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return True
