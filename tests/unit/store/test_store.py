import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgbuild.errors import StoreError, StoreLockedError
from imgbuild.oci import media_types
from imgbuild.store.locks import locked
from imgbuild.store.store import VERSION, Store
from imgbuild.transfer import copy_image
from tests.support import validate
from tests.support.command import environment
from tests.support.memory import MemoryStore, add_image

APP = "docker.io/library/app:latest"


def fill(store: Store) -> None:
    source = MemoryStore()
    root = add_image(source)
    copy_image(source, store.blobs, root)
    store.names.tag(APP, root)


@contextmanager
def elsewhere(root: Path, code: str) -> Iterator[subprocess.Popen[str]]:
    """Run `code` with `store` in another process until it printed a line; end it with the block."""
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom imgbuild.store.store import Store\n"
        f"store = Store.open(Path({str(root)!r}))\n{code}"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


HOLD = "with store.{lock}():\n    print('ready', flush=True)\n    sys.stdin.read()\n"


def test_a_new_store_is_a_valid_layout_for_its_owner_alone(tmp_path: Path) -> None:
    root = tmp_path / "a" / "store"
    with Store.open(root) as store:
        fill(store)
    assert validate.layout(root) == []
    assert root.stat().st_mode & 0o777 == 0o700
    assert (root / "version").read_text() == f"{VERSION}\n"


def test_opening_again_writes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store.open(root) as store:
        fill(store)

    def state() -> list[tuple[str, int]]:
        files = [path for path in root.rglob("*") if path.is_file() and path.parent.name != "locks"]
        return sorted((str(path), path.stat().st_mtime_ns) for path in files)

    before = state()
    with Store.open(root) as store:
        store.names.list()
        with store.build_lock():
            fill(store)
    assert state() == before


def test_an_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    Store.open(tmp_path, create=False).close()


def test_a_directory_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(StoreError, match=r"no store and is not empty: it has thesis\.txt"):
        Store.open(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_no_store_is_made_without_being_asked(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        Store.open(tmp_path / "store", create=False)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [(f"{VERSION + 1}\n", "this imgbuild knows"), ("0", "old format"), ("x", "no version number")],
)
def test_another_version_is_refused(tmp_path: Path, text: str, words: str) -> None:
    Store.open(tmp_path).close()
    (tmp_path / "version").write_text(text)
    with pytest.raises(StoreError, match=words):
        Store.open(tmp_path)


def test_a_store_half_made_is_completed(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    for name in ("version", "index.json"):
        (tmp_path / name).unlink()
    with Store.open(tmp_path) as store:
        fill(store)
    assert validate.layout(tmp_path) == []


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match="store"):
        Store.open(tmp_path / "store")


def test_builders_share_and_the_exclusive_holder_does_not(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    with (
        elsewhere(tmp_path, HOLD.format(lock="build_lock")) as other,
        Store.open(tmp_path) as store,
    ):
        with store.build_lock():
            pass
        with (
            pytest.raises(StoreLockedError, match=rf"process {other.pid} \(building\)"),
            store.exclusive_lock(),
        ):
            pass
        with pytest.raises(StoreLockedError):
            store.reset(lambda: pytest.fail("trees removed"))


def test_a_builder_waits_for_the_exclusive_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgbuild.store.store._PATIENCE", 0.1)
    Store.open(tmp_path).close()
    with (
        elsewhere(tmp_path, HOLD.format(lock="exclusive_lock")) as other,
        Store.open(tmp_path) as store,
    ):
        with (
            pytest.raises(StoreLockedError, match=rf"process {other.pid} \(resetting\)"),
            store.build_lock(),
        ):
            pass
        monkeypatch.setattr("imgbuild.store.store._PATIENCE", 30)
        assert other.stdin is not None
        other.stdin.close()
        other.stdin = None
        with store.build_lock():
            pass


def test_the_kernel_frees_what_a_killed_process_held(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    with elsewhere(tmp_path, HOLD.format(lock="exclusive_lock")) as other:
        other.kill()
        other.wait()
        with Store.open(tmp_path) as store, store.exclusive_lock():
            pass


def test_leftovers_of_the_dead_are_removed_and_of_the_living_are_not(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    staging, sessions = tmp_path / "tmp/files", tmp_path / "locks/sessions"
    code = (
        "out = store.blobs.writer()\nout.write(b'half')\nstore.scratch_dir()\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    with elsewhere(tmp_path, code) as other:
        with Store.open(tmp_path) as store:
            assert len(os.listdir(staging)) == 1
            assert len(os.listdir(sessions)) == 1
            assert store.abandoned_scratch() == []
        other.kill()
        other.wait()
        with Store.open(tmp_path) as store:
            assert os.listdir(staging) == []
            assert os.listdir(sessions) == []
            assert len(store.abandoned_scratch()) == 1


def test_a_closed_store_leaves_no_session(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        fill(store)
        assert len(os.listdir(tmp_path / "locks/sessions")) == 1
    assert os.listdir(tmp_path / "locks/sessions") == []
    assert os.listdir(tmp_path / "tmp/files") == []


def test_closing_finishes_what_was_put(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        found = [store.blobs.add("a/b", b"%d" % n) for n in range(50)]
    for descriptor in found:
        assert store.paths.blob(descriptor.digest).stat().st_size == descriptor.size


def test_the_first_error_is_not_hidden_by_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_handle: int) -> None:
        raise OSError(28, "full")

    with pytest.raises(RuntimeError, match="first"), Store.open(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            store.blobs.add("a/b", b"data")
            with pytest.raises(StoreError):
                store.blobs.flush()
            store.blobs.add("a/b", b"more")
            while store.blobs.exists(store.blobs.add("a/b", b"more")):
                pass
        raise RuntimeError("first")


def test_staged_folders_of_the_dead_are_removed_whole(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        mine = store.paths.staging / store.session().file_name()
        left = store.paths.staging / "1.dead-1"
        for folder in (mine, left):
            (folder / "sub").mkdir(parents=True)
            (folder / "sub/file").write_bytes(b"x")
            (folder / "link").symlink_to(tmp_path / "blobs")
        Store.open(tmp_path).close()
        assert (mine / "sub/file").exists()
        assert not left.exists()
        assert store.paths.blobs.is_dir()


def test_a_lock_lasts_as_long_as_a_process_that_inherits_it(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    path, sessions = tmp_path / "locks/some", tmp_path / "locks/sessions"
    with locked(path, seconds=0, sessions=sessions) as handle:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(handle,))
    with (
        child,
        pytest.raises(StoreLockedError),
        locked(path, seconds=0, sessions=sessions),
    ):
        pass
    with locked(path, seconds=0, sessions=sessions):
        pass


def test_reset_empties_the_store(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        fill(store)
        with store.blobs.index_writer() as out:
            out.commit("sha256:" + "0" * 64)
        store.cache.set_memo("k", "v")
        tree = store.paths.trees / "map" / "tree"
        tree.mkdir(parents=True)
        removed: list[str] = []

        def remove_trees() -> None:
            assert store.names.list() == {}
            for path in store.paths.trees.iterdir():
                shutil.rmtree(path)
            removed.append("trees")

        (store.paths.mirrors / "key/objects").mkdir(parents=True)
        (store.paths.mirrors / "key/objects/pack").write_bytes(b"x")
        store.reset(remove_trees)
        assert not store.paths.mirrors.exists()
        assert removed == ["trees"]
        assert store.names.list() == {}
        assert store.cache.memo("k") is None
        assert [p for p in (tmp_path / "blobs").rglob("*") if p.is_file()] == []
        assert [p for p in (tmp_path / "indexes").rglob("*") if p.is_file()] == []
        fill(store)
    assert validate.layout(tmp_path) == []


def test_reset_tells_what_it_could_not_remove(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        (store.paths.trees / "left").mkdir()
        with pytest.raises(StoreError, match="cannot remove .*left"):
            store.reset(lambda: None)


AS_NOBODY = """
import os, sys
sys.path.insert(0, {project!r})
import concurrent.futures, difflib, hashlib, sqlite3, threading
from pathlib import Path
from imgbuild.errors import StoreError
from imgbuild.oci.digest import digest_bytes
from imgbuild.store.store import Store
os.setgroups([]); os.setgid(65534); os.setuid(65534)
root = Path({root!r})
def expect(work):
    try:
        work()
    except StoreError as error:
        print(type(error).__name__, error.message, '|', error.hint)
    else:
        print('no error')
{code}
"""


def as_nobody(root: Path, code: str) -> list[str]:
    """Run `code` as a user who may read the store but not write it; return its lines."""
    from tests.support.command import PROJECT

    program = AS_NOBODY.format(project=str(PROJECT), root=str(root), code=code)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd="/", timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_what_may_not_be_read_or_written_is_an_error_in_words(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(0o755)
    root = tmp_path / "store"
    with Store.open(root) as store:
        fill(store)
        store.cache.set_memo("k", "v")
    denied = as_nobody(root, "expect(lambda: Store.open(root))")
    assert denied[0].startswith("StoreError cannot open the store")
    assert "--store" in denied[0]

    subprocess.run(["chmod", "-R", "a+rX", str(root)], check=True)
    lines = as_nobody(
        root,
        "store = Store.open(root)\n"
        "print(*store.names.list())\n"
        "d = store.names.resolve('docker.io/library/app:latest')\n"
        "print(len(store.blobs.read(d.digest)) == d.size)\n"
        "expect(lambda: store.blobs.add('a/b', b'new'))\n"
        "expect(lambda: store.names.untag('docker.io/library/app:latest'))\n"
        "expect(lambda: store.build_lock().__enter__())\n"
        "expect(lambda: store.cache.set_memo('k', 'w'))\n"
        "expect(lambda: Store.open(root / 'deeper'))\n"
        "store.close()\n",
    )
    assert lines[:2] == [APP, "True"]
    for line in lines[2:]:
        assert line.startswith("StoreError cannot"), line
        assert "--store" in line
    assert len(lines) == 7


def test_a_cached_build_touches_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path) as store:
        fill(store)
        store.cache.set_memo("k", "v")
    monkeypatch.setattr(os, "fsync", lambda _handle: pytest.fail("flushed"))
    monkeypatch.setattr(os, "rename", lambda *_: pytest.fail("renamed"))
    monkeypatch.setattr("threading.Thread.start", lambda _thread: pytest.fail("thread"))
    with Store.open(tmp_path) as store, store.build_lock():
        for _ in range(15):
            assert store.cache.get("step") is None
        root = store.names.resolve(APP)
        data = store.blobs.read(root.digest)
        store.blobs.add(media_types.OCI_MANIFEST, data)
        store.blobs.put(root, lambda: io.BytesIO(data))
        store.names.tag(APP, root)


@pytest.mark.parametrize(("before", "after"), [(0o777, 0o700), (0o755, 0o700), (0o1777, 0o1777)])
def test_a_directory_that_was_there_is_closed_to_others(
    tmp_path: Path, before: int, after: int
) -> None:
    root = tmp_path / "there"
    root.mkdir()
    root.chmod(before)
    with Store.open(root):
        assert root.stat().st_mode & 0o7777 == after
        assert (root / "layers").stat().st_mode & 0o777 == 0o700


def test_a_store_where_none_can_be_has_a_hint() -> None:
    with pytest.raises(StoreError, match="cannot make the store /proc/x") as caught:
        Store.open(Path("/proc/x"))
    assert "--store" in str(caught.value.hint)
