"""Limits, capabilities, devices and networks of commands hold, for root and for plain users."""

import functools
import json
import tempfile
from pathlib import Path
from typing import cast

import pytest

from tests.rootless.grants import GRANTS
from tests.support.users import Who, folder_of, python_as

pytestmark = pytest.mark.rootless


@functools.cache
def _results(who: Who) -> dict[str, str]:
    code = """
        import sys
        from pathlib import Path
        from tests.rootless import grants
        grants.main(Path(sys.argv[1]), sys.argv[2:])
    """
    with (
        tempfile.TemporaryDirectory(prefix="imgbuild-grants-") as spare,
        folder_of(who, Path(spare)) as place,
    ):
        done = python_as(who, code, place, *GRANTS, timeout=300)
        return cast(dict[str, str], json.loads(done.stdout))


@pytest.mark.parametrize("name", GRANTS)
@pytest.mark.parametrize("who", ["self", "subids", "single"])
def test_grant(who: Who, name: str) -> None:
    outcome = _results(who)[name]
    assert not outcome, outcome
