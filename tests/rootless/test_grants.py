"""Limits, capabilities, devices and networks of commands hold, for root and for plain users."""

import pytest

from tests.rootless.grants import GRANTS
from tests.support.users import Who, played

pytestmark = pytest.mark.rootless


@pytest.mark.parametrize("name", GRANTS)
@pytest.mark.parametrize("who", ["self", "subids", "single"])
def test_grant(who: Who, name: str) -> None:
    outcome = played(who, "tests.rootless.grants", tuple(GRANTS))[name]
    assert not outcome, outcome
