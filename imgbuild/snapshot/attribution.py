"""Whose the things of an upper directory are, and what they are, where one id is mapped.

On disk everything is the user's. What was recorded decides (see `recorded`); what nobody recorded
belongs to who made it.
"""

import os
import stat
from collections.abc import Mapping

from imgbuild import recorded
from imgbuild.layer import xattrs
from imgbuild.layer.owners import path_of, special_value

RECORDS = frozenset({recorded.OWNER, recorded.DEVICE, xattrs.ORIGIN})

Ids = tuple[int, int]
# An open file or directory, or a directory and the name in it of what cannot be opened.
Place = int | tuple[int, bytes]

# Lets apt take on another user without seeing it happen, which apt checks otherwise
# (apt.conf(5); DropPrivileges in apt-pkg/contrib/fileutl.cc). It lies below the image and must not
# become a part of that, wherever a command copies it.
APT_FOLDER = b"etc/apt/apt.conf.d"
APT_NAME = b"zz-imgbuild-one-id"
APT_TEXT = b"""\
// Not in the image: added while it is built where one user id is mapped.
APT::Sandbox::Verify::IDs "false";
"""


class Attribution:
    """Tells owners and device nodes by what is recorded.

    `maker` is the owner of what the command made. With `settle`, owners that were not recorded
    are, so that the tree says all when it is a layer.
    """

    def __init__(self, maker: Ids, *, settle: bool) -> None:
        self._maker = maker
        self._settle = settle

    def new(self, group: int | None) -> Ids:
        """Return the owner of something new in a directory, which may hand its group on."""
        return self._maker[0], self._maker[1] if group is None else group

    def owner(self, place: Place, found: Mapping[str, bytes], default: Ids) -> Ids:
        """Return an owner; `found` are the attributes, `default` is for what nobody recorded."""
        if isinstance(place, int):
            value = found.get(recorded.OWNER, b"")
            halves = recorded.parse_owner(value)
            if xattrs.ORIGIN in found:  # root's of a lower layer, however it was changed
                default = 0, 0
        else:
            value = special_value(*place)
            halves = recorded.parse_special(value)
        uid, gid = (
            known if half is None else half for half, known in zip(halves, default, strict=True)
        )
        if self._settle:
            _settle(place, value, (uid, gid))
        return uid, gid


def device(found: Mapping[str, bytes]) -> recorded.Device | None:
    """Return the device node that a file stands for."""
    value = found.get(recorded.DEVICE)
    return None if value is None else recorded.parse_device(value)


def inherited_group(status: os.stat_result, gid: int) -> int | None:
    """Return the group that new things in a directory get from it (set-group-ID, inode(7))."""
    return gid if status.st_mode & stat.S_ISGID else None


def is_apt_stub(name: bytes, status: os.stat_result, fd: int) -> bool:
    """Tell whether a file is the one of `APT_TEXT`, or a copy of it."""
    return (
        name == APT_NAME
        and status.st_size == len(APT_TEXT)
        and os.pread(fd, len(APT_TEXT), 0) == APT_TEXT
    )


def _settle(place: Place, value: bytes, owner: Ids) -> None:
    """Record an owner as unpacking does: where it is not 0:0."""
    follow = isinstance(place, int)
    if isinstance(place, int):
        path, name = b"/proc/self/fd/%d" % place, recorded.OWNER
        wanted = recorded.owner_value(owner)
    else:
        path, name = path_of(*place), recorded.SPECIAL
        wanted = recorded.special_value(owner)
    if owner == (0, 0):
        if value:
            os.removexattr(path, name, follow_symlinks=follow)
    elif value != wanted:
        os.setxattr(path, name, wanted, follow_symlinks=follow)
