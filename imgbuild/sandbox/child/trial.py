"""The worker of a trial: makes a small root in the store and tries an overlay on it."""

import os
import shutil
import socket
import stat
from typing import Any

from imgbuild.sandbox.child import overlay
from imgbuild.sandbox.child.failure import naming
from imgbuild.sandbox.child.serve import serve


def main(sock: socket.socket) -> None:
    """Serve requests until the session closes `sock`."""
    serve(sock, {"prepare": prepare, "overlay": try_overlay, "empty": empty})


def prepare(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Make the layers, upper and work directories of a few steps."""
    place, owner = params["place"], params["owner"]
    for name in ("lower/gone", "lower/proc", "lower/sys", "lower/dev", *params["steps"]):
        os.makedirs(f"{place}/{name}")
    for folder, _, _ in os.walk(place):
        if folder != place:
            os.chown(folder, owner, owner)
    return {}


def try_overlay(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Remove a directory through an overlay and see whether that leaves a whiteout."""
    lower, upper, work = (os.fsencode(params[name]) for name in ("lower", "upper", "work"))
    with naming("overlay"):
        root = overlay.mount([lower], upper, work)
        os.rmdir("gone", dir_fd=root)
        found = os.lstat(upper + b"/gone")
        os.setxattr(upper, "user.imgbuild.trial", b"y")
    return {"whiteout": stat.S_ISCHR(found.st_mode) and found.st_rdev == 0}


def empty(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Remove what was made."""
    with os.scandir(params["place"]) as entries:
        for entry in entries:
            shutil.rmtree(entry.path)
    return {}
