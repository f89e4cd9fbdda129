"""Directories of this machine whose owners commands see as they are: idmapped mounts.

Commands have ids that own nothing on this machine. Real root can let the kernel translate: what
belongs to user N on disk belongs to user N in the container, and back.
https://docs.kernel.org/filesystems/idmappings.html
"""

import os
import struct
import subprocess
import sys
from pathlib import Path

from imgbuild.sandbox.idmap import IdMap

_IDMAP = 0x00100000  # MOUNT_ATTR_IDMAP
_EMPTY_PATH = 0x1000  # AT_EMPTY_PATH
_NEWUSER = 0x10000000
# A process that waits in a user namespace of its own until its standard input ends.
_WAIT = (
    f"import ctypes, sys; failed = ctypes.CDLL(None).unshare({_NEWUSER}); "
    "print(failed, flush=True); sys.stdin.read()"
)


class IdMapping:
    """Translates the ids of directories for commands with the ids of `ids`; close it at the end."""

    def __init__(self, ids: IdMap) -> None:
        self._ids = ids
        self._namespace: int | None = None

    def mount(self, source: Path, *, readonly: bool) -> int | None:
        """Give a mount of a directory or file, attached nowhere; None where that cannot be had."""
        if self._ids.kind != "root" or not self._ids.shift:
            return None
        # Here and not above: few commands have volumes.
        from imgbuild.sandbox.child import syscalls
        from imgbuild.sandbox.child.mounts import open_source

        try:
            if self._namespace is None:
                self._namespace = _user_namespace(self._ids.shift, self._ids.count)
            found = open_source(os.fsencode(source))
            try:
                mount = syscalls.open_tree(b"", at=found)
            finally:
                os.close(found)
            kept = syscalls.NOSUID | syscalls.NODEV | (syscalls.READONLY if readonly else 0)
            attributes = struct.pack("QQQQ", kept | _IDMAP, 0, 0, self._namespace)
            try:
                syscalls.call("mount_setattr", mount, b"", _EMPTY_PATH, attributes, len(attributes))
            except OSError:
                os.close(mount)
                raise
        except OSError:  # no CAP_SYS_ADMIN, or a file system that cannot do it
            return None
        return mount

    def close(self) -> None:
        if self._namespace is not None:
            os.close(self._namespace)
            self._namespace = None


def _user_namespace(shift: int, count: int) -> int:
    """Give a user namespace that maps ids from 0 on to those from `shift` on; OSError."""
    with subprocess.Popen(
        [sys.executable, "-SI", "-c", _WAIT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={},
        cwd="/",
    ) as process:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        if process.stdout.readline() != b"0\n":
            raise OSError("no user namespace")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text(f"0 {shift} {count}")
        return os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
