"""A root that is a directory gives the layers that overlays give, and is what they unpack to."""

import json
import os
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.rootless.test_changes import CASES, random_script
from tests.support.users import Who, folder_of, python_as

pytestmark = pytest.mark.rootless

_RUN = """
import json, sys
from pathlib import Path
from tests.rootless.copies import compare
json.dump(compare(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])), sys.stdout)
"""
_WAYS = [("self", "D"), ("subids", "D-userns"), ("single", "D-userns")]
# Overlays break a hard link of a lower layer when one of its names is written to.
_HARD_LINKS = {"one name of a base hard link"}
_REMOVED = "removed files that are not the image's"
_SCRIPTS = {name: f"cd /work; {script}" for name, (script, _) in CASES.items()} | {
    "everywhere": "chmod -R u+r /work /etc /tmp 2>/dev/null || :",
    "same content": "cp -p work/a n; mv n work/a; cat work/d/x > n; touch -r work/d/x n; rm n",
    "other content with the old time": (
        "cp -p work/a t; printf 'XXXXXXX of a' > work/a; touch -r t work/a; rm t"
    ),
    "files that are not the image's": "echo x > /dev/n || :; rm -rf /dev/shm 2>/dev/null || :",
    _REMOVED: "rm -f /etc/resolv.conf 2>/dev/null || :",
    "beside files that are not the image's": "echo x > /etc/n",
}


@pytest.fixture(scope="module", params=_WAYS, ids=" ".join)
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    who, isolation = cast(tuple[Who, str], request.param)
    if isolation == "D" and os.geteuid() != 0:
        pytest.skip("cannot apply: tier D is for root")
    scripts = _SCRIPTS | {f"random {n}": random_script(n) for n in range(12)}
    with folder_of(who, tmp_path_factory.mktemp("copies")) as place:
        done = python_as(who, _RUN, place, isolation, json.dumps(scripts), timeout=300)
        yield json.loads(done.stdout)


@pytest.mark.parametrize("name", sorted(set(_SCRIPTS) - _HARD_LINKS - {_REMOVED}))
def test_layers_are_those_of_overlays(results: dict[str, Any], name: str) -> None:
    _check(results[name])


@pytest.mark.parametrize("seed", range(12))
def test_many_changes(results: dict[str, Any], seed: int) -> None:
    result = results[f"random {seed}"]
    assert result["kept"] == []
    assert result["steady"]


@pytest.mark.parametrize("name", sorted(_HARD_LINKS))
def test_hard_links_of_lower_layers_stay_together(results: dict[str, Any], name: str) -> None:
    told = [entry[:2] for entry in results[name]["entries"]]
    assert told == [["dir", "work"], ["file", "work/b"], ["hardlink", "work/hard"]]
    assert results[name]["kept"] == []


def test_what_only_a_mount_protects_stays_out(results: dict[str, Any]) -> None:
    assert [entry[:2] for entry in results[_REMOVED]["entries"]] in ([], [["dir", "etc"]])
    assert results[_REMOVED]["kept"] == []


def _check(result: dict[str, Any]) -> None:
    assert result["entries"] == result["expected"]
    assert result["same"]
    assert result["kept"] == []
    assert result["steady"]
