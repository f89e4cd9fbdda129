"""What `imgbuild check` and `--call` print: each case's output and status are kept as files.

A case is a build context; its file `arguments` has the command line. `pytest tests/cases --regold`
writes them anew; read the difference before it is committed.
"""

from pathlib import Path

import pytest

from tests.support.command import PROJECT, imgbuild

CASES = sorted(p for p in (PROJECT / "testdata" / "checks").iterdir() if p.is_dir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_check(case: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    arguments = (case / "arguments").read_text().split()
    done = imgbuild(*arguments, cwd=case, store=tmp_path / "store", check=False)
    found = {
        "stdout": done.stdout.decode(),
        "stderr": done.stderr.decode().replace(str(case), "CASE"),
        "status": f"{done.returncode}\n",
    }
    for name, text in found.items():
        if request.config.getoption("--regold"):
            (case / name).write_text(text)
        assert text == (case / name).read_text()
    assert not list((tmp_path / "store").glob("blobs/sha256/*")), "nothing is built"
