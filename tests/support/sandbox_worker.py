"""A worker for tests of sessions: gives trees to the container's ids, and misbehaves on request."""

import os
import signal
import socket
import time
from typing import Any

from imgbuild import inroot
from imgbuild.sandbox.child import network, serve
from tests.support import roots


def _give(params: dict[str, Any], _: list[int]) -> dict[str, Any]:
    for path in params["paths"]:
        roots.give_to(path, params["shift"], params["shift"])
    return {}


def _make(params: dict[str, Any], _: list[int]) -> dict[str, Any]:
    for path in params["paths"]:
        os.mkdir(path)
        os.chown(path, params["shift"], params["shift"])
    return {}


def _remove(params: dict[str, Any], _: list[int]) -> dict[str, Any]:
    import shutil

    shutil.rmtree(params["path"])
    return {}


def _facts(params: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Tell what the worker sees of this machine."""
    refused = {}
    for path in params.get("write", ()):
        try:
            known = os.path.lexists(path)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
            if not known:  # nothing of a test must stay, where nothing stops it
                os.unlink(path)
        except OSError as problem:
            refused[path] = problem.errno
    with open("/proc/self/uid_map") as file:
        uid_map = file.read().split()
    return {
        "uid": os.getuid(),
        "uid_map": uid_map,
        "refused": refused,
        "environment": dict(os.environ),
        "received": [os.read(fd, 100).decode() for fd in fds],
        "pid": os.getpid(),
    }


def _open(params: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
    root = os.open(params["root"], os.O_PATH | os.O_DIRECTORY)
    return {}, [inroot.open_in_root(root, os.fsencode(params["path"]), os.O_RDONLY)]


def _fail(params: dict[str, Any], _: list[int]) -> dict[str, Any]:
    from imgbuild.errors import ImageError

    if params["how"] == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    if params["how"] == "exit":
        os._exit(7)
    if params["how"] == "image":
        raise ImageError("bad layer", hint="get a better one")
    if params["how"] == "errno":
        raise OSError(params["errno"], "told to")
    raise RuntimeError("told to")


def _sleep(params: dict[str, Any], _: list[int]) -> dict[str, Any]:
    time.sleep(params["seconds"])
    return {"slept": params["seconds"]}


def _echo(params: dict[str, Any], _: list[int]) -> dict[str, Any]:
    return params


def _python(params: dict[str, Any], _: list[int]) -> dict[str, Any]:
    exec(params["code"], {})
    return {}


def main(sock: socket.socket) -> None:
    serve.serve(
        sock,
        {
            "give": _give,
            "make": _make,
            "remove": _remove,
            "facts": _facts,
            "open": _open,
            "fail": _fail,
            "sleep": _sleep,
            "echo": _echo,
            "python": _python,
            "network": network.make,
        },
    )
