"""Control groups on a hierarchy of plain files: what is written where, and what is left."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbuild.sandbox.cgroups import Group, Limits, make_group

ALL = Limits(memory=1 << 20, cpus=1.5, pids=10)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc of this process, without any hierarchy; groups have the files that kernels give."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self/stat").write_text(f"{os.getpid()} (a b) c)" + " 7" * 30)
    (proc / str(os.getpid())).symlink_to("self")
    mkdir = Path.mkdir

    def made(path: Path, *args: int) -> None:
        mkdir(path, *args)
        if path.name.startswith("imgbuild-"):
            (path / "cgroup.procs").touch()

    monkeypatch.setattr(Path, "mkdir", made)
    rmdir = Path.rmdir

    def removed(path: Path) -> None:
        for file in path.iterdir():
            file.unlink()
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", removed)
    return proc


def unified(proc: Path, own: str, **controllers: str) -> Path:
    """Mount a v2 hierarchy; `controllers` are those for the children of some folders ("top")."""
    top = proc.parent / "cgroup"
    folder = top / own.strip("/")
    os.makedirs(folder)
    for path in (folder, *folder.parents):
        (path / "cgroup.procs").touch()
        given = controllers.get("top" if path == top else path.name, "")
        (path / "cgroup.subtree_control").write_text(given)
        if path == top:
            break
    (proc / "self/cgroup").write_text(f"0::{own}\n")
    (proc / "self/mountinfo").write_text(
        f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / {top} rw shared:1 - cgroup2 none rw\n"
    )
    return top


def groups_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.startswith("imgbuild-"))


def made(limits: Limits, proc: Path) -> Group:
    group = make_group(limits, proc=proc)
    assert group is not None
    return group


def test_a_group_is_made_beside_the_own_one(proc: Path) -> None:
    top = unified(proc, "/user/app/own", app="cpu memory pids", user="cpu memory pids")
    group = made(ALL, proc)
    (path,) = groups_in(top / "user/app")
    assert group.controllers == {"memory", "cpu", "pids"}
    written = {file.name: file.read_text() for file in path.iterdir()}
    assert written == {
        "cgroup.procs": "",
        "memory.max": "1048576",
        "cpu.max": "150000 100000",
        "pids.max": "11",
    }
    with group:
        ((name, fd),) = group.lend().items()
        assert name == "cgroup:0"
        assert os.path.samestat(os.fstat(fd), (path / "cgroup.procs").stat())
        assert not group.ran_out_of_memory
        (path / "memory.events").write_text("oom 3\noom_kill 1\noom_group_kill 1\n")
        assert group.ran_out_of_memory
    assert groups_in(top / "user/app") == []


def test_the_own_group_is_no_place_unless_it_is_the_root(proc: Path) -> None:
    unified(proc, "/own")
    assert make_group(ALL, proc=proc) is None


def test_the_root_of_all_may_have_processes_and_children(proc: Path) -> None:
    top = unified(proc, "/", top="memory")
    group = made(Limits(memory=1 << 20), proc)
    assert len(groups_in(top)) == 1
    group.close()
    assert groups_in(top) == []


def test_the_nearest_group_with_most_controllers_is_taken(proc: Path) -> None:
    top = unified(proc, "/user/app/own", app="pids", user="memory pids", top="memory pids")
    group = made(ALL, proc)
    assert group.controllers == {"memory", "pids"}
    assert len(groups_in(top / "user")) == 1
    group.close()


def test_a_container_sees_a_part_of_the_hierarchy(proc: Path) -> None:
    top = unified(proc, "/box/own", box="pids")
    (proc / "self/mountinfo").write_text(f"2 1 0:9 /box {top}/box rw - cgroup2 none rw\n")
    made(Limits(pids=1), proc).close()
    # Our own group is not below what is mounted.
    (proc / "self/mountinfo").write_text(f"2 1 0:9 /other {top}/box rw - cgroup2 none rw\n")
    assert make_group(Limits(pids=1), proc=proc) is None


def test_older_hierarchies_are_one_for_each_controller(proc: Path) -> None:
    lines = []
    for name in ("memory", "cpu,cpuacct", "pids"):
        folder = proc.parent / name / "own"
        os.makedirs(folder)
        lines.append(f"3 1 0:9 / {folder.parent} rw - cgroup cgroup rw,{name}\n")
    (proc / "self/mountinfo").write_text("".join(lines))
    (proc / "self/cgroup").write_text("4:memory:/own\n3:cpu,cpuacct:/own\n2:pids:/own\n0::/x\n")
    group = made(ALL, proc)
    assert group.controllers == {"memory", "cpu", "pids"}
    assert sorted(group.lend()) == ["cgroup:0", "cgroup:1", "cgroup:2"]
    (memory,) = groups_in(proc.parent / "memory/own")
    assert (memory / "memory.limit_in_bytes").read_text() == "1048576"
    (cpu,) = groups_in(proc.parent / "cpu,cpuacct/own")
    assert (cpu / "cpu.cfs_quota_us").read_text() == "150000"
    group.close()
    assert groups_in(proc.parent / "pids/own") == []


def _refuse(folder: Path) -> None:
    (folder / "cgroup.procs").unlink()


def _no_hierarchy(folder: Path) -> None:
    for name in ("cgroup", "mountinfo"):
        (folder.parents[1] / "proc/self" / name).unlink()


@pytest.mark.parametrize("spoil", [_refuse, _no_hierarchy])
def test_what_is_not_ours_is_no_place(proc: Path, spoil: Callable[[Path], None]) -> None:
    top = unified(proc, "/app/own", app="memory cpu pids")
    spoil(top / "app")
    assert make_group(ALL, proc=proc) is None


def test_what_killed_builds_left_is_removed(proc: Path) -> None:
    top = unified(proc, "/app/own", app="pids")
    for name in (
        f"imgbuild-{os.getpid()}-7-old",
        f"imgbuild-{os.getpid()}-8-1",
        "imgbuild-999-1-1",
    ):
        (top / "app" / name).mkdir()
    (top / "app/other").mkdir()
    with made(Limits(pids=1), proc):
        left = {path.name.rpartition("-")[0] for path in groups_in(top / "app")}
        assert left == {f"imgbuild-{os.getpid()}-7"}
        assert len(groups_in(top / "app")) == 2
    assert (top / "app/other").exists()
