"""Unpacked layers and workspaces: shared, interrupted, damaged."""

import inspect
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.rootless import scenes
from tests.support.users import PROJECT, Who, as_user, folder_of, interpreter, python_as

pytestmark = pytest.mark.rootless

_RUN = """
import json, sys
from pathlib import Path
from tests.rootless import scenes
json.dump(getattr(scenes, sys.argv[1])(Path(sys.argv[2])), sys.stdout)
"""


@pytest.fixture(params=["self", "subids", "single"])
def who(request: pytest.FixtureRequest) -> Who:
    return cast(Who, request.param)


@pytest.fixture
def folder(who: Who, tmp_path: Path) -> Iterator[Path]:
    with folder_of(who, tmp_path) as path:
        yield path


def play(who: Who, scene: Callable[[Path], Any], folder: Path) -> Any:
    """Play a scene in a process of a user."""
    return json.loads(python_as(who, _RUN, scene.__name__, folder).stdout)


def test_every_scene_is_played() -> None:
    source = Path(__file__).read_text()
    for name, function in inspect.getmembers(scenes, inspect.isfunction):
        if function.__module__ == scenes.__name__ and not name.startswith("_"):
            assert f"scenes.{name}" in source, name


def test_nothing_is_started_without_need(who: Who, folder: Path) -> None:
    assert play(who, scenes.nothing_to_do, folder) == {"started": False, "left": []}


def test_a_layer_is_unpacked_once(who: Who, folder: Path) -> None:
    result = play(who, scenes.twice, folder)
    assert result["opened"] == 3
    assert result["same"]


def test_layers_side_by_side_still_know_what_is_below(who: Who, folder: Path) -> None:
    result = play(who, scenes.depending_layers, folder)
    assert result["linked"] == "content"
    assert result["mode of a directory that the layer left out"] == 0o1777
    assert result["seen by a command"] == "content\ncontent\n"


@pytest.mark.parametrize("how", ["cut short", "not a tar", "wrong at its end", "disk error"])
def test_a_bad_layer_leaves_nothing(who: Who, folder: Path, how: str) -> None:
    result = play(who, scenes.bad_layers, folder)[how]
    assert result["error"] in {"ImageError", "DigestMismatchError", "OSError"}
    assert result["message"]
    assert result["trees"] == []
    assert result["again"], "a good layer of the same name must unpack afterwards"


def test_the_error_is_of_the_layer_that_is_bad(who: Who, folder: Path) -> None:
    assert "damaged" in play(who, scenes.bad_layer_below, folder)


def test_one_layer_may_occur_twice(who: Who, folder: Path) -> None:
    assert play(who, scenes.layer_twice, folder) == "top\n"


def test_an_image_without_layers(who: Who, folder: Path) -> None:
    assert play(who, scenes.no_layers, folder) == {"entries": [], "status": 127}


def test_a_kept_upper_directory_is_the_layer(who: Who, folder: Path) -> None:
    result = play(who, scenes.keep, folder)
    assert result["opened after keeping"] == []
    assert result["seen"] == "kept\n"
    assert result["times"] == [1_000_000_000]


def test_a_name_that_no_layer_can_hold_is_told(who: Who, folder: Path) -> None:
    assert "/work/.wh.a" in play(who, scenes.reserved_name, folder)


def test_what_a_command_left_can_be_opened(who: Who, folder: Path) -> None:
    result = play(who, scenes.open_files, folder)
    assert result["file"] == "new"
    assert result["link out of the root"] == "inside"
    assert result["refused"] == ["ImageError"] * 3


def test_many_steps_leave_nothing(who: Who, folder: Path) -> None:
    result = play(who, scenes.many_steps, folder)
    assert result["uppers"] == 20
    assert result["steps left"] == []
    assert result["mounts"] <= 0  # less when others unmount meanwhile


def test_trees_can_be_removed(who: Who, folder: Path) -> None:
    assert play(who, scenes.remove, folder) == []


def test_a_stale_tree_is_made_again(who: Who, folder: Path) -> None:
    assert play(who, scenes.stale, folder) == {"opened": 1, "content": "content of a", "left": 0}


def test_two_builds_make_one_tree(who: Who, folder: Path) -> None:
    command = as_user(who, [interpreter(who), "-c", _RUN, "contend", str(folder)])
    builds = [subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) for _ in range(3)]
    opened = []
    for build in builds:
        out, _ = build.communicate(timeout=60)
        assert build.returncode == 0
        opened.append(json.loads(out))
    assert sum(opened) == 1


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int(
                (process / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.parametrize("moment", ["unpacking", "running", "changing"])
def test_kill_9_leaves_no_process_and_no_half_tree(who: Who, folder: Path, moment: str) -> None:
    command = as_user(who, [interpreter(who), "-c", _RUN, f"stall_{moment}", str(folder)])
    build = subprocess.Popen(command, cwd=PROJECT)
    try:
        deadline = time.monotonic() + 30
        while not (folder / "stalled").exists():
            assert build.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        family = _descendants(build.pid)
        assert len(family) >= 2
    finally:
        build.send_signal(signal.SIGKILL)
        build.wait()
    deadline = time.monotonic() + 1
    while any(map(_is_alive, family)):
        assert time.monotonic() < deadline, "processes outlive the build"
        time.sleep(0.01)
    result = play(who, scenes.after_a_kill, folder)
    assert result == {"steps left": [], "unfinished": [], "seen": "content of a"}


# Named here for test_every_scene_is_played: played by name above.
_STALLS = (scenes.stall_unpacking, scenes.stall_running, scenes.stall_changing, scenes.contend)
