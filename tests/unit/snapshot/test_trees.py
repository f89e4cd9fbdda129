"""Which unpacked trees are trusted."""

import fcntl
import os
import threading
from pathlib import Path

import pytest

from imgbuild.oci.digest import Digest, digest_bytes
from imgbuild.snapshot.trees import Trees

LAYER = digest_bytes(b"layer")


def make(trees: Trees, diff_id: Digest = LAYER, content: str = "content") -> Path | None:
    with trees.making(diff_id) as lock:
        trees.new(diff_id).mkdir()
        (trees.new(diff_id) / "file").write_text(content)
        return trees.commit(diff_id, lock)


def test_a_committed_tree_is_whole_for_everyone(tmp_path: Path) -> None:
    trees = Trees(tmp_path / "mapping")
    assert not trees.is_whole(LAYER)
    assert make(trees) is None
    for other in (trees, Trees(tmp_path / "mapping")):
        assert other.is_whole(LAYER)
    assert (trees.path(LAYER) / "file").read_text() == "content"
    assert trees.path(LAYER) == tmp_path / "mapping" / LAYER.encoded


def test_a_tree_whose_making_was_cut_short_is_not_there(tmp_path: Path) -> None:
    trees = Trees(tmp_path)
    with trees.making(LAYER):
        trees.new(LAYER).mkdir()
    assert not Trees(tmp_path).is_whole(LAYER)
    # Killed between the rename and the mark.
    trees.new(LAYER).rename(trees.path(LAYER))
    assert not Trees(tmp_path).is_whole(LAYER)
    stale = make(trees)
    assert stale is not None
    assert trees.is_whole(LAYER)


def test_a_tree_of_an_earlier_boot_is_made_again(tmp_path: Path) -> None:
    make(Trees(tmp_path), content="before the power cut")
    trees = Trees(tmp_path)
    (tmp_path / f"{LAYER.encoded}.mark").write_text("another boot\n")
    assert not trees.is_whole(LAYER)
    stale = make(trees)
    assert stale is not None
    assert (stale / "file").read_text() == "before the power cut"
    assert (trees.path(LAYER) / "file").read_text() == "content"


def test_a_mark_without_a_tree_is_not_enough(tmp_path: Path) -> None:
    make(Trees(tmp_path))
    Trees(tmp_path).path(LAYER).rename(tmp_path / "elsewhere")
    assert not Trees(tmp_path).is_whole(LAYER)


def test_one_maker_at_a_time(tmp_path: Path) -> None:
    trees = Trees(tmp_path)
    order = []

    def second() -> None:
        with Trees(tmp_path).making(LAYER):
            order.append("second")

    with trees.making(LAYER):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_the_lock_lives_as_long_as_any_copy_of_its_descriptor(tmp_path: Path) -> None:
    trees = Trees(tmp_path)
    with trees.making(LAYER) as lock:
        copy = os.dup(lock)
    other = os.open(tmp_path / f"{LAYER.encoded}.mark", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(copy)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
