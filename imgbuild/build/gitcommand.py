"""Run the host's git so that nothing of the host and nothing of a repository changes what it does.

Its environment is made here, word by word: no configuration of the machine or the user, no hooks,
no filters, no prompts. Never a shell. What is secret goes through the environment, never through
arguments, which other users of the machine can read.
"""

import os
import re
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from imgbuild.errors import ContextError
from imgbuild.options import STANDARD_PATH
from imgbuild.store.failure import explained

if TYPE_CHECKING:
    import subprocess

_OLDEST = (2, 32)  # takes GIT_CONFIG_COUNT and GIT_CONFIG_GLOBAL
_VERSION = re.compile(rb"git version (\d+)\.(\d+)")
_MOST_OUTPUT = 4 << 20
# Ends a process group when the pipe that `cat` reads from is closed: when the caller is gone.
_WATCH = 'cat >/dev/null; kill -9 "-$1"'
_MOST_SAID = 64 << 10
_INSTALL = f"install git {_OLDEST[0]}.{_OLDEST[1]} or newer, and see that PATH has its folder"
_CONFIG = {
    "advice.detachedHead": "false",
    "checkout.workers": "0",
    "core.askPass": "",
    "core.autocrlf": "false",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.logAllRefUpdates": "false",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.symlinks": "true",
    "credential.helper": "",
    "fetch.fsckObjects": "true",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    # A server that sends less than this for so many seconds is as good as dead.
    "http.lowSpeedLimit": "100",
    "http.lowSpeedTime": "60",
    "init.defaultBranch": "master",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
}
# Faults of old repositories that do no harm; GitHub takes them as well.
_HARMLESS = [
    "badDate",
    "badDateOverflow",
    "badEmail",
    "badName",
    "badTagName",
    "badTimezone",
    "extraHeaderEntry",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "missingTaggerEntry",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
]


class GitFailedError(Exception):
    """git ended with an error; `said` is the end of what it wrote about it."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said


class RemoteFailedError(GitFailedError):
    """The same of a command that talked to a server."""


class Place(NamedTuple):
    """Where a command works; `held` is a lock that is to last as long as the command.

    No file that it writes gets larger than `largest`, in bytes.
    """

    git_dir: Path | None = None
    work_tree: Path | None = None
    index_file: Path | None = None
    held: int | None = None
    largest: int | None = None


class Access(NamedTuple):
    """What a command may reach: protocols as in GIT_ALLOW_PROTOCOL, and what it needs for that.

    It is given up after `seconds`.
    """

    protocols: str = ""
    config: Mapping[str, str] = {}
    env: Mapping[str, str] = {}
    seconds: float | None = None


ANYWHERE = Place()
NOWHERE = Access()


class Git:
    """The git of this machine; `home` is an empty folder."""

    def __init__(self, search_path: str, home: Path) -> None:
        self._path = ":".join(p for p in search_path.split(":") if p.startswith("/"))
        self._home = home
        self._program = ""

    def run(self, *arguments: str, place: Place = ANYWHERE, access: Access = NOWHERE) -> bytes:
        """Run a command and return what it wrote; raise `GitFailedError`."""
        with self.spool(*arguments, place=place, access=access) as out:
            if os.fstat(out.fileno()).st_size > _MOST_OUTPUT:
                raise GitFailedError(0, f"git {arguments[0]} gave too long an answer")
            return out.read()

    def spool(
        self,
        *arguments: str,
        place: Place = ANYWHERE,
        access: Access = NOWHERE,
        stdin: IO[bytes] | None = None,
    ) -> IO[bytes]:
        """Run a command and return a nameless file with what it wrote; raise `GitFailedError`."""
        program = self._found()
        env = self._environment(place, access)
        return self._run([program, *arguments], env, place, stdin, access.seconds)

    def _found(self) -> str:
        if not self._program:
            program = self._search()
            with self._run([program, "version"], {"LC_ALL": "C"}, ANYWHERE, None) as out:
                version = _VERSION.match(out.read(100))
            if version is None or (int(version[1]), int(version[2])) < _OLDEST:
                raise ContextError(f"{program} is too old to be used safely", hint=_INSTALL)
            self._program = program
        return self._program

    def _search(self) -> str:
        import shutil

        # which() falls back to the PATH of this process when it is given an empty one.
        program = shutil.which("git", path=self._path) if self._path else None
        if program is None:
            raise ContextError(
                "ADD of a git repository and git contexts need git, which is not there",
                hint=_INSTALL,
            )
        return program

    def _run(
        self,
        words: list[str],
        env: dict[str, str],
        place: Place,
        stdin: IO[bytes] | None,
        seconds: float | None = None,
    ) -> IO[bytes]:
        import subprocess

        with explained("run git"):
            out = tempfile.TemporaryFile(dir=self._home)  # noqa: SIM115  it is returned
            try:
                with tempfile.TemporaryFile(dir=self._home) as said:
                    process = subprocess.Popen(
                        words,
                        stdin=stdin or subprocess.DEVNULL,
                        stdout=out,
                        stderr=said,
                        cwd=place.work_tree or self._home,
                        env=env,
                        umask=0o022,
                        pass_fds=() if place.held is None else (place.held,),
                        # It cannot ask on the terminal, and all that it starts can be ended.
                        start_new_session=True,
                    )
                    _wait(process, said, place.largest, seconds)
                out.seek(0)
            except BaseException:
                out.close()
                raise
            return out

    def _environment(self, place: Place, access: Access) -> dict[str, str]:
        env = {
            "PATH": self._path,
            "HOME": str(self._home),
            "LC_ALL": "C",
            "GIT_ALLOW_PROTOCOL": access.protocols,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_CEILING_DIRECTORIES": str(self._home.parent),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_TERMINAL_PROMPT": "0",
            **access.env,
        }
        for name, path in (
            ("GIT_DIR", place.git_dir),
            ("GIT_WORK_TREE", place.work_tree),
            ("GIT_INDEX_FILE", place.index_file),
        ):
            if path is not None:
                env[name] = str(path)
        harmless = {f"fetch.fsck.{name}": "ignore" for name in _HARMLESS}
        config = {**_CONFIG, **harmless, **access.config}
        env["GIT_CONFIG_COUNT"] = str(len(config))
        for number, (key, value) in enumerate(config.items()):
            env[f"GIT_CONFIG_KEY_{number}"] = key
            env[f"GIT_CONFIG_VALUE_{number}"] = value
        return env


def _wait(
    process: "subprocess.Popen[bytes]",
    said: IO[bytes],
    largest: int | None,
    seconds: float | None,
) -> None:
    from subprocess import TimeoutExpired

    try:
        if largest is not None:
            _limit(process.pid, largest)
        with _watched(process.pid):
            status = process.wait(seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, TimeoutExpired):
            raise GitFailedError(1, f"fatal: timed out after {seconds:.0f} seconds") from None
        raise
    if status:
        raise GitFailedError(status, _end_of(said))


def _limit(pid: int, largest: int) -> None:
    """Set how large a file may get that a process writes, or one that it starts later."""
    import resource

    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, largest))


@contextmanager
def _watched(group: int) -> Iterator[None]:
    """See that a process group does not outlive this process, even when that is killed."""
    import subprocess

    with subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "sh", str(group)],
        env={"PATH": STANDARD_PATH},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    ) as watcher:
        try:
            yield
        finally:
            # Its `cat` with it.
            os.killpg(watcher.pid, signal.SIGKILL)


def _end_of(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _MOST_SAID))
    return file.read().decode("utf-8", "replace")
