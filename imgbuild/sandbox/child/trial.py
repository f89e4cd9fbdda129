"""The worker of a trial: makes a small root in the store, for commands to start in."""

import os
import shutil
import socket
from typing import Any

from imgbuild.sandbox.child.serve import serve


def main(sock: socket.socket) -> None:
    """Serve requests until the session closes `sock`."""
    serve(sock, {"prepare": prepare, "empty": empty})


def prepare(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Make a layer, and the directories of a few steps."""
    lower, steps, owner = params["lower"], params["steps"], params["owner"]
    folders = [f"{lower}/{name}" for name in ("", "proc", "sys", "dev")]
    for path in (*folders, *(f"{steps}/{name}" for name in params["names"])):
        os.makedirs(path, exist_ok=True)
        os.chown(path, owner, owner)
    return {}


def empty(params: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    """Remove what was made; a place in which another is mounted stays."""
    for place in params["places"]:
        with os.scandir(place) as entries:
            for entry in entries:
                shutil.rmtree(entry.path, ignore_errors=True)
    return {}
