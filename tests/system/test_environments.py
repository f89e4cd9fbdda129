"""RUN in simulated containers of docker, podman and Kubernetes, and on laptops.

A representative part runs by default; `--all-environments` runs every row with apt.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import validate
from tests.system.environments import ENVIRONMENTS, GUESSED, PYTHON, SMALL, Environment, owners
from tests.system.journeys import Outcome, Yard, build_here, build_inside, yard

pytestmark = [pytest.mark.rootless, pytest.mark.system, pytest.mark.online]

_BASE_LAYERS = 1
_SANDBOX_ERROR = 5
# Where the usual rows install Python with apt instead of the small build: one with namespaces,
# one with one id.
_WITH_APT = {"podman default, root", "Kubernetes no seccomp, user, no_new_privs, drop ALL"}
_NUMBERED = [
    pytest.param(number, row, id=row.name.replace(" ", "-"))
    for number, row in enumerate(ENVIRONMENTS)
]


@pytest.fixture(scope="module")
def ground() -> Iterator[Yard]:
    place = Path(tempfile.mkdtemp(prefix="imgbuild-test-"))
    place.chmod(0o755)
    try:
        with yard(place) as made:
            yield made
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def expected(ground: Yard) -> dict[str, dict[str, object]]:
    """Owners and modes in the layers of each Dockerfile, as a build on this machine makes them."""
    return {
        dockerfile: dict(owners(ground.fetched(build_here(ground, dockerfile)), _BASE_LAYERS))
        for dockerfile in (SMALL, PYTHON)
    }


@pytest.mark.parametrize(("number", "environment"), _NUMBERED)
def test_an_image_is_built_and_pushed(
    number: int,
    environment: Environment,
    ground: Yard,
    expected: dict[str, dict[str, object]],
    request: pytest.FixtureRequest,
) -> None:
    everything = bool(request.config.getoption("--all-environments"))
    if not (everything or environment.usual):
        pytest.skip("needs --all-environments")
    dockerfile = PYTHON if everything or environment.name in _WITH_APT else SMALL
    outcome = build_inside(environment, ground, dockerfile, number)
    if environment.tier is None:
        _check_refusal(outcome)
        return
    assert outcome.status == 0, outcome.said
    assert outcome.tier == environment.tier, outcome.said
    layout = ground.fetched(outcome.image)
    assert validate.image(layout) == []
    found, wanted = owners(layout, _BASE_LAYERS), expected[dockerfile]
    wrong = {name for name in {*found, *wanted} if found.get(name) != wanted.get(name)}
    assert wrong <= GUESSED.get(environment.tier, frozenset())


def _check_refusal(outcome: Outcome) -> None:
    """See that nothing was made up: an error with its own status that says what to change."""
    assert outcome.status == _SANDBOX_ERROR, outcome.said
    assert outcome.tier is None
    assert "--security-opt seccomp=unconfined" in outcome.said
    assert "Traceback" not in outcome.said
