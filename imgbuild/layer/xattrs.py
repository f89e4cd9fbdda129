"""Which extended attributes belong to an image, and how capabilities are stored in one.

attribute                 in layers   on disk
security.capability       version 2   version 3 when ids are shifted
user.*                    kept        kept
user.overlay.*            dropped     set by overlayfs and by the unpacker alone: planted ones
trusted.overlay.*         dropped     break or redirect the merge of a later mount
user.imgbuild.*           dropped     what is recorded where only one id is mapped
security.*, system.*      dropped     labels and ACLs of the machine, not of the image
trusted.*                 dropped     cannot be set in a user namespace
"""

import struct

CAPABILITY = "security.capability"
OPAQUE = "user.overlay.opaque"
ORIGIN = "user.overlay.origin"  # on what overlayfs copied from a lower layer

_DROPPED = ("user.overlay.", "user.imgbuild.")

# struct vfs_ns_cap_data, include/uapi/linux/capability.h
_REVISION_MASK = 0xFF000000
_REVISION_2 = 0x02000000
_REVISION_3 = 0x03000000
_SIZE_2 = 20
_SIZE_3 = 24


def keep(name: str) -> bool:
    """Tell whether the attribute `name` belongs to an image."""
    if name.startswith("user."):
        return not name.startswith(_DROPPED)
    return name == CAPABILITY


def to_v2(value: bytes) -> bytes:
    """Return a `security.capability` value without the id of a namespace's root."""
    if len(value) != _SIZE_3:
        return value
    (magic,) = struct.unpack_from("<I", value)
    if magic & _REVISION_MASK != _REVISION_3:
        return value
    return struct.pack("<I", magic & ~_REVISION_MASK | _REVISION_2) + value[4:_SIZE_2]


def to_v3(value: bytes, root: int) -> bytes:
    """Return a `security.capability` value that counts where `root` is the namespace's uid 0."""
    value = to_v2(value)
    if len(value) != _SIZE_2:
        return value
    (magic,) = struct.unpack_from("<I", value)
    if magic & _REVISION_MASK != _REVISION_2:
        return value
    magic = magic & ~_REVISION_MASK | _REVISION_3
    return struct.pack("<I", magic) + value[4:] + struct.pack("<I", root)
