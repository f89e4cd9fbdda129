import json
import os
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from imgbuild.errors import NameNotFoundError, StoreError
from imgbuild.oci import media_types
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import digest_bytes
from imgbuild.oci.platform import Platform
from imgbuild.store.names import FULL_NAME, REF_NAME
from imgbuild.store.store import Store

APP = "docker.io/library/app:latest"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def add(store: Store, data: bytes = b"{}") -> Descriptor:
    return store.blobs.add(media_types.OCI_MANIFEST, data)


def test_a_name_is_kept_in_both_annotations(store: Store) -> None:
    store.names.tag(APP, add(store))
    (entry,) = json.loads(store.paths.names.read_bytes())["manifests"]
    assert entry["annotations"] == {FULL_NAME: APP, REF_NAME: APP}


def test_what_was_named_comes_back(store: Store) -> None:
    plain = add(store)
    rich = Descriptor(
        plain.media_type,
        plain.digest,
        plain.size,
        Platform("linux", "arm", "v7"),
        {"org.opencontainers.image.created": "1970-01-01T00:00:00Z"},
        {"artifactType": "x"},
    )
    store.names.tag(APP, rich)
    assert store.names.resolve(APP) == rich
    assert store.names.resolve(f"docker.io/library/app@{rich.digest}") == rich
    with Store.open(store.paths.root, create=False) as again:
        assert again.names.list() == {APP: rich}


def test_names_are_listed_in_order_and_move(store: Store) -> None:
    old, new = add(store, b"old"), add(store, b"new")
    for name in ("b", "c", "a"):
        store.names.tag(name, old)
    store.names.tag("b", new)
    assert list(store.names.list().items()) == [("a", old), ("b", new), ("c", old)]


def test_an_unchanged_name_writes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.names.tag(APP, add(store))
    before = store.paths.names.stat()
    monkeypatch.setattr(os, "fsync", lambda _handle: pytest.fail("written"))
    store.names.tag(APP, add(store))
    assert store.paths.names.stat() == before


def test_untag_removes_one_name_only(store: Store) -> None:
    descriptor = add(store)
    store.names.tag("a", descriptor)
    store.names.tag("b", descriptor)
    assert store.names.untag("a") == descriptor
    assert list(store.names.list()) == ["b"]
    with pytest.raises(NameNotFoundError):
        store.names.untag("a")


def test_an_unknown_name_suggests_a_similar_one(store: Store) -> None:
    store.names.tag("docker.io/library/my-python-image:latest", add(store))
    with pytest.raises(NameNotFoundError) as caught:
        store.names.resolve("docker.io/library/my-pyton-image:latest")
    assert caught.value.hint == "did you mean my-python-image?"
    with pytest.raises(NameNotFoundError, match="no such image: x") as caught:
        store.names.resolve("x")
    assert caught.value.hint is not None
    assert "imgbuild images" in caught.value.hint


def test_only_what_is_there_can_be_named(store: Store) -> None:
    absent = Descriptor(media_types.OCI_MANIFEST, digest_bytes(b"absent"), 6)
    with pytest.raises(StoreError, match="not in the store"):
        store.names.tag(APP, absent)


def test_entries_of_other_tools_are_kept(store: Store) -> None:
    theirs = {
        "mediaType": media_types.OCI_MANIFEST,
        "digest": digest_bytes(b"theirs"),
        "size": 6,
        "annotations": {REF_NAME: "theirs", "x": "y"},
    }
    nameless = {"mediaType": "a/b", "digest": digest_bytes(b"x"), "size": 1}
    document = json.loads(store.paths.names.read_bytes())
    document |= {"annotations": {"kept": "yes"}, "manifests": [theirs, nameless]}
    store.paths.names.write_text(json.dumps(document))
    store.names.tag(APP, add(store))
    written = json.loads(store.paths.names.read_bytes())
    assert written["annotations"] == {"kept": "yes"}
    assert theirs in written["manifests"]
    assert nameless in written["manifests"]
    assert sorted(store.names.list()) == [APP, "theirs"]
    assert store.names.resolve("theirs").digest == digest_bytes(b"theirs")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"manifests": 7}', '{"manifests": [7]}', '{"manifests": {"a": 1}}'],
)
def test_a_damaged_list_is_an_error_with_a_way_out(store: Store, text: str) -> None:
    store.paths.names.write_text(text)
    with pytest.raises(StoreError) as caught:
        store.names.list()
    assert "imgbuild reset" in (caught.value.hint or "")
    with pytest.raises(StoreError):
        store.names.tag(APP, add(store))
    assert store.paths.names.read_text() == text
    store.names.clear()
    assert store.names.list() == {}


def _tag_many(root: str, mark: int) -> None:
    with Store.open(Path(root)) as store:
        descriptor = store.blobs.add(media_types.OCI_MANIFEST, b"%d" % mark)
        for number in range(20):
            store.names.tag(f"name-{mark}-{number}", descriptor)
            if number % 2:
                store.names.untag(f"name-{mark}-{number}")


def test_processes_do_not_lose_each_others_names(tmp_path: Path) -> None:
    # The store itself is made in the race as well.
    context = get_context("spawn")
    root = str(tmp_path / "store")
    workers = [context.Process(target=_tag_many, args=(root, mark)) for mark in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    with Store.open(Path(root), create=False) as store:
        names = set(store.names.list())
    assert names == {f"name-{mark}-{n}" for mark in range(4) for n in range(0, 20, 2)}


def test_the_last_builds_without_a_name_are_kept(store: Store) -> None:
    store.names.tag(APP, add(store, b"named"))
    builds = [add(store, b"%d" % n) for n in range(20)]
    for build in builds:
        store.names.keep(build)
    assert list(store.names.unnamed()) == builds[:3:-1]
    assert list(store.names.list()) == [APP]
    store.names.forget(builds[-1].digest)
    store.names.forget(builds[0].digest)
    assert list(store.names.unnamed()) == builds[-2:3:-1]


def test_a_build_that_has_a_name_needs_no_other_entry(store: Store) -> None:
    build = add(store)
    store.names.keep(build)
    assert list(store.names.unnamed()) == [build]
    store.names.tag(APP, build)
    assert list(store.names.unnamed()) == []
    store.names.keep(build)
    assert list(store.names.unnamed()) == []
    assert store.names.resolve(APP) == build


def test_a_kept_build_writes_nothing_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.names.keep(add(store))
    monkeypatch.setattr(os, "fsync", lambda _handle: pytest.fail("written"))
    store.names.keep(add(store))


def test_nameless_entries_of_other_tools_stay(store: Store) -> None:
    other = add(store, b"other")
    document = json.loads(store.paths.names.read_bytes())
    foreign = {"mediaType": other.media_type, "digest": other.digest, "size": other.size}
    document["manifests"].append(foreign)
    store.paths.names.write_text(json.dumps(document))
    for number in range(20):
        store.names.keep(add(store, b"%d" % number))
    store.names.forget(other.digest)
    store.names.tag(APP, other)
    assert foreign in json.loads(store.paths.names.read_bytes())["manifests"]
    assert other not in store.names.unnamed()


def _keep(root: Path, number: int) -> None:
    with Store.open(root) as store:
        for n in range(2):
            store.names.keep(add(store, b"%d %d" % (number, n)))


def test_builds_at_the_same_time_are_all_kept(store: Store) -> None:
    context = get_context("spawn")
    processes = [context.Process(target=_keep, args=(store.paths.root, n)) for n in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    kept = {item.digest for item in store.names.unnamed()}
    assert kept == {digest_bytes(b"%d %d" % (n, m)) for n in range(5) for m in range(2)}
