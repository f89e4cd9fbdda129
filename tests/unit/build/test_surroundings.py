"""What doctor says about network, limits and runtimes."""

from pathlib import Path

import pytest

from imgbuild.build import network, surroundings
from imgbuild.sandbox.cgroups import Group
from imgbuild.sandbox.idmap import IdMap
from imgbuild.sandbox.probe import Report
from imgbuild.sandbox.tiers import Tier, TierName

ONE = IdMap("single", ((0, 5, 1),), ((0, 5, 1),), shift=0, count=1)


def programs(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).touch(0o755)
    return str(folder)


def told(search_path: str, tier: TierName = "A") -> Report:
    return surroundings.with_surroundings(Report(Tier(tier, ONE), ()), search_path)


def test_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "neither pasta (package passt) nor slirp4netns" in told(str(tmp_path)).network
    path = programs(tmp_path, "pasta")
    monkeypatch.setattr(network, "_TUN", tmp_path / "absent")
    assert "cannot be opened, which pasta needs" in told(path).network
    monkeypatch.setattr(network, "_TUN", tmp_path / "pasta")
    assert told(path).network == f"one of the build's own, by {path}/pasta"
    assert "no other one in tier D-userns" in told(path, "D-userns").network


@pytest.mark.parametrize(
    ("held", "text"),
    [
        ({"memory", "cpu", "pids"}, "of a command as a whole, by control groups"),
        ({"pids"}, "--memory and --cpus of each process"),
        (None, "of each process by itself: no control group"),
    ],
)
def test_limits(
    held: set[str] | None, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = None if held is None else Group((), frozenset(held))
    monkeypatch.setattr(surroundings, "make_group", lambda _limits: group)
    assert told(str(tmp_path)).limits.startswith(text)


def test_runtimes(tmp_path: Path) -> None:
    assert told(str(tmp_path)).runtimes == ()
    assert told(programs(tmp_path, "runc", "crun")).runtimes == (
        f"{tmp_path}/crun",
        f"{tmp_path}/runc",
    )
