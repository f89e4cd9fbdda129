"""Symbolic links followed inside a root that is known by its entries alone. Pure."""

from collections.abc import Callable

from imgbuild.errors import ImageError
from imgbuild.layer.entry import Entry, ImagePath

MAX_LINKS = 40  # as the kernel, path_resolution(7)


class TooManyLinksError(ImageError):
    """The way to a path leads over more links than the kernel would follow."""


def follow(
    path: bytes, lstat: Callable[[ImagePath], Entry | None], *, follow_last: bool = True
) -> ImagePath:
    """Return where `path` really is for a process whose root `lstat` describes.

    Components that do not exist are kept; `..` never leaves the root. Raises `TooManyLinksError`
    after 40 links.
    """
    done: list[bytes] = []
    todo = _components(path)
    links = 0
    while todo:
        part = todo.pop()
        if part == b"..":
            del done[-1:]
            continue
        done.append(part)
        entry = lstat(b"/".join(done))
        if entry is None or entry.type != "symlink" or not (todo or follow_last):
            continue
        links += 1
        if links > MAX_LINKS:
            shown = path.strip(b"/").decode("utf-8", "backslashreplace")
            raise TooManyLinksError(f"too many levels of symbolic links: /{shown}")
        done.pop()
        if entry.linkname.startswith(b"/"):
            done.clear()
        todo += _components(entry.linkname)
    return b"/".join(done)


def _components(path: bytes) -> list[bytes]:
    """Split a path, the last component first."""
    return [part for part in reversed(path.split(b"/")) if part not in {b"", b"."}]
