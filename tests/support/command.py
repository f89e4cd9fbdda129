"""Run the command line in a process of its own, as a user would."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from tests.support import users

PROJECT = Path(__file__).resolve().parents[2]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the process environment with the project importable, warnings as errors."""
    return {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "error", **(extra or {})}


def imgbuild(
    *arguments: str | Path,
    store: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    check: bool = True,
    timeout: float = 300,
) -> subprocess.CompletedProcess[bytes]:
    """Run `imgbuild` with `arguments`; with `check`, a status other than 0 fails with its output."""
    extra = dict(env or {})
    if store is not None:
        extra["IMGBUILD_STORE"] = str(store)
    done = subprocess.run(
        [sys.executable, "-m", "imgbuild", *map(str, arguments)],
        capture_output=True,
        cwd=cwd,
        env=environment(extra),
        input=stdin,
        timeout=timeout,
    )
    if check and done.returncode:
        raise AssertionError(
            f"imgbuild {' '.join(map(str, arguments))}: status {done.returncode}\n"
            f"{done.stdout.decode(errors='replace')}{done.stderr.decode(errors='replace')}"
        )
    return done


def imgbuild_as(
    who: users.Who,
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
) -> subprocess.CompletedProcess[bytes]:
    """Run `imgbuild` as a test user, whose store is at its default place; skip where that cannot be."""
    packages = Path(click.__file__).parents[1]
    variables = {"PYTHONPATH": f"{PROJECT}:{packages}", "LANG": "C.UTF-8", **(env or {})}
    words = ["env", *(f"{name}={value}" for name, value in variables.items())]
    words += [users.interpreter(who), "-m", "imgbuild"]
    probe = subprocess.run(users.as_user(who, [*words, "--version"]), capture_output=True)
    if probe.returncode:
        pytest.skip(f"not root: {who} cannot load the project: {probe.stderr.decode()[-200:]}")
    command = users.as_user(who, [*words, *map(str, arguments)])
    return subprocess.run(command, capture_output=True, timeout=timeout, cwd="/")
