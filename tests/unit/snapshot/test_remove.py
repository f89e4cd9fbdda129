"""Removing trees that someone else filled."""

import os
import threading
from pathlib import Path

import pytest

from imgbuild.snapshot.remove import empty_directory, remove_tree


def test_everything_goes_and_nothing_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    top = tmp_path / "top"
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/b/file").write_text("x")
    (top / "a/link").symlink_to(outside)
    (top / "a/b/link").symlink_to("../../../outside/file")
    os.mkfifo(top / "fifo")
    (top / os.fsdecode(b"caf\xe9")).mkdir()
    remove_tree(os.fsencode(top))
    assert not top.exists()
    assert (outside / "file").read_text() == "stays"


def test_a_tree_deeper_than_any_path(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep-directory", dir_fd=fd)
        os.mkdir("beside", dir_fd=fd)
        deeper = os.open("deep-directory", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    remove_tree(os.fsencode(top))
    assert not top.exists()


def test_what_is_not_there_is_fine_and_files_go_too(tmp_path: Path) -> None:
    remove_tree(os.fsencode(tmp_path / "missing"))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/")
    remove_tree(os.fsencode(tmp_path / "file"))
    remove_tree(os.fsencode(tmp_path / "link"))
    assert list(tmp_path.iterdir()) == []


def test_emptying_keeps_the_directory(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "file").touch()
    empty_directory(os.fsencode(tmp_path))
    assert tmp_path.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_two_may_remove_one_tree(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"top/{number % 7}/{number}/below").mkdir(parents=True)
        (tmp_path / f"top/{number % 7}/{number}/file").touch()
    failed = []

    def remove() -> None:
        try:
            remove_tree(os.fsencode(tmp_path / "top"))
        except OSError as problem:
            failed.append(problem)

    threads = [threading.Thread(target=remove) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert not (tmp_path / "top").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove anything")
def test_what_may_not_be_removed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").touch()
    (tmp_path / "a").chmod(0o500)
    with pytest.raises(PermissionError):
        remove_tree(os.fsencode(tmp_path / "a"))
    (tmp_path / "a").chmod(0o700)
