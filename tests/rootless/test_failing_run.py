"""What a user sees when a command of a RUN fails."""

import re
from pathlib import Path

import pytest

from tests.support.command import imgbuild

pytestmark = pytest.mark.rootless

_DOCKERFILE = """\
FROM base
COPY f /f
RUN cat /f && cat /missing
RUN ls
"""
_SHOWN = """\
Dockerfile:3
--------------------
   1 |     FROM base
   2 |     COPY f /f
   3 | >>> RUN cat /f && cat /missing
   4 |     RUN ls
--------------------
error: process "/bin/sh -c cat /f && cat /missing" did not complete successfully: exit code: 1
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "f").write_text("first\n")
    (tmp_path / "Dockerfile").write_text(_DOCKERFILE)
    return tmp_path


def failed(context: Path, *flags: str) -> str:
    base = ("--build-context", "base=host://sh,cat,ls")
    done = imgbuild(*flags, *base, context, store=context / "store", check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    return done.stderr.decode()


def test_output_is_shown_as_it_comes_and_not_again(context: Path) -> None:
    text = re.sub(
        r"[0-9]+\.[0-9]+( |s$)", r"N\1", failed(context, "--progress=plain"), flags=re.MULTILINE
    )
    before, _, after = text.partition("Dockerfile:3\n")
    assert "Dockerfile:3\n" + after == _SHOWN
    steps = [line for line in before.splitlines() if line.startswith("#3 ")]
    assert steps[0] == "#3 [3/4] RUN cat /f && cat /missing"
    assert steps[-1] == "#3 ERROR Ns"
    assert "#3 N first" in steps
    assert any("/missing" in line for line in steps[2:-1])
    assert not any(line.startswith("#4 ") for line in before.splitlines())


def test_without_progress_the_last_output_is_shown(context: Path) -> None:
    text = failed(context, "--quiet")
    assert text.startswith("last output:\n  first\n  ")
    assert text.endswith(_SHOWN)
