import os
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgbuild.layer import spool
from imgbuild.layer.entry import Entry, sort_key
from imgbuild.layer.sortedindex import SortedIndex
from imgbuild.layer.spool import EntrySpool

NAMES = st.sampled_from([b"", b"a", b"a/b", b"a-b", b"c/d/e", b"c", b"c/f", b"\xff", b'q"\n'])


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_HELD", 3)
    monkeypatch.setattr(spool, "_CHUNK", 2)


def entries(found: list[Entry] | SortedIndex) -> list[Entry]:
    if isinstance(found, list):
        return found
    with closing(found):
        return list(found.entries())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(NAMES, st.sampled_from(["dir", "file"])), max_size=12))
def test_entries_come_sorted_or_in_their_order(
    tmp_path: Path, rows: list[tuple[bytes, str]]
) -> None:
    # The root is a directory in every archive that is read.
    rows = [(path, kind if path else "dir") for path, kind in rows]
    given_ = [Entry(path, kind, mtime=n) for n, (path, kind) in enumerate(rows)]  # type: ignore[arg-type]
    with closing(EntrySpool(tmp_path)) as collected:
        for entry in given_:
            collected.add(entry)
        assert len(collected) == len(given_)
        found = collected.finish()
    paths = [path for path, _ in rows]
    leaves = [path for path, kind in rows if kind == "file"]
    plain = len(set(paths)) == len(paths) and not any(
        path != leaf and path.startswith(leaf + b"/") for leaf in leaves for path in paths
    )
    assert isinstance(found, SortedIndex) is (plain and len(given_) >= 3)
    in_order = sorted(given_, key=lambda e: sort_key(e.path))
    assert entries(found) == (in_order if isinstance(found, SortedIndex) else given_)


def test_nothing_is_left(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with closing(EntrySpool(tmp_path)) as collected:
        for n in range(10):
            collected.add(Entry(b"%d" % n, "file"))
        entries(collected.finish())
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)
