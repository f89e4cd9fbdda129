"""What a user sees when something is wrong: each case's standard error and status are kept as files.

A case is a build context; its file `arguments` has options for the command line.
`pytest tests/cases --regold` writes them anew; read the difference before it is committed.
"""

import re
from pathlib import Path

import pytest

from tests.support.command import PROJECT, imgbuild

CASES = sorted(p for p in (PROJECT / "testdata" / "errors").iterdir() if p.is_dir())

_SECONDS = re.compile(r"\b[0-9]+\.[0-9]s$", re.MULTILINE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_error(case: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    arguments = ["--progress=plain", "."]
    if (case / "arguments").exists():
        arguments += (case / "arguments").read_text().split()
    done = imgbuild(*arguments, cwd=case, store=tmp_path / "store", check=False)
    text = _SECONDS.sub("0.0s", done.stderr.decode().replace(str(case), "CASE"))
    if request.config.getoption("--regold"):
        (case / "stderr").write_text(text)
        (case / "status").write_text(f"{done.returncode}\n")
    assert text == (case / "stderr").read_text()
    assert done.returncode == int((case / "status").read_text())
    assert done.stdout == b""
    blobs = tmp_path / "store" / "blobs" / "sha256"
    assert not list((tmp_path / "store").glob("tmp/files/*")), "something half made was left"
    assert not blobs.exists() or all(p.stat().st_size for p in blobs.iterdir())
