"""Who gets which directory of a cache mount, and who has to wait; the worker is played here."""

import io
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from imgbuild.build.cachemounts import CacheMounts, Sharing, Wanted
from imgbuild.errors import NameNotFoundError, StoreLockedError, UsageError
from imgbuild.events import Event, Notice


class Worker:
    """Does what the worker would do, as this user."""

    def make_directory(self, path: Path, uid: int, gid: int, mode: int) -> None:
        path.mkdir()
        (path / "made").write_text(f"{uid} {gid} {mode:o}")

    def unpack_tar(
        self, target: Path, write_tar: Callable[[Callable[[bytes], object]], object]
    ) -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        with (target / "tar").open("wb") as file:
            write_tar(file.write)

    def move(self, source: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        source.rename(target)

    def pack(self, path: Path, write: Callable[[bytes], object]) -> None:
        write(" ".join(sorted(item.name for item in path.iterdir())).encode())

    def measure(self, paths: Sequence[Path]) -> list[int]:
        return [sum(item.stat().st_size for item in path.rglob("*")) for path in paths]

    def remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            shutil.rmtree(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mounts/single-1"


def mounts(folder: Path, **options: Any) -> CacheMounts:
    return CacheMounts(folder, lambda: cast(Any, Worker()), **options)


def test_equal_names_share_and_others_do_not(folder: Path) -> None:
    caches = mounts(folder)
    with (
        caches.using([Wanted("a", "shared"), Wanted("b", "shared")]) as (a, b),
        mounts(folder).using([Wanted("a", "shared"), Wanted("a", "shared", "seed")]) as (
            again,
            seeded,
        ),
    ):
        assert a == again
        assert len({a, b, seeded}) == 3
        assert (a / "made").read_text() == "0 0 755"
    with caches.using([Wanted("n", "shared", mode=0o700, uid=1, gid=2)]) as (path,):
        assert (path / "made").read_text() == "1 2 700"


@pytest.mark.parametrize(
    ("holds", "wants", "waits"),
    [
        ("shared", "shared", False),
        ("shared", "locked", True),
        ("locked", "locked", True),
        ("locked", "shared", True),
        ("private", "locked", True),
        ("locked", "private", False),
        ("private", "private", False),
        ("shared", "private", False),
    ],
)
def test_who_waits_for_whom(folder: Path, holds: Sharing, wants: Sharing, waits: bool) -> None:
    events: list[Event] = []
    entered, first = threading.Event(), threading.Event()
    paths: list[Path] = []

    def other() -> None:
        with mounts(folder, events=events.append).using([Wanted("a", wants)]) as found:
            paths.extend(found)
            entered.set()
            first.wait(20)

    with mounts(folder).using([Wanted("a", holds)]) as (held,):
        thread = threading.Thread(target=other)
        thread.start()
        if waits:
            deadline = time.monotonic() + 20
            while not events and time.monotonic() < deadline:
                time.sleep(0.01)
            (notice,) = events
            assert isinstance(notice, Notice)
            assert notice.message.startswith("waiting for the cache mount a: process ")
            assert not entered.is_set()
        else:
            assert entered.wait(20)
            assert (paths == [held]) == (holds == wants == "shared")
    assert entered.wait(20)
    if waits:
        assert paths == [held]
    first.set()
    thread.join()


def test_a_private_directory_is_used_again_when_it_is_free(folder: Path) -> None:
    wanted = [Wanted("a", "private")]
    with mounts(folder).using(wanted) as (one,), mounts(folder).using(wanted) as (two,):
        assert one != two
    with mounts(folder).using(wanted) as (again,):
        assert again == one


def test_the_strictest_way_to_share_counts_within_a_step(folder: Path) -> None:
    wanted = [Wanted("a", "shared"), Wanted("a", "locked"), Wanted("a", "private")]
    with mounts(folder).using(wanted) as paths:
        assert len(set(paths)) == 1
        with mounts(folder).using([Wanted("a", "private")]) as (other,):
            assert other not in paths


def test_without_cache_a_build_begins_anew_once(folder: Path) -> None:
    wanted = [Wanted("a", "shared")]
    with mounts(folder).using(wanted) as (old,):
        fresh = mounts(folder, fresh=True)
        with fresh.using(wanted) as (new,):
            assert new != old
            assert old.is_dir()  # it is in use
        with fresh.using(wanted) as (again,):
            assert again == new
    with mounts(folder).using(wanted) as (later,):
        assert later == new
    with mounts(folder, fresh=True).using(wanted):
        assert not old.exists()
        assert not new.exists()


def test_a_seed_fills_a_new_directory_alone(folder: Path) -> None:
    def fill(write: Callable[[bytes], object]) -> None:
        write(b"seed")

    for _ in range(2):
        with mounts(folder).using([Wanted("a", "shared", "digest", fill)]) as (path,):
            assert (path / "tar").read_bytes() in {b"seed", b"changed"}
            (path / "tar").write_bytes(b"changed")
    assert (path / "tar").read_bytes() == b"changed"


def test_what_is_listed_exported_imported_and_removed(folder: Path) -> None:
    caches = mounts(folder)
    assert caches.list() == []
    with caches.using([Wanted("b", "shared"), Wanted("a", "private")]):
        assert [(one.id, one.in_use) for one in caches.list()] == [("a", True), ("b", True)]
        for act in (
            lambda: caches.remove(["b"]),
            caches.remove_all,
            lambda: caches.export("a", io.BytesIO()),
        ):
            with pytest.raises(StoreLockedError, match="is in use by process"):
                act()
    listed = caches.list()
    assert [(one.id, one.in_use, one.size > 0) for one in listed] == [
        ("a", False, True),
        ("b", False, True),
    ]
    out = io.BytesIO()
    caches.export("a", out)
    assert out.getvalue() == b"made"
    caches.import_("a", io.BytesIO(b"archive"))
    with caches.using([Wanted("a", "shared")]) as (path,):
        assert (path / "tar").read_bytes() == b"archive"
        with pytest.raises(StoreLockedError):
            caches.import_("a", io.BytesIO(b"other"))
    caches.import_("new", io.BytesIO(b"archive"))
    caches.remove(["a", "new"])
    assert [one.id for one in caches.list()] == ["b"]
    for act in (lambda: caches.remove(["b", "a"]), lambda: caches.export("a", out)):
        with pytest.raises(NameNotFoundError, match="no such cache mount: a"):
            act()
    assert [one.id for one in caches.list()] == ["b"]
    caches.remove_all()
    assert list(folder.iterdir()) == []


def test_a_file_is_exported_whole_or_not_at_all(folder: Path, tmp_path: Path) -> None:
    caches = mounts(folder)
    with caches.using([Wanted("a", "shared")]):
        pass
    caches.export_to("a", tmp_path / "out.tar")
    assert (tmp_path / "out.tar").read_bytes() == b"made"
    with pytest.raises(NameNotFoundError):
        caches.export_to("b", tmp_path / "b.tar")
    with pytest.raises(UsageError, match="cannot write"):
        caches.export_to("a", tmp_path / "absent/out.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mounts", "out.tar"]
    with pytest.raises(UsageError):
        caches.import_("", io.BytesIO())


def test_what_is_removed_while_another_waits_is_made_again(folder: Path) -> None:
    caches, done = mounts(folder), threading.Event()
    wanted = [Wanted("a", "locked")]

    def other() -> None:
        with mounts(folder).using(wanted) as (path,):
            assert (path / "made").exists()
        done.set()

    with caches.using(wanted) as (path,):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.1)
        shutil.rmtree(path.parent)
    thread.join(20)
    assert done.is_set()
