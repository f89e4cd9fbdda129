"""RUN --mount, for root and for plain users."""

import pytest

from tests.rootless.mountplays import PLAYS
from tests.support.users import Who, played

pytestmark = pytest.mark.rootless


@pytest.mark.parametrize("name", PLAYS)
@pytest.mark.parametrize("who", ["self", "subids", "single"])
def test_play(who: Who, name: str) -> None:
    outcome = played(who, "tests.rootless.mountplays", tuple(PLAYS))[name]
    assert not outcome, outcome
