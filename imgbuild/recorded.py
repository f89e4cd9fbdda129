"""What a file keeps in attributes where one id is mapped: the owner and the device it should have.

kind of file       owner                               device node
file, directory    user.imgbuild.owner   "33:0"        user.imgbuild.device   "c:1:3" on an empty file
symlink, FIFO      security.capability   four words    -

Attributes of `user.` exist on files and directories alone (xattr(7)). One of capabilities can be
set on the others too, where it means nothing to the kernel; like every attribute it survives
renames, further links and copying to an upper layer. An owner's half that nobody set is left open: "33:".

A command sees 0:0 on every file. So 0 may be what a program read from the file that it is about to
replace, as `sed -i` and `useradd` do; such an owner is guessed, "0:0:?", until the file gets its name.
"""

import struct
from typing import Literal

OWNER = "user.imgbuild.owner"
DEVICE = "user.imgbuild.device"
SPECIAL = "security.capability"

Device = tuple[Literal["char", "block"], int, int]  # with major and minor number
Half = int | None
Halves = tuple[Half, Half]  # uid, gid
OPEN: Halves = (None, None)

_GUESSED = b":?"
_NO_ID = 0xFFFFFFFF
_REVISION_2 = 0x02000000  # VFS_CAP_REVISION_2, linux/capability.h
_SPECIAL = struct.Struct("<5I")


def owner_value(owner: Halves, *, guessed: bool = False) -> bytes:
    """Return the value of `OWNER`."""
    value = b":".join(b"" if half is None else b"%d" % half for half in owner)
    return value + _GUESSED if guessed else value


def is_guessed(value: bytes) -> bool:
    """Tell whether a 0 in a value of `OWNER` may be another file's owner."""
    return value.endswith(_GUESSED)


def parse_owner(value: bytes) -> Halves:
    """Read a value of `OWNER`, which a command may have set to anything."""
    uid, colon, gid = value.removesuffix(_GUESSED).partition(b":")
    return (_parse_id(uid), _parse_id(gid)) if colon else OPEN


def special_value(owner: Halves) -> bytes:
    """Return the value of `SPECIAL` for a symlink or a FIFO."""
    uid, gid = (_NO_ID if half is None else half for half in owner)
    return _SPECIAL.pack(_REVISION_2, uid, gid, 0, 0)


def parse_special(value: bytes) -> Halves:
    """Read a value of `SPECIAL`, as a process sees it whose namespace has the file's owner as root."""
    if len(value) != _SPECIAL.size:
        return OPEN
    _, uid, gid, _, _ = _SPECIAL.unpack(value)
    return (None if uid == _NO_ID else uid, None if gid == _NO_ID else gid)


def device_value(kind: str, major: int, minor: int) -> bytes:
    """Return the value of `DEVICE`; `kind` is "char" or "block"."""
    return b"%s:%d:%d" % (kind[0].encode(), major, minor)


def parse_device(value: bytes) -> Device | None:
    """Read a value of `DEVICE`; None for what names no device node."""
    kind, _, numbers = value.partition(b":")
    major, _, minor = (_parse_id(part) for part in numbers.partition(b":"))
    if kind not in {b"c", b"b"} or major is None or minor is None:
        return None
    # What mknod(2) can make; the character device 0:0 is a whiteout of overlayfs.
    if major >> 12 or minor >> 20 or (kind, major, minor) == (b"c", 0, 0):
        return None
    return ("char" if kind == b"c" else "block", major, minor)


def _parse_id(text: bytes) -> Half:
    if not text.isdigit() or len(text) > 10:
        return None
    number = int(text)
    return number if number < _NO_ID else None
