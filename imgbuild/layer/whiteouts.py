"""Names by which a layer says that lower paths are gone (image-spec layer.md, "Whiteouts")."""

from typing import Literal, NamedTuple

from imgbuild.errors import ImageError
from imgbuild.layer.entry import ImagePath, quoted

PREFIX = b".wh."
META_PREFIX = b".wh..wh."
OPAQUE_NAME = b".wh..wh..opq"


class Marker(NamedTuple):
    """What a marker file says: `path` is gone, or the directory `path` is emptied.

    "skip" is bookkeeping of AUFS (`.wh..wh.plnk` and the like), which says nothing.
    """

    type: Literal["whiteout", "opaque", "skip"]
    path: ImagePath


def is_reserved(path: ImagePath) -> bool:
    """Tell whether some component of `path` starts with the prefix that markers use."""
    return path.startswith(PREFIX) or b"/.wh." in path


def whiteout_name(path: ImagePath) -> ImagePath:
    """Return the name of the marker file that removes `path`."""
    parent, slash, name = path.rpartition(b"/")
    return parent + slash + PREFIX + name


def read_marker(path: ImagePath) -> Marker | None:
    """Return what the file `path` marks, None for an ordinary path.

    Raises `ImageError` for markers that name nothing, the directory itself or its parent,
    and for paths below a marker.
    """
    if not is_reserved(path):
        return None
    parts = path.split(b"/")
    at = next(i for i, part in enumerate(parts) if part.startswith(PREFIX))
    name, is_last = parts[at], at == len(parts) - 1
    if name == OPAQUE_NAME and is_last:
        return Marker("opaque", b"/".join(parts[:at]))
    if name.startswith(META_PREFIX) and name != OPAQUE_NAME:
        return Marker("skip", path)
    removed = name.removeprefix(PREFIX)
    if not is_last or removed in {b"", b".", b".."}:
        raise ImageError(
            f"the layer has an illegal whiteout: {quoted(path)}",
            hint="the image is damaged or hostile; rebuild it with another tool",
        )
    return Marker("whiteout", b"/".join([*parts[:at], removed]))
