"""How two states of a tree differ, told without reading a file."""

import io
import os
import tracemalloc
from pathlib import Path

import pytest

from imgbuild.layer.entry import sort_key
from imgbuild.snapshot import scan

OLD = 1_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("d/e/x", "d/y", "a", "a.b", "dev/null", "proc/self/x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    return tmp_path


class State:
    """What was recorded of a tree."""

    def __init__(self, root: Path) -> None:
        self._file = io.BytesIO()
        self._root = os.open(root, os.O_RDONLY)
        scan.record(self._root, self._file)

    def changes(self) -> dict[str, str]:
        self._file.seek(0)
        out = io.BytesIO()
        found = scan.compare(scan.recorded(self._file), scan.walk(self._root))
        touched = scan.write_changes(found, out)
        out.seek(0)
        listed = list(scan.read_changes(out))
        keys = [sort_key(change.path) for change in listed]
        assert keys == sorted(keys)
        assert touched == sum(change.kind == "touched" for change in listed)
        os.close(self._root)
        return {change.path.decode(): change.kind for change in listed}


def test_names_come_in_the_order_of_layers_without_what_is_not_the_images(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    assert [path for path, _ in scan.walk(fd)] == [b"a", b"a.b", b"d", b"d/e", b"d/e/x", b"d/y"]
    os.close(fd)


def test_nothing_changed(root: Path) -> None:
    state = State(root)
    (root / "dev/null").unlink()
    assert state.changes() == {}


def test_what_is_new_changed_and_gone(root: Path) -> None:
    state = State(root)
    (root / "n/m").mkdir(parents=True)
    (root / "a").write_bytes(b"other")
    (root / "d/e/x").unlink()
    (root / "d/e").rmdir()
    assert state.changes() == {
        "a": "changed",
        "d": "changed",
        "d/e": "gone",
        "n": "new",
        "n/m": "new",
    }


def test_a_directory_that_becomes_something_else_takes_all_along(root: Path) -> None:
    state = State(root)
    for name in ("d/e/x", "d/y"):
        (root / name).unlink()
    (root / "d/e").rmdir()
    (root / "d").rmdir()
    (root / "d").write_bytes(b"")
    assert state.changes() == {"d": "changed"}


def test_what_looks_the_same_was_touched(root: Path) -> None:
    os.utime(root / "a", ns=(OLD, OLD))
    state = State(root)
    (root / "a").write_bytes(b"CONTENT")  # as long as before
    os.utime(root / "a", ns=(OLD, OLD))
    (root / "d").chmod((root / "d").stat().st_mode)
    assert state.changes() == {"a": "touched", "d": "touched"}


def test_a_change_at_once_is_seen(root: Path) -> None:
    """Times of files come from a coarse clock: the record waits for its next tick."""
    for number in range(20):
        path = root / f"f{number}"
        path.write_bytes(b"before")
        times = path.stat()
        state = State(root)
        path.write_bytes(b"AFTER!")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert state.changes() == {path.name: "touched"}


def test_further_names_are_told_by_their_inode(root: Path) -> None:
    state = State(root)
    os.link(root / "a", root / "l")
    found = scan.compare(iter(()), scan.walk(os.open(root, os.O_RDONLY)))
    linked = {change.path for change in found if change.ino}
    assert linked == {b"a", b"l"}
    assert state.changes() == {"a": "touched", "l": "new"}


def test_memory_stays_small_for_many_files(tmp_path: Path) -> None:
    for folder in range(40):
        (tmp_path / str(folder)).mkdir()
        for number in range(250):
            (tmp_path / str(folder) / str(number)).touch()
    tracemalloc.start()
    state = State(tmp_path)
    state._file = io.BytesIO(state._file.getvalue())
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    assert state.changes() == {}
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 1 << 20, "one directory at a time, not ten thousand files"


def test_paths_may_be_longer_than_any_name_of_one() -> None:
    path = b"/".join([b"d" * 250] * 400)
    out = io.BytesIO()
    assert scan.write_changes(iter([scan.Change("new", path, 7, fresh=True)]), out) == 0
    out.seek(0)
    assert list(scan.read_changes(out)) == [scan.Change("new", path, 7, fresh=True)]
