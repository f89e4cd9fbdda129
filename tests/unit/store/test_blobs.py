import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuild.errors import DigestMismatchError, DiskFullError, ImageError, StoreError
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import digest_bytes
from imgbuild.store.store import Store

MEDIA = "application/octet-stream"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def blob(data: bytes) -> Descriptor:
    return Descriptor(MEDIA, digest_bytes(data), len(data))


def staged(store: Store) -> list[str]:
    store.blobs.flush()
    return os.listdir(store.paths.staging)


def test_a_document_is_added_and_read(store: Store) -> None:
    found = store.blobs.add(MEDIA, b"{}")
    assert found == blob(b"{}")
    assert store.blobs.read(found.digest) == b"{}"
    store.blobs.flush()
    assert store.paths.blob(found.digest).read_bytes() == b"{}"
    assert staged(store) == []


def test_a_writer_left_without_commit_leaves_nothing(store: Store) -> None:
    with store.blobs.writer() as out:
        out.write(b"half")
    with pytest.raises(RuntimeError), store.blobs.writer() as out:
        out.write(b"half")
        raise RuntimeError
    assert staged(store) == []
    assert list(store.paths.blobs.rglob("*/*")) == []


def test_a_size_that_is_not_so_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="4 bytes instead of 5"), store.blobs.writer() as out:
        out.write(b"data")
        out.commit(digest_bytes(b"data"), 5)
    assert staged(store) == []


def test_a_digest_that_leaves_the_store_is_refused(store: Store) -> None:
    with pytest.raises(ImageError, match="invalid digest"), store.blobs.writer() as out:
        out.commit("sha256:../../../etc/passwd", 0)


def test_a_blob_that_is_there_is_not_written_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.blobs.add(MEDIA, b"data")
    store.blobs.flush()
    before = store.paths.blob(digest_bytes(b"data")).stat()
    for name in ("fsync", "rename"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("written again"))
    store.blobs.add(MEDIA, b"data")
    store.blobs.put(blob(b"data"), lambda: pytest.fail("opened"))
    with store.blobs.writer() as out:
        out.write(b"data")
        out.commit(digest_bytes(b"data"), 4)
    store.blobs.flush()
    assert store.paths.blob(digest_bytes(b"data")).stat() == before
    assert staged(store) == []


def test_a_blob_can_be_read_before_it_is_on_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    go_on = threading.Event()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (go_on.wait(10), fsync(handle)))
    try:
        descriptor = store.blobs.add(MEDIA, b"data")
        assert not store.paths.blob(descriptor.digest).exists()
        assert store.blobs.exists(descriptor)
        assert store.blobs.read(descriptor.digest) == b"data"
    finally:
        go_on.set()
    store.blobs.flush()
    assert store.paths.blob(descriptor.digest).exists()


def test_bytes_are_on_disk_before_the_name_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync, rename = os.fsync, os.rename

    def sync(handle: int) -> None:
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    def move(source: Path, target: Path) -> None:
        assert os.stat(source).st_ino in synced
        rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", move)
    for number in range(20):
        store.blobs.add(MEDIA, b"%d" % number)
    store.blobs.flush()
    # And the name itself, before anything can refer to it.
    assert (store.paths.blobs / "sha256").stat().st_ino in synced
    assert len(os.listdir(store.paths.blobs / "sha256")) == 20


def test_a_blob_of_another_size_is_not_there_and_is_written_again(store: Store) -> None:
    descriptor = store.blobs.add(MEDIA, b"data")
    store.blobs.flush()
    store.paths.blob(descriptor.digest).write_bytes(b"da")
    assert not store.blobs.exists(descriptor)
    store.blobs.add(MEDIA, b"data")
    assert store.blobs.read(descriptor.digest) == b"data"


def test_a_damaged_blob_is_found_removed_and_can_be_put_again(store: Store) -> None:
    descriptor = store.blobs.add(MEDIA, b"data")
    store.blobs.flush()
    store.paths.blob(descriptor.digest).write_bytes(b"dada")
    with (
        pytest.raises(DigestMismatchError, match="is damaged") as caught,
        store.blobs.open(descriptor) as stream,
    ):
        stream.read()
    assert caught.value.hint == "it was removed; pull or build the image again"
    assert not store.blobs.exists(descriptor)
    store.blobs.put(descriptor, lambda: io.BytesIO(b"data"))
    assert store.blobs.read(descriptor.digest) == b"data"


def test_a_huge_blob_is_no_document(store: Store) -> None:
    with store.blobs.writer() as out:
        out.truncate(9 << 20)
        out.commit(digest_bytes(b"huge"))
    with pytest.raises(ImageError, match="too many for a document"):
        store.blobs.read(digest_bytes(b"huge"))


def test_an_index_is_kept_by_diff_id(store: Store) -> None:
    diff_id = digest_bytes(b"tar")
    assert not store.blobs.has_index(diff_id)
    with pytest.raises(StoreError, match="not in the store"):
        store.blobs.open_index(diff_id)
    with store.blobs.index_writer() as out:
        out.write(b"entries")
        out.commit(diff_id)
    assert store.blobs.has_index(diff_id)
    with store.blobs.open_index(diff_id) as stream:
        assert stream.read() == b"entries"
    store.blobs.flush()
    store.blobs.drop_index(diff_id)
    assert not store.blobs.has_index(diff_id)


def no_space(*_arguments: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_while_writing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel takes what still fits before it refuses.
    write, sent = os.write, []

    def fill(handle: int, data: bytes) -> int:
        if sent:
            return no_space()
        sent.append(handle)
        return write(handle, data[:2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill)
        with pytest.raises(DiskFullError, match="no space left"):
            store.blobs.add(MEDIA, b"data")
    assert staged(store) == []
    assert not store.blobs.exists(blob(b"data"))


def test_a_disk_that_turns_out_full_when_flushing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        store.blobs.add(MEDIA, b"data")
        with pytest.raises(DiskFullError):
            store.blobs.flush()
    assert not store.blobs.exists(blob(b"data"))
    assert staged(store) == []
    # The error was told once; the store goes on.
    store.blobs.add(MEDIA, b"data")
    store.blobs.flush()
    assert store.blobs.exists(blob(b"data"))


def test_nothing_is_named_that_did_not_reach_the_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        descriptor = store.blobs.add(MEDIA, b"data")
        with pytest.raises(DiskFullError):
            store.names.tag("docker.io/library/x:latest", descriptor)
    assert store.names.list() == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_real_full_disk(tmp_path: Path) -> None:
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot apply: this host does not let root mount")
    try:
        with Store.open(disk / "store") as store:
            small = store.blobs.add(MEDIA, b"small")
            store.names.tag("docker.io/library/small:latest", small)
            big = os.urandom(2 << 20)
            with pytest.raises(DiskFullError):
                store.blobs.put(blob(big), lambda: io.BytesIO(big))
            assert staged(store) == []
            assert not store.blobs.exists(blob(big))
            # What was freed can be used again, and what was there is whole.
            fits = os.urandom(600 << 10)
            store.blobs.put(blob(fits), lambda: io.BytesIO(fits))
            with pytest.raises(DiskFullError):
                for number in range(1000):
                    store.blobs.add(MEDIA, b"%d" % number * 1000)
            assert store.names.list() == {"docker.io/library/small:latest": small}
            assert store.blobs.read(small.digest) == b"small"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_errors_of_the_kernel_are_told_in_words(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code, words in ((errno.EROFS, "Read-only"), (errno.EIO, "Input/output error")):

        def fail(_handle: int, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            store.blobs.add(MEDIA, b"data")
            with pytest.raises(StoreError, match=words):
                store.blobs.flush()


def test_many_threads_put_the_same_and_other_blobs(store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    contents = [b"%d" % (number % 30) * 1000 for number in range(300)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda data: store.blobs.add(MEDIA, data), contents))
    store.blobs.flush()
    for descriptor, data in zip(found, contents, strict=True):
        assert store.paths.blob(descriptor.digest).read_bytes() == data
    assert staged(store) == []
