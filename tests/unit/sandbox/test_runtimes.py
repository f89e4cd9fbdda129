"""Which OCI runtimes are tried."""

from pathlib import Path

import pytest

from imgbuild.errors import SandboxError
from imgbuild.sandbox.runtimes import find_runtimes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, mode in (("crun", 0o644), ("runc", 0o755), ("runsc", 0o755), ("mine", 0o755)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    return tmp_path


def test_all_known_ones_that_can_be_executed(folder: Path) -> None:
    assert find_runtimes(None, f"relative:{folder}") == (f"{folder}/runc", f"{folder}/runsc")


def test_one_by_its_name_or_path(folder: Path) -> None:
    assert find_runtimes("mine", str(folder)) == (f"{folder}/mine",)
    assert find_runtimes(f"{folder}/mine", "") == (f"{folder}/mine",)


@pytest.mark.parametrize("named", [None, "crun", "/absent/crun"])
def test_none_is_an_error_that_says_what_to_do(tmp_path: Path, named: str | None) -> None:
    with pytest.raises(SandboxError) as caught:
        find_runtimes(named, str(tmp_path))
    assert "no OCI runtime" in caught.value.message
    assert (named or "crun") in caught.value.message
    assert "--runtime" in (caught.value.hint or "")
