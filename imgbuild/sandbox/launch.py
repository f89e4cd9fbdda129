"""Start the processes of a session: a fresh interpreter that enters a user namespace.

The process that calls this is never changed: it writes id maps, or has them written, and talks
over sockets.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import imgbuild
from imgbuild.errors import ImgbuildError, SandboxError
from imgbuild.sandbox.child import wire
from imgbuild.sandbox.failures import explain
from imgbuild.sandbox.idmap import IdMap, Ranges
from imgbuild.sandbox.session import Session
from imgbuild.sandbox.tiers import Candidate, Tier

# -S -I: nothing but the standard library and this package can be imported, whatever the
# environment and the current folder hold. The package stands in for itself without its __init__,
# which would import `typing`: that alone takes half as long as all the rest of this half.
_CODE = (
    "import sys; package = sys.modules['imgbuild'] = type(sys)('imgbuild'); "
    "package.__path__ = [sys.argv[1]]; "
    "from imgbuild.sandbox.child import namespace; namespace.main()"
)
_PATIENCE = 60  # seconds for the start, which takes a twentieth of one


def launch(
    candidate: Candidate,
    entry: str,
    writable: Sequence[Path],
    *,
    steps: Path | None = None,
    reasons: tuple[str, ...] = (),
) -> Session:
    """Start a session whose worker is `main(socket)` of module `entry`.

    Of this machine, the session can write below the directories `writable` alone. `steps` is
    the one below which upper directories will be: it is covered by a file system in memory, for
    this session alone, when it cannot hold any. `reasons` go into the session's tier.
    RefusedError names what the host refused and how to allow it.
    """
    if not sys.executable:
        raise SandboxError("the path of the Python interpreter is not known")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours_zygote, theirs_zygote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    said = os.memfd_create("imgbuild-stderr", os.MFD_CLOEXEC)
    settings = _settings(candidate, entry, writable, steps)
    try:
        process = _start(theirs, theirs_zygote, said, candidate, writable)
        theirs.close()
        theirs_zygote.close()
        try:
            found = _begin(ours, ours_zygote, process.pid, candidate, settings)
        except BaseException as problem:
            ours.close()
            ours_zygote.close()
            process.kill()
            process.wait()
            if isinstance(problem, EOFError):
                raise SandboxError(
                    "the sandbox could not start", hint=_last_words(said) or None
                ) from None
            raise
    finally:
        for sock in (theirs, theirs_zygote):
            sock.close()
        os.close(said)
    tier = Tier(candidate.name, candidate.idmap, reasons=reasons, **found)
    return Session(process, ours, ours_zygote, tier)


def _start(
    worker: socket.socket,
    zygote: socket.socket,
    said: int,
    candidate: Candidate,
    writable: Sequence[Path],
) -> subprocess.Popen[bytes]:
    fds = (zygote.fileno(), worker.fileno())
    package = str(Path(imgbuild.__file__).resolve().parent)
    arguments = [package, *map(str, fds), candidate.name, _mapped(candidate)]
    arguments += map(os.path.realpath, writable)
    return subprocess.Popen(
        [sys.executable, "-SI", "-X", "utf8", "-c", _CODE, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        pass_fds=fds,
        cwd="/",
        env={},
        start_new_session=True,
    )


def _mapped(candidate: Candidate) -> str:
    """Say who maps the ids."""
    if not candidate.userns:
        return "not"
    return "here" if candidate.idmap.kind == "single" else "session"


def _settings(
    candidate: Candidate, entry: str, writable: Sequence[Path], steps: Path | None
) -> wire.Message:
    idmap = candidate.idmap
    return {
        "entry": entry,
        "tier": candidate.name,
        "shift": idmap.shift,
        "count": idmap.count,
        "nested": candidate.nested,
        "steps": None if steps is None else os.path.realpath(steps),
        "writable": list(map(os.path.realpath, writable)),
    }


def _begin(
    worker: socket.socket,
    zygote: socket.socket,
    pid: int,
    candidate: Candidate,
    settings: wire.Message,
) -> dict[str, Any]:
    """Lead the new processes to where they are ready to serve; give what they found out.

    EOFError when one dies before.
    """
    idmap, mapped = candidate.idmap, _mapped(candidate)
    if mapped != "here" and candidate.name != "D":
        _answer(worker, "map")
        if mapped == "session":
            _write_maps(pid, idmap)
        _tell(worker, {"go": True})
    _tell(worker, settings)
    ready = _answer(worker, "ready")
    return {"root": ready["root"], **_answer(zygote, "found")["found"]}


def _tell(sock: socket.socket, message: wire.Message) -> None:
    """Send a message; when nobody takes it, what was said before tells why."""
    with suppress(BrokenPipeError, ConnectionResetError):
        wire.send(sock, message)


def _answer(sock: socket.socket, wanted: str) -> wire.Message:
    """Wait for one message; raise the error that came instead, EOFError when nothing will."""
    sock.settimeout(_PATIENCE)
    # An end that leaves something unread is told before what was said last (ECONNRESET).
    received = wire.receive(sock) or wire.receive(sock)
    if received is None:
        raise EOFError
    sock.settimeout(None)
    message = received[0]
    if wanted not in message:
        raise explain(message["error"])
    return message


def _write_maps(pid: int, idmap: IdMap) -> None:
    if idmap.helpers is None:
        try:
            for name, ranges in (("uid_map", idmap.uid_map), ("gid_map", idmap.gid_map)):
                text = "\n".join("{} {} {}".format(*part) for part in ranges)
                Path(f"/proc/{pid}/{name}").write_text(text)
        except OSError as problem:
            raise explain({"op": "map", "message": str(problem)}) from None
        return
    helpers = zip(idmap.helpers, (idmap.uid_map, idmap.gid_map), strict=True)
    running = [_start_helper(program, pid, ranges) for program, ranges in helpers]
    problems = [problem for problem in (_finish_helper(process) for process in running) if problem]
    if problems:
        raise problems[0]


def _start_helper(program: str, pid: int, ranges: Ranges) -> subprocess.Popen[bytes]:
    numbers = [str(number) for part in ranges for number in part]
    return subprocess.Popen(
        [program, str(pid), *numbers],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={},
    )


def _finish_helper(process: subprocess.Popen[bytes]) -> ImgbuildError | None:
    _, said = process.communicate()
    if process.returncode == 0:
        return None
    return explain({"op": "newuidmap", "message": said.decode(errors="replace").strip()})


def _last_words(said: int) -> str:
    """Give the end of what the process printed."""
    size = os.fstat(said).st_size
    text = os.pread(said, 2000, max(0, size - 2000)).decode(errors="replace").strip()
    return text.splitlines()[-1] if text else ""
