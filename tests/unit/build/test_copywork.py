"""How often COPY looks at files: as seldom as what is known of them allows."""

import os
import time
from pathlib import Path

import pytest

from imgbuild.build.filereader import CONTENT, HASH, Fact, TreeReader, Wanted
from imgbuild.errors import ContextError
from imgbuild.events import Event, StepFinished
from imgbuild.store.cache import StepCache
from imgbuild.store.store import Store
from tests.unit.build.building import build, content, members, names

COPY = "FROM scratch\nCOPY . /d/\n"


class Reads:
    """Which files were read for their digests, and which for their content."""

    def __init__(self) -> None:
        self.hashed: list[bytes] = []
        self.contents: list[bytes] = []

    def take(self) -> tuple[list[bytes], list[bytes]]:
        """Return both lists since the last time."""
        out = self.hashed, self.contents
        self.hashed, self.contents = [], []
        return out


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    seen = Reads()
    real = TreeReader.read

    def noted(self: TreeReader, wanted: Wanted, flags: int) -> tuple[Fact, bytes]:
        if flags & HASH:
            seen.hashed.append(wanted[0])
        if flags & CONTENT:
            seen.contents.append(wanted[0])
        return real(self, wanted, flags)

    monkeypatch.setattr(TreeReader, "read", noted)
    return seen


@pytest.fixture
def files(context: Path) -> Path:
    for name in ("a", "b", "c/d"):
        path = context / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    time.sleep(0.06)  # what changed just now is not remembered
    return context


def verdict(store: Store, context: Path, text: str = COPY) -> str:
    events: list[Event] = []
    build(store, context, text, events=events.append)
    return [event.verdict for event in events if isinstance(event, StepFinished)][-1]


ALL = [b"a", b"b", b"c/d"]


def test_the_first_copy_reads_each_file_once(store: Store, files: Path, reads: Reads) -> None:
    assert verdict(store, files) == "done"
    assert reads.take() == (ALL, ALL)


def test_an_unchanged_tree_is_known_by_its_listing(
    store: Store, files: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict(store, files)  # remembers the files
    (files / "a").write_text("changed")
    time.sleep(2.1)  # a whole tree is trusted a little later than a file
    assert verdict(store, files) == "done"
    reads.take()

    def refuse(*_: object) -> None:
        raise AssertionError("asked for single files")

    monkeypatch.setattr(StepCache, "get_many", refuse)
    assert verdict(store, files) == "cached"
    assert reads.take() == ([], [])


def test_of_one_changed_file_alone_the_digest_is_made(
    store: Store, files: Path, reads: Reads
) -> None:
    verdict(store, files)
    reads.take()
    (files / "b").write_text("changed")
    assert verdict(store, files) == "done"
    assert reads.take() == ([b"b"], ALL)


def test_what_was_there_before_is_found_again(store: Store, files: Path, reads: Reads) -> None:
    verdict(store, files)
    (files / "b").write_text("changed")
    assert verdict(store, files) == "done"
    (files / "b").write_text("b")
    reads.take()
    assert verdict(store, files) == "cached"
    assert reads.take() == ([b"b"], [])


def test_files_known_by_one_copy_are_known_to_others(
    store: Store, files: Path, reads: Reads
) -> None:
    verdict(store, files)
    assert verdict(store, files, "FROM scratch\nCOPY a c /e/\n") == "done"
    reads.take()
    (files / "a").write_text("changed")
    assert verdict(store, files, "FROM scratch\nCOPY a c /e/\n") == "done"
    assert reads.take() == ([b"a"], [b"a", b"c/d"])


def test_without_the_cache_everything_is_made_again(
    store: Store, files: Path, reads: Reads
) -> None:
    first = build(store, files, COPY)
    reads.take()
    assert build(store, files, COPY, no_cache=True).layers == first.layers
    assert reads.take() == (ALL, ALL)


def test_both_ways_to_make_a_layer_make_the_same(store: Store, files: Path) -> None:
    os.link(files / "a", files / "c/again")
    (files / "large").write_bytes(os.urandom(1 << 20) * 3)
    os.mkfifo(files / "pipe")
    (files / "link").symlink_to("a")
    at_once = build(store, files, COPY)
    (files / "b").write_text("changed")
    build(store, files, COPY)
    (files / "b").write_text("B")
    after_hashing = build(store, files, COPY)
    (files / "b").write_text("b")
    os.utime(files / "b", (1, 1))
    again = build(store, files, COPY, no_cache=True)
    assert names(store, at_once) == names(store, after_hashing) == names(store, again)
    assert content(store, after_hashing, "d/b") == b"B"
    assert content(store, after_hashing, "d/c/again") == b"a" or any(
        m.linkname == "d/a" for m in members(store, after_hashing)
    )
    assert at_once.layers != again.layers  # the time of b
    # Times do not count for the cache: the layer is the one that was made first.
    assert build(store, files, COPY).layers in (at_once.layers, again.layers)


@pytest.mark.parametrize("after_hashing", [False, True], ids=["at once", "after hashing"])
def test_a_file_that_changes_meanwhile_leaves_nothing(
    store: Store, files: Path, monkeypatch: pytest.MonkeyPatch, after_hashing: bool
) -> None:
    if after_hashing:
        verdict(store, files)
        (files / "b").write_text("changed")
    store.blobs.flush()
    before = sorted(store.paths.root.rglob("blobs/*/*"))
    real = TreeReader.read

    def slow(self: TreeReader, wanted: Wanted, flags: int) -> tuple[Fact, bytes]:
        found = real(self, wanted, flags)
        if flags & CONTENT and wanted[0] == b"a":
            (files / "c/d").write_text("while it was copied")
        return found

    monkeypatch.setattr(TreeReader, "read", slow)
    with pytest.raises(ContextError, match="/c/d .*changed while it was read"):
        build(store, files, COPY)
    store.blobs.flush()
    assert sorted(store.paths.root.rglob("blobs/*/*")) == before
    assert list(store.paths.staging.iterdir()) == []
    monkeypatch.undo()
    built = build(store, files, COPY)
    assert content(store, built, "d/c/d") == b"while it was copied"


def test_large_files_are_read_once_as_well(
    store: Store, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "large").write_bytes(bytes(3 << 20))
    opened: list[int] = []
    from imgbuild.build.context import ContextTree

    real = ContextTree.open

    def noted(self: ContextTree, path: bytes) -> object:
        opened.append(len(path))
        return real(self, path)

    monkeypatch.setattr(ContextTree, "open", noted)
    assert verdict(store, files) == "done"
    assert len(opened) == 1


def test_a_large_file_that_changes_meanwhile_is_refused(
    store: Store, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imgbuild.build.context import ContextTree

    (files / "large").write_bytes(bytes(3 << 20))
    real = ContextTree.open

    def open_then_change(self: ContextTree, path: bytes) -> object:
        stream = real(self, path)
        os.utime(files / "large", (1, 1))
        return stream

    monkeypatch.setattr(ContextTree, "open", open_then_change)
    with pytest.raises(ContextError, match="/large .*changed"):
        build(store, files, COPY)
    assert list(store.paths.staging.iterdir()) == []


def test_a_damaged_large_index_is_made_again(
    store: Store, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imgbuild.layer import index

    monkeypatch.setattr(index, "_LARGE", 0)
    first = build(store, files, COPY)
    store.blobs.flush()
    path = store.paths.index(first.layers[0].diff_id)
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole.replace(b'"d/c"', b'"d/x"'))
    built = build(store, files, f"{COPY}COPY a /d/c/\n")
    assert names(store, built) == ["d", "d/c", "d/c/a"]
    store.blobs.flush()
    assert path.read_bytes() == whole
