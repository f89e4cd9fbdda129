"""What several journeys need."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def public() -> Iterator[Path]:
    """A folder that every user can read; pytest's own are for one."""
    folder = Path(tempfile.mkdtemp(prefix="imgbuild-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
