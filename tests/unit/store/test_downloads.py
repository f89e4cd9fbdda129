import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuild.oci.digest import digest_bytes
from imgbuild.store.store import Store
from tests.support.command import environment


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def keep(store: Store, data: bytes, name: bytes = b"f", mtime: int = 5) -> Path:
    with store.downloads.create() as download:
        download.begin()
        download.write(data)
        return store.downloads.keep(download, name, mtime)


def test_a_file_is_found_by_all_that_is_known_of_it(store: Store) -> None:
    folder = keep(store, b"x")
    digest = digest_bytes(b"x")
    assert store.downloads.find(digest, b"f", 5) == folder
    assert store.downloads.find(digest, b"g", 5) is None
    assert store.downloads.find(digest, b"f", 6) is None
    assert store.downloads.find(digest_bytes(b"y"), b"f", 5) is None
    assert (
        len({folder, keep(store, b"x", b"g"), keep(store, b"x", mtime=6), keep(store, b"y")}) == 4
    )


def test_names_that_are_no_text(store: Store) -> None:
    folder = keep(store, b"x", b"\xff [*]")
    assert os.listdir(os.fsencode(folder)) == [b"\xff [*]"]
    assert store.downloads.find(digest_bytes(b"x"), b"\xff [*]", 5) == folder


def test_beginning_again_forgets_what_was_written(store: Store) -> None:
    with store.downloads.create() as download:
        download.write(b"long and wrong")
        download.begin()
        download.write(b"right")
        folder = store.downloads.keep(download, b"f", 5)
    assert (folder / "f").read_bytes() == b"right"
    assert store.downloads.find(digest_bytes(b"right"), b"f", 5) == folder


def test_what_is_not_kept_is_removed(store: Store) -> None:
    with store.downloads.create() as download:
        download.write(b"x")
        assert len(os.listdir(store.paths.staging)) == 1
    assert os.listdir(store.paths.staging) == []


def test_a_file_that_is_there_is_not_replaced(store: Store) -> None:
    path = keep(store, b"x") / "f"
    before = path.stat()
    assert keep(store, b"x") == path.parent
    after = path.stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert os.listdir(store.paths.staging) == []


def test_a_damaged_file_is_not_found_and_is_replaced(store: Store) -> None:
    path = keep(store, b"x") / "f"
    path.write_bytes(b"y")
    os.utime(path, (5, 5))
    assert store.downloads.find(digest_bytes(b"x"), b"f", 5) is None
    keep(store, b"x")
    assert path.read_bytes() == b"x"


def test_many_processes_may_keep_the_same_file(tmp_path: Path) -> None:
    code = (
        "import os\nfrom pathlib import Path\nfrom imgbuild.store.store import Store\n"
        f"with Store.open(Path({str(tmp_path / 's')!r})) as store:\n"
        "    for _ in range(5):\n"
        "        with store.downloads.create() as download:\n"
        "            download.write(b'x' * 10000)\n"
        "            folder = store.downloads.keep(download, b'f', 5)\n"
        "        print(os.stat(folder / 'f').st_ino)\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment()
        )
        for _ in range(3)
    ]
    printed = [process.communicate()[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert {len(lines) for lines in printed} == {5}
    assert len({inode for lines in printed for inode in lines}) == 1
