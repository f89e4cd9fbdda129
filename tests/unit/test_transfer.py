import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from imgbuild.errors import DigestMismatchError, ImageError, RegistryError
from imgbuild.events import Event, TransferProgress
from imgbuild.oci import media_types
from imgbuild.oci.content import Opener
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import digest_bytes
from imgbuild.oci.manifest import Manifest, dump_manifest
from imgbuild.oci.platform import Platform
from imgbuild.transfer import copy_image, read_document
from tests.support.memory import MemoryStore, add_image, add_index


def manifest_with(store: MemoryStore, *layers: Descriptor) -> Descriptor:
    config = store.add(media_types.OCI_CONFIG, b"{}")
    data = dump_manifest(Manifest(media_types.OCI_MANIFEST, config, layers))
    return store.add(media_types.OCI_MANIFEST, data)


@pytest.mark.parametrize("jobs", [1, 4])
def test_everything_is_copied_children_first(jobs: int) -> None:
    source, sink = MemoryStore(), MemoryStore()
    arm = add_image(source, (b"arm",), Platform("linux", "arm64"))
    root = add_index(source, add_image(source), arm)
    copy_image(source, sink, root, jobs=jobs)
    assert sink.blobs == source.blobs
    assert sink.stored[-1] == root.digest
    for manifest in sink.stored[-3:-1]:
        assert manifest in {item.digest for item in (arm, add_image(source))}


def test_each_digest_is_read_once() -> None:
    source, sink = MemoryStore(), MemoryStore()
    one = add_image(source, (b"shared", b"a"))
    two = add_image(source, (b"shared", b"b"))
    copy_image(source, sink, add_index(source, one, two, one))
    assert sorted(source.opened) == sorted(set(source.opened))


def test_what_is_there_is_not_copied() -> None:
    source, sink = MemoryStore(), MemoryStore()
    root = add_image(source)
    copy_image(source, sink, root)
    sink.stored.clear()
    copy_image(source, sink, root)
    assert sink.stored == []


def test_a_missing_child_of_a_present_root_is_copied() -> None:
    source, sink = MemoryStore(), MemoryStore()
    root = add_image(source)
    copy_image(source, sink, root)
    lost = sink.stored[0]
    del sink.blobs[lost]
    copy_image(source, sink, root)
    assert lost in sink.blobs


def test_foreign_layers_stay_where_they_are() -> None:
    source, sink = MemoryStore(), MemoryStore()
    foreign = Descriptor(media_types.OCI_LAYER_FOREIGN + "+gzip", digest_bytes(b"theirs"), 6)
    copy_image(source, sink, manifest_with(source, foreign))
    assert foreign.digest not in sink.blobs


@pytest.mark.parametrize("jobs", [1, 4])
def test_damaged_content_ends_the_copy_before_the_root(jobs: int) -> None:
    source, sink = MemoryStore(), MemoryStore()
    root = add_image(source)
    layer = min(d for d in source.blobs if d != root.digest and source.blobs[d][:2] == b"\x1f\x8b")
    source.blobs[layer] = source.blobs[layer][:-1] + b"?"
    with pytest.raises(DigestMismatchError):
        copy_image(source, sink, root, jobs=jobs)
    assert root.digest not in sink.blobs
    assert layer not in sink.blobs


def test_the_first_error_stops_the_other_transfers() -> None:
    source = MemoryStore()
    slow = source.add(media_types.OCI_LAYER, bytes(64 << 20))
    bad = source.add(media_types.OCI_LAYER, b"bad")
    root = manifest_with(source, slow, bad)
    reading = threading.Event()

    class Sink(MemoryStore):
        def put(self, descriptor: Descriptor, opener: Opener, origin: str | None = None) -> None:
            if descriptor.digest == bad.digest:
                reading.wait(10)
                raise RegistryError("refused")
            if descriptor.digest == slow.digest:
                with opener() as stream:
                    # Without the stop this would go on for ever.
                    while True:
                        stream.read(1)
                        reading.set()

    with pytest.raises(RegistryError, match="refused"):
        copy_image(source, Sink(), root)


def test_progress_is_told_for_each_blob_and_ends_complete() -> None:
    source, sink = MemoryStore(), MemoryStore()
    big = source.add(media_types.OCI_LAYER, bytes(5 << 20))
    told: list[Event] = []
    copy_image(source, sink, manifest_with(source, big), events=told.append, doing="pulling")
    what = f"pulling layer {big.digest[:19]}"
    progress = [e for e in told if isinstance(e, TransferProgress) and e.what == what]
    assert [e.done for e in progress] == sorted({e.done for e in progress})
    assert len(progress) > 2
    assert (progress[-1].done, progress[-1].total) == (big.size, big.size)


def test_the_origin_reaches_the_sink() -> None:
    source = MemoryStore()
    seen: dict[str, str | None] = {}

    class Sink(MemoryStore):
        def put(self, descriptor: Descriptor, opener: Opener, origin: str | None = None) -> None:
            seen[descriptor.digest] = origin

    root = add_image(source)
    copy_image(source, Sink(), root, origin=lambda digest: f"from/{digest}")
    assert seen.pop(root.digest) is None, "manifests cannot be mounted"
    assert seen == {digest: f"from/{digest}" for digest in seen}


def test_progress_says_what_is_copied() -> None:
    source, told = MemoryStore(), list[Event]()
    copy_image(source, MemoryStore(), add_image(source), events=told.append, doing="pushing")
    words = {e.what.rpartition(" ")[0] for e in told if isinstance(e, TransferProgress)}
    assert words == {"pushing layer", "pushing config"}
    told.clear()
    odd = source.add("application/octet-stream", b"odd")
    copy_image(source, MemoryStore(), manifest_with(source, odd), events=told.append)
    assert TransferProgress(f"copying blob {odd.digest[:19]}", 3, 3) in told


def test_a_retry_gets_a_fresh_stream() -> None:
    source = MemoryStore()
    root = add_image(source)

    class Sink(MemoryStore):
        def put(self, descriptor: Descriptor, opener: Opener, origin: str | None = None) -> None:
            with opener() as first:
                first.read(3)
            super().put(descriptor, opener, origin)

    sink = Sink()
    copy_image(source, sink, root)
    assert sink.blobs == source.blobs


def test_an_index_that_holds_itself_too_deeply_is_refused() -> None:
    source = MemoryStore()
    root = add_image(source)
    for _ in range(6):
        root = add_index(source, root)
    with pytest.raises(ImageError, match="nested"):
        copy_image(source, MemoryStore(), root)


def test_a_huge_document_is_not_read() -> None:
    class Source:
        def open(self, descriptor: Descriptor) -> BinaryIO:
            raise AssertionError("opened")

    huge = Descriptor(media_types.OCI_MANIFEST, digest_bytes(b""), 1 << 40)
    with pytest.raises(ImageError, match="too many"):
        read_document(Source(), huge)


def test_the_library_starts_no_threads_for_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    source, sink = MemoryStore(), MemoryStore()
    root = add_image(source)
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("thread"))
    copy_image(source, sink, root, jobs=1)


def test_interrupting_stops_the_transfers(tmp_path: Path) -> None:
    source = MemoryStore()
    layers = [source.add(media_types.OCI_LAYER, bytes([n]) * 9) for n in range(4)]

    class Sink(MemoryStore):
        def put(self, descriptor: Descriptor, opener: Opener, origin: str | None = None) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_image(source, Sink(), manifest_with(source, *layers))
