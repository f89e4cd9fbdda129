"""How the kernel tells a program about a file: `struct stat` of each machine, and `struct statx`.

From arch/*/include/uapi/asm/stat.h and linux/stat.h of the kernel.
"""

import os
import struct

_X86_64 = struct.Struct("<QQQIIIIQqqqqQqQqQ24x")
_AARCH64 = struct.Struct("<QQIIIIQQqiiqqQqQqQ8x")
_I386_64 = struct.Struct("<Q4xIIIIIQ4xqIQIIIIIIQ")
_ARM_64 = struct.Struct("<Q4xIIIIIQ4x4xqI4xQIIIIIIQ")
_OLD_32 = struct.Struct("<IIHHHHIIIIIIIIII8x")
_STATX = struct.Struct("<IIQIIIHHQQQQ")
_STATX_TIME = struct.Struct("<qI4x")
_STATX_DEVICES = struct.Struct("<IIII")
_STATFS = struct.Struct("<qqQQQQQ8xqqq32x")
_STATFS_32 = struct.Struct("<IIQQQQQ8xIII16x")
_STATX_SIZE = 256
_STATX_BASIC = 0x7FF  # STATX_BASIC_STATS
_SECOND = 1_000_000_000
_BLOCK = 4096
_WORD, _HALF = 0xFFFFFFFF, 0xFFFF


def stat_bytes(machine: str, call: str, found: os.stat_result, uid: int, gid: int) -> bytes:
    """Give what the call `call` writes on a machine; ids are those that the program knows."""
    if machine in {"x86_64", "aarch64"}:
        return (_x86_64 if machine == "x86_64" else _aarch64)(found, uid, gid)
    if "64" in call:
        return _wide(_I386_64 if machine == "i386" else _ARM_64, found, uid, gid)
    return _old(found, uid, gid)


def statx_bytes(found: os.stat_result, uid: int, gid: int) -> bytes:
    """Give what statx(2) writes on every machine."""
    head = _STATX.pack(
        _STATX_BASIC,
        _BLOCK,
        0,
        found.st_nlink,
        uid,
        gid,
        found.st_mode,
        0,
        found.st_ino,
        found.st_size,
        found.st_blocks,
        0,
    )
    times = (found.st_atime_ns, 0, found.st_ctime_ns, found.st_mtime_ns)
    middle = b"".join(_STATX_TIME.pack(*divmod(time, _SECOND)) for time in times)
    numbers = [f(dev) for dev in (found.st_rdev, found.st_dev) for f in (os.major, os.minor)]
    return (head + middle + _STATX_DEVICES.pack(*numbers)).ljust(_STATX_SIZE, b"\0")


def statfs_bytes(machine: str, found: os.statvfs_result, kind: int) -> bytes:
    """Give what statfs(2), or on 32-bit machines statfs64(2), writes for a kind of file system."""
    layout = _STATFS if machine in {"x86_64", "aarch64"} else _STATFS_32
    counts = (found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)
    rest = (found.f_namemax, found.f_frsize, 0)
    return layout.pack(kind, found.f_bsize, *counts, *rest)


def _times(found: os.stat_result) -> tuple[int, ...]:
    times = (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
    return tuple(part for time in times for part in divmod(time, _SECOND))


def _x86_64(found: os.stat_result, uid: int, gid: int) -> bytes:
    numbers = (found.st_dev, found.st_ino, found.st_nlink, found.st_mode, uid, gid, 0)
    sizes = (found.st_rdev, found.st_size, _BLOCK, found.st_blocks)
    return _X86_64.pack(*numbers, *sizes, *_times(found))


def _aarch64(found: os.stat_result, uid: int, gid: int) -> bytes:
    numbers = (found.st_dev, found.st_ino, found.st_mode, found.st_nlink, uid, gid)
    sizes = (found.st_rdev, 0, found.st_size, _BLOCK, 0, found.st_blocks)
    return _AARCH64.pack(*numbers, *sizes, *_times(found))


def _wide(layout: struct.Struct, found: os.stat_result, uid: int, gid: int) -> bytes:
    inode = found.st_ino & _WORD
    numbers = (found.st_dev, inode, found.st_mode, found.st_nlink, uid, gid)
    sizes = (found.st_rdev, found.st_size, _BLOCK, found.st_blocks)
    times = (part & _WORD for part in _times(found))
    return layout.pack(*numbers, *sizes, *times, found.st_ino)


def _old(found: os.stat_result, uid: int, gid: int) -> bytes:
    numbers = (found.st_dev & _WORD, found.st_ino & _WORD)
    halves = (n & _HALF for n in (found.st_mode, found.st_nlink, uid, gid))
    sizes = (n & _WORD for n in (found.st_rdev, found.st_size, _BLOCK, found.st_blocks))
    times = (part & _WORD for part in _times(found))
    return _OLD_32.pack(*numbers, *halves, *sizes, *times)
