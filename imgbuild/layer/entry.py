"""What a layer says about one path."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from imgbuild.oci.digest import Digest

# A path inside an image: relative, no leading or trailing slash, bytes because names in layers
# need not be UTF-8. The root itself is b"".
ImagePath = bytes

# "whiteout" says that a lower path is gone, "opaque" that everything below a lower directory is.
# Opaque markers are understood when read and never written.
EntryType = Literal[
    "file", "dir", "symlink", "hardlink", "char", "block", "fifo", "whiteout", "opaque"
]


NO_XATTRS: Mapping[str, bytes] = MappingProxyType({})


class Entry(NamedTuple):
    """One path of a layer.

    `mode` is the permission bits with suid, sgid and sticky (07777). `mtime` is in whole
    seconds since 1970. `size` is of a file's content in bytes. `linkname` is a symlink's text, or
    the `ImagePath` a hard link points at. For a whiteout, `path` is the path that is gone; for
    an opaque marker, the directory that is emptied. `digest` is of a file's content; `offset` is where that content
    starts in the uncompressed tar. A tuple, because builds make hundreds of thousands of them.
    """

    path: ImagePath
    type: EntryType
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    linkname: bytes = b""
    rdev: tuple[int, int] | None = None
    xattrs: Mapping[str, bytes] = NO_XATTRS
    digest: Digest | None = None
    offset: int = 0


def quoted(name: bytes) -> str:
    """Return a name for messages, in quotes; what is not printable is escaped."""
    text = name.decode("utf-8", "backslashreplace")
    return f"'{text}'" if text.isprintable() else repr(name)[1:]


def sort_key(path: ImagePath) -> bytes:
    """Order paths by components, so that a directory is followed by all that is below it.

    No name has a NUL in it, and nothing sorts before one.
    """
    return path.replace(b"/", b"\0")
