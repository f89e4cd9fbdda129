"""Hosts that allow less than this one: `python -m tests.support.lesser HOST FOLDER COMMAND…`, as root.

FOLDER is where the command keeps its store.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from imgbuild.sandbox.child import syscalls

_BIND, _REC, _PRIVATE = 4096, 16384, 1 << 18
_NEWUSER, _NEWNS = 0x10000000, 0x20000
_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    parts = [part and part.encode() for part in (source, target, kind)]
    if _libc.mount(*parts, ctypes.c_ulong(flags), data and data.encode()) < 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def _masked_proc(_: Path) -> None:
    """Hide a part of /proc, as containers do: the kernel then gives no new one."""
    _mount("/dev/null", "/proc/version", None, _BIND)


def _no_pivot_root(_: Path) -> None:
    """Refuse pivot_root, as docker's system call filter does."""
    _refuse("pivot_root")


def _store_on_overlay(place: Path) -> None:
    """Have the store in the root of a container."""
    owner = place.stat()
    parts = [place.with_name(f"{place.name}.{part}") for part in ("lower", "upper", "work")]
    for part in parts:
        part.mkdir(exist_ok=True)
        os.chown(part, owner.st_uid, owner.st_gid)
    lower, upper, work = parts
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    _mount("overlay", str(place), "overlay", 0, options)


def _store_without_devices(place: Path) -> None:
    """Have the store on a mount without device files, set-uid and other programs."""
    _mount("tmpfs", str(place), "tmpfs", 0xE)


def _no_more_user_namespaces(_: Path) -> None:
    """Be root of a user namespace that allows no further one."""
    _enter_user_namespace(0)


def _one_more_user_namespace(_: Path) -> None:
    """Be root of a user namespace below which there may be one more."""
    _enter_user_namespace(1)


def _chroot(place: Path) -> None:
    """Be in a changed root, where even root gets no user namespace."""
    root = place.with_name(f"{place.name}.root")
    root.mkdir()
    _mount("/", str(root), None, _BIND | _REC)
    os.chroot(root)
    os.chdir("/")


def _no_mounts(_: Path) -> None:
    """Refuse everything about mounts, as AppArmor's profile for containers does."""
    _refuse(*["mount", "open_tree", "move_mount", "fsopen", "fsmount", "mount_setattr"])


def _no_new_privileges(_: Path) -> None:
    syscalls.prctl(_SET_NO_NEW_PRIVS, 1)


HOSTS: Final[dict[str, Callable[[Path], None]]] = {
    "masked proc": _masked_proc,
    "no pivot_root": _no_pivot_root,
    "store on overlay": _store_on_overlay,
    "store without devices": _store_without_devices,
    "no more user namespaces": _no_more_user_namespaces,
    "one more user namespace": _one_more_user_namespace,
    "chroot": _chroot,
    "no mounts": _no_mounts,
    "no new privileges": _no_new_privileges,
}


def on(host: str, place: Path | str, command: list[str]) -> list[str]:
    """Give a command line that runs a command on such hosts (names with + between); "" is this one."""
    if not host:
        return command
    if os.getuid() != 0:
        pytest.skip("needs root to make a lesser host")
    return [sys.executable, "-m", "tests.support.lesser", host, str(place), *command]


def main(host: str, place: Path, command: list[str]) -> None:
    if _libc.unshare(_NEWNS) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("none", "/", None, _REC | _PRIVATE)
    for name in host.split("+"):
        HOSTS[name](place)
    os.execvp(command[0], command)


def _refuse(*names: str) -> None:
    """Let some system calls fail with EPERM from now on."""
    instructions = [(0x20, 0, 0, 0)]  # load the number
    for name in names:
        instructions += [(0x15, 0, 1, syscalls.NUMBERS[name]), (0x06, 0, 0, 0x00050001)]
    instructions.append((0x06, 0, 0, 0x7FFF0000))
    syscalls.install_filter(b"".join(struct.pack("HBBI", *one) for one in instructions))


def _enter_user_namespace(further: int) -> None:
    ready, done = os.pipe(), os.pipe()
    me = os.getpid()
    writer = os.fork()
    if not writer:
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{me}/{name}").write_text("0 0 200000\n")
        os.write(done[1], b"x")
        os._exit(0)
    if _libc.unshare(_NEWUSER | _NEWNS) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
    os.write(ready[1], b"x")
    os.read(done[0], 1)
    os.waitpid(writer, 0)
    Path("/proc/sys/user/max_user_namespaces").write_text(str(further))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
