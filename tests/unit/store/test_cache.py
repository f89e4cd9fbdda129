import sqlite3
import threading
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from imgbuild.errors import DiskFullError, StoreError
from imgbuild.oci import media_types
from imgbuild.oci.descriptor import Descriptor, Layer
from imgbuild.oci.digest import digest_bytes
from imgbuild.store.cache import StepCache, StepRecord, is_settled
from imgbuild.store.filememo import FileKey

OLD = 1_000_000_000_000_000_001
NOW = OLD + 10**12
X = b"x" * 32


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[StepCache]:
    opened = StepCache(tmp_path / "cache.sqlite")
    yield opened
    opened.close()


def record(data: bytes = b"layer") -> StepRecord:
    descriptor = Descriptor(
        media_types.OCI_LAYER_GZIP, digest_bytes(data), len(data), annotations={"a": "b"}
    )
    return StepRecord(
        Layer(descriptor, digest_bytes(b"tar" + data), 1 << 40), "2024-01-01T00:00:00Z"
    )


def test_nothing_is_opened_before_it_is_asked(cache: StepCache, tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == []
    assert cache.get("key") is None
    assert (tmp_path / "cache.sqlite").exists()


def test_a_step_is_found_again_also_by_another_process(cache: StepCache, tmp_path: Path) -> None:
    cache.put("key", record(), b'["document"]')
    again = StepCache(tmp_path / "cache.sqlite")
    for opened in (cache, again):
        assert opened.get("key") == record()
        assert opened.document("key") == b'["document"]'
        assert opened.get("other") is None
        assert opened.document("other") is None
    again.close()


def test_the_last_record_of_a_key_counts(cache: StepCache) -> None:
    cache.put("key", record(b"old"), b"")
    cache.put("key", record(b"new"), b"")
    assert cache.get("key") == record(b"new")


def test_an_existing_file_costs_no_schema_work(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    first = StepCache(path)
    first.put("key", record(), b"")
    first.close()
    before = path.read_bytes()
    second = StepCache(path)
    assert second.get("key") is not None
    second.close()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def file_key(number: int, ctime: int = OLD) -> FileKey:
    return (7, number, 10, OLD, ctime)


def test_files_are_remembered_while_unchanged(cache: StepCache) -> None:
    digests = {file_key(n): b"%032d" % n for n in range(2000)}
    cache.put_many(digests, NOW)
    assert cache.get_many(list(digests)) == digests
    for changed in ((8, 1, 10, OLD, OLD), (7, 1, 11, OLD, OLD), (7, 1, 10, OLD + 1, OLD)):
        assert cache.get_many([changed]) == {}
    assert cache.get_many([(7, 1, 10, OLD, OLD + 1), file_key(2)]) == {
        file_key(2): digests[file_key(2)]
    }


def test_a_changed_file_replaces_what_was_known(cache: StepCache) -> None:
    cache.put_many({file_key(1): b"a" * 32, file_key(2): b"c" * 32}, NOW)
    cache.put_many({file_key(1, OLD + 5): b"b" * 32}, NOW)
    assert cache.get_many([file_key(1)]) == {}
    assert cache.get_many([file_key(1, OLD + 5)]) == {file_key(1, OLD + 5): b"b" * 32}
    assert cache.get_many([file_key(2)]) == {file_key(2): b"c" * 32}


def test_files_made_together_share_a_row(cache: StepCache) -> None:
    cache.put_many({file_key(n): X for n in range(1000)}, NOW)
    connection = cache._connection
    assert connection is not None
    assert connection.execute("SELECT count(*) FROM files").fetchone()[0] == 8


def test_numbers_use_all_64_bits(cache: StepCache) -> None:
    keys: list[FileKey] = [
        (2**64 - 1, 2**64 - 1, 2**62, -5, -5),
        (0, 2**63, 0, 0, 0),
        (0, 2**63 - 1, 0, 0, 0),
    ]
    too_early = (0, 3, 0, -(2**70), 0)
    cache.put_many(dict.fromkeys([*keys, too_early], X), NOW)
    assert set(cache.get_many([*keys, too_early])) == set(keys)


def test_a_file_that_changed_just_now_is_not_trusted(cache: StepCache) -> None:
    now = NOW | 1
    fresh, settled = file_key(1, now), file_key(2, now - 10**9)
    whole_seconds = file_key(3, (now // 10**9 - 1) * 10**9)
    later = file_key(4, now + 10**9)
    cache.put_many(dict.fromkeys((fresh, settled, whole_seconds, later), X), now)
    assert set(cache.get_many([fresh, settled, whole_seconds, later])) == {settled}


@pytest.mark.parametrize(
    ("age", "coarse", "settled"),
    [
        (10**7, False, False),
        (10**8, False, True),
        (10**8, True, False),
        (3 * 10**9, True, True),
        (-1, False, False),
    ],
)
def test_when_a_file_has_settled(age: int, coarse: bool, settled: bool) -> None:
    assert is_settled(NOW - age, NOW, coarse=coarse) is settled


def test_a_tree_is_known_by_its_fingerprint(cache: StepCache) -> None:
    digest = digest_bytes(b"tree")
    assert cache.tree("place", "print") is None
    cache.put_tree("place", "print", digest)
    assert cache.tree("place", "print") == digest
    assert cache.tree("place", "other") is None
    assert cache.tree("elsewhere", "print") is None
    cache.put_tree("place", "other", digest_bytes(b"changed"))
    assert cache.tree("place", "print") is None


def test_steps_have_families(cache: StepCache) -> None:
    cache.put("key", record(), b"", "family")
    cache.put("alone", record(), b"")
    assert cache.has_family("family")
    assert not cache.has_family("other")


def test_origins_are_told_by_registry_and_the_last_one_first(cache: StepCache) -> None:
    blob, other = digest_bytes(b"blob"), digest_bytes(b"other")
    assert cache.origin(blob, "a.example") is None
    cache.add_origin([blob, other], "a.example/x")
    cache.add_origin([blob], "a.example/y")
    cache.add_origin([blob], "a.example.org/z")
    assert cache.origin(blob, "a.example") == "a.example/y"
    assert cache.origin(blob, "a.example.org") == "a.example.org/z"
    assert cache.origin(blob, "a.exampl_") is None
    assert cache.origin(other, "a.example") == "a.example/x"
    cache.add_origin([blob], "a.example/x")
    assert cache.origin(blob, "a.example") == "a.example/x"


def test_memos(cache: StepCache) -> None:
    assert cache.memo("k") is None
    cache.set_memo("k", "v")
    cache.set_memo("k", "w")
    assert cache.memo("k") == "w"


def test_clear_forgets_everything(cache: StepCache) -> None:
    cache.put("key", record(), b"")
    cache.set_memo("k", "v")
    cache.clear()
    assert cache.get("key") is None
    assert cache.memo("k") is None
    cache.put("key", record(), b"")
    assert cache.get("key") == record()


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"x" * 4080]
)
def test_a_damaged_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cache.sqlite"
    path.write_bytes(content)
    cache = StepCache(path)
    assert cache.get("key") is None
    cache.put("key", record(), b"")
    assert cache.get("key") == record()
    cache.close()


def test_damage_found_late_is_removed_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    cache = StepCache(path)
    for number in range(500):
        cache.put(f"key{number}", record(), bytes(1000))
    cache.close()
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)
    cache = StepCache(path)
    with pytest.raises(StoreError, match="damaged") as caught:
        for number in range(500):
            cache.get(f"key{number}")
    assert caught.value.hint == "it was removed; run the same command again"
    assert cache.get("key1") is None
    cache.put("key1", record(), b"")
    assert cache.get("key1") == record()
    cache.close()


def test_another_schema_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE steps (something TEXT)")
        other.execute("PRAGMA user_version = 99")
    other.close()
    cache = StepCache(path)
    cache.put("key", record(), b"")
    assert cache.get("key") == record()
    cache.close()


def test_a_full_disk_is_told_as_such(cache: StepCache) -> None:
    cache.put("key", record(), b"")
    connection = cache._connection
    assert connection is not None
    connection.execute(
        f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}"
    )
    with pytest.raises(DiskFullError):
        cache.put("big", record(), bytes(1 << 20))
    with pytest.raises(DiskFullError):
        cache.put_many({file_key(n): X for n in range(20000)}, NOW)
    assert cache.get("key") == record()
    assert cache.get("big") is None
    cache.set_memo("small", "fits")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "nowhere" / "cache.sqlite")
    with pytest.raises(StoreError, match="cannot open the step cache"):
        cache.get("key")


def test_threads_share_one_connection(cache: StepCache) -> None:
    def work(mark: int) -> None:
        for number in range(50):
            cache.put(f"{mark}-{number}", record(), b"")
            assert cache.get(f"{mark}-{number}") is not None
            cache.put_many({file_key(mark * 100 + number): X}, NOW)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(cache.get(f"{mark}-{number}") for mark in range(6) for number in range(50))


def _put_many(path: str, mark: int) -> None:
    cache = StepCache(Path(path))
    for number in range(100):
        cache.put(f"{mark}-{number}", record(), b"")
    cache.close()


def test_processes_share_the_file_from_its_making_on(tmp_path: Path) -> None:
    context = get_context("spawn")
    path = tmp_path / "cache.sqlite"
    workers = [context.Process(target=_put_many, args=(str(path), mark)) for mark in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 6
    cache = StepCache(path)
    assert all(cache.get(f"{mark}-{number}") for mark in range(6) for number in range(100))
    cache.close()
