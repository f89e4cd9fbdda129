"""Small languages inside the Dockerfile against what Go's libraries answered."""

from typing import Any

import pytest

from imgbuild.build.ulimits import parse_ulimit
from imgbuild.dockerfile.sizes import parse_size
from imgbuild.errors import DockerfileError
from imgbuild.plan.paths import join_workdir
from imgbuild.plan.signals import check_signal
from tests.vectors import load


@pytest.mark.parametrize("case", load("misc/signals.json"))
def test_signals(case: dict[str, Any]) -> None:
    if case["error"]:
        with pytest.raises(DockerfileError) as caught:
            check_signal(case["input"])
        assert caught.value.message == case["error"]
        return
    check_signal(case["input"])


@pytest.mark.parametrize("case", load("misc/workdir.json"))
def test_working_directories(case: dict[str, Any]) -> None:
    assert join_workdir(case["current"], case["input"]) == case["result"]


@pytest.mark.parametrize("case", load("misc/ram_bytes.json"))
def test_sizes(case: dict[str, Any]) -> None:
    if case["error"]:
        with pytest.raises(ValueError) as caught:
            parse_size(case["input"])
        assert str(caught.value) == case["error"]
        return
    assert parse_size(case["input"]) == case["bytes"]


@pytest.mark.parametrize("case", load("misc/ulimits.json"))
def test_ulimits(case: dict[str, Any]) -> None:
    if case["error"]:
        with pytest.raises(ValueError) as caught:
            parse_ulimit(case["input"])
        assert str(caught.value) == case["error"]
        return
    found = parse_ulimit(case["input"])
    assert {"Name": found.name, "Soft": found.soft, "Hard": found.hard} == case["ulimit"]
