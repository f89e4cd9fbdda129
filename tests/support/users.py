"""Code run as plain users: one with subordinate ids, one without; needs root to make them."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

import pytest

from tests.support import lesser

PROJECT = Path(__file__).resolve().parents[2]

# "self" is whoever runs the tests, root or not.
Who = Literal["self", "subids", "single"]
NAMES = {"subids": "imgbuild-test-ids", "single": "imgbuild-test-one"}


@functools.cache
def plain_user(kind: str) -> str:
    """Give the name of a user with ("subids") or without ("single") ranges; made when missing."""
    name = NAMES[kind]
    if os.getuid() != 0:
        pytest.skip("needs root to make test users")
    if shutil.which("useradd") is None or shutil.which("setpriv") is None:
        pytest.skip("needs root with useradd and setpriv")
    if kind == "subids" and shutil.which("newuidmap") is None:
        pytest.skip("needs root with newuidmap (package uidmap)")
    if subprocess.run(["id", name], capture_output=True).returncode != 0:
        subprocess.run(["useradd", "-m", "-s", "/bin/sh", name], check=True)
    if kind == "single":
        for file in (Path("/etc/subuid"), Path("/etc/subgid")):
            _drop_ranges(file, name)
    elif name not in Path("/etc/subuid").read_text():
        pytest.skip("needs root whose useradd fills /etc/subuid")
    return name


def python_as(
    who: Who,
    code: str,
    *args: str | Path,
    timeout: float = 60,
    check: bool = True,
    host: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run Python code as a user, from the project's folder.

    `host` is one of `lesser.HOSTS`; the first of `args` is then the folder of the store.
    """
    command = as_user(who, [interpreter(who), "-c", textwrap.dedent(code), *map(str, args)])
    if host:
        command = lesser.on(host, args[0], command)
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=PROJECT)
    if check and done.returncode != 0:
        raise AssertionError(f"status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


@functools.cache
def played(who: Who, module: str, names: tuple[str, ...]) -> dict[str, str]:
    """Let a user play what `main` of a module calls by names; tell of each what was wrong."""
    code = f"""
        import sys
        from pathlib import Path
        from {module} import main
        main(Path(sys.argv[1]), sys.argv[2:])
    """
    spare = tempfile.TemporaryDirectory(prefix="imgbuild-played-")
    with spare, folder_of(who, Path(spare.name)) as place:
        done = python_as(who, code, place, *names, timeout=300)
    return cast(dict[str, str], json.loads(done.stdout))


def as_user(who: Who, command: list[str]) -> list[str]:
    """Give a command line that runs a command as a user with a clean environment.

    Libraries of the tests' own interpreter can be imported, where the user may read them.
    """
    if who == "self":
        return command
    name = plain_user(who)
    prefix = ["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups", "--"]
    path = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    libraries = f"PYTHONPATH={sysconfig.get_path('purelib')}"
    return [*prefix, "env", "-i", f"HOME={home(who)}", path, libraries, *command]


@functools.cache
def interpreter(who: Who) -> str:
    """Give a Python that a user can run this project with; the tests' own when possible."""
    # Of the same version, since libraries are shared.
    same = f"sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    code = f"import imgbuild.inroot, tests.support.users, sys; {same}"
    for python in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        done = subprocess.run(as_user(who, [python, "-c", code]), capture_output=True, cwd=PROJECT)
        if done.returncode == 0:
            return python
    pytest.skip("not root: a plain user can read no such Python with its libraries")


@contextlib.contextmanager
def folder_of(who: Who, tmp_path: Path) -> Iterator[Path]:
    """Give a folder that a user owns, below their home, as stores are; removed afterwards."""
    if who == "self":
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="test-", dir=home(who)))
    shutil.chown(path, plain_user(who), plain_user(who))
    try:
        yield path
    finally:
        for made in path.parent.glob(f"{path.name}*"):  # by a lesser host, beside it
            shutil.rmtree(made)


@functools.cache
def home(who: Who) -> Path:
    """Give the home of a test user: 0700, as many are."""
    path = Path(os.path.expanduser("~" + plain_user(who)))
    path.chmod(0o700)
    return path


def _drop_ranges(file: Path, name: str) -> None:
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(f"{name}:")]
    if kept != lines:
        file.write_text("".join(kept))
