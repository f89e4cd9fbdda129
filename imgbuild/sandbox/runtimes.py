"""Find the OCI runtimes of this machine, for `--isolation=oci`."""

import os

from imgbuild.errors import SandboxError

# In the order they are tried: the one that starts fastest first.
_KNOWN = ("crun", "runc", "youki", "runsc")


def find_runtimes(named: str | None, search_path: str) -> tuple[str, ...]:
    """Return the paths of runtimes to try: the one of a name or path, else all that are known.

    Raises `SandboxError` when there is none.
    """
    if named is not None and "/" in named:
        found = [os.path.abspath(named)] if _is_program(named) else []
    else:
        names = _KNOWN if named is None else (named,)
        found = [path for name in names if (path := _look_up(name, search_path))]
    if not found:
        raise SandboxError(
            f"no OCI runtime: {named} is not there"
            if named
            else "no OCI runtime is installed (crun, runc, youki or runsc)",
            hint="install one, name one with --runtime, or leave --isolation=oci out: imgbuild "
            "needs none",
        )
    return tuple(found)


def _look_up(name: str, search_path: str) -> str | None:
    for folder in search_path.split(":"):
        path = os.path.join(folder, name)
        if folder.startswith("/") and _is_program(path):
            return path
    return None


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
