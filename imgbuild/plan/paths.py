"""Paths of WORKDIR, COPY and ADD as text: joined and cleaned as BuildKit's system.NormalizePath does.

Nothing here knows a file system; symlinks are looked at when a step is made.
"""

import posixpath


def join_workdir(current: str, path: str) -> str:
    """Return the working directory after `WORKDIR path`; an absolute path stays as it was written."""
    if path.startswith("/"):
        return path
    return clean(f"{_absolute(current)}/{path}")


def clean(path: str) -> str:
    """Return an absolute path without `.`, `..`, doubled and trailing slashes."""
    return posixpath.normpath("/" + path.lstrip("/"))


def destination(workdir: str, dest: str) -> str:
    """Return the absolute destination; it ends with a slash where what it names must be a directory."""
    path = clean(dest if dest.startswith("/") else f"{_absolute(workdir)}/{dest}")
    into = dest in {"", "."} or dest.endswith(("/", "/."))
    return f"{path}/" if into and path != "/" else path


def source_path(path: str) -> str:
    """Return a source relative to its root: `..` cannot leave it, slashes at the ends do not count."""
    return clean(path)[1:]


def written_source(path: str) -> str:
    """Return `source_path`, but one that starts by climbing keeps its first `..`, for errors to tell so."""
    found = source_path(path)
    return f"../{found}" if posixpath.normpath(path.lstrip("/")).split("/")[0] == ".." else found


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"
