"""The supervisor of a command: what it records, and what hostile commands cannot do to it."""

import json
from pathlib import Path
from typing import cast

import pytest

from tests.rootless.supervised import SCENARIOS
from tests.support.users import folder_of, python_as

pytestmark = pytest.mark.rootless


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    code = """
        import sys
        from pathlib import Path
        from tests.rootless import supervised
        supervised.main(Path(sys.argv[1]))
    """
    with folder_of("single", tmp_path_factory.mktemp("supervised")) as place:
        done = python_as("single", code, place, timeout=300)
        return cast(dict[str, str], json.loads(done.stdout))


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(results: dict[str, str], name: str) -> None:
    outcome = results[name]
    assert not outcome, outcome


def test_a_memory_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    code = """
        import os
        from imgbuild.sandbox.child import syscalls, tracees
        from imgbuild.sandbox.child.failure import Failed

        def refuse(*_):
            raise PermissionError(1, "not permitted")

        processes = tracees.Processes()
        if {by_file}:
            processes.open = refuse
        syscalls.call = refuse
        processes.use()
        try:
            processes.check(os.getpid())
            assert processes.read(os.getpid(), processes._address, 1) == bytes(1)
            print("read")
        except Failed as failed:
            print(failed.to_json())
    """
    told = python_as("self", code.replace("{by_file}", "1")).stdout
    assert "supervise" in told
    assert "memory cannot be read" in told
    assert python_as("self", code.replace("{by_file}", "0")).stdout == "read\n"
