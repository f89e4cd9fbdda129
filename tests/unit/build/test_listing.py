import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.build.listing import Item, Listing, from_entry
from imgbuild.errors import DiskFullError
from imgbuild.layer.entry import Entry

SOME = 10_000  # more than two chunks


def items(count: int, size: int = 10) -> Iterator[Item]:
    for n in range(count):
        yield Item(b"d/%05d" % n, "file", 0o640, 1, 2, n, size, stat=(1, n, n * 1000, 5))


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, SOME])
def test_items_come_again_in_their_order(tmp_path: Path, count: int) -> None:
    listing = Listing(items(count), tmp_path)
    assert list(listing) == list(listing) == list(items(count))
    assert len(listing) == listing.files == count
    assert listing.bytes == 10 * count
    assert listing.newest == max(count - 1, 0)
    assert listing.latest_ns == max((count - 1) * 1000, 5 if count else 0)
    listing.close()


def test_two_readers_do_not_disturb_each_other(tmp_path: Path) -> None:
    listing = Listing(items(SOME), tmp_path)
    pairs = zip(listing, listing, strict=True)
    assert all(a == b for a, b in pairs)
    listing.close()


def test_long_lists_are_in_a_file_without_a_name(tmp_path: Path) -> None:
    listing = Listing(items(SOME), tmp_path)
    assert listing._file is not None
    assert os.fstat(listing._file.fileno()).st_size > SOME * 40
    assert list(tmp_path.iterdir()) == []
    listing.close()
    short = Listing(items(10), tmp_path)
    assert short._file is None
    short.close()


CHANGED = [
    {"rel": b"e"}, {"type": "fifo"}, {"mode": 0o600}, {"uid": 9}, {"gid": 9}, {"mtime": 9},
    {"size": 9}, {"link": b"x"}, {"rdev": (1, 2)}, {"xattrs": {"a": b"b"}}, {"digest": "d"},
    {"stat": (1, 2, 3, 5)}, {"group": b"g"}, {"implied": True},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGED, ids=lambda change: str(*change))
def test_whatever_changes_shows_in_the_fingerprint(
    tmp_path: Path, change: dict[str, object]
) -> None:
    plain = Item(b"d", "file", stat=(1, 2, 3, 4))
    before = Listing([plain], tmp_path).fingerprint
    assert Listing([Item(*plain)], tmp_path).fingerprint == before
    assert Listing([plain._replace(**change)], tmp_path).fingerprint != before  # type: ignore[arg-type]


def test_the_fingerprint_covers_every_chunk(tmp_path: Path) -> None:
    seen = set()
    for at in (0, 5000, SOME - 1):
        listed = list(items(SOME))
        listed[at] = listed[at]._replace(mode=0o777)
        with closing(Listing(listed, tmp_path)) as listing:
            seen.add(listing.fingerprint)
    with closing(Listing(items(SOME), tmp_path)) as listing:
        seen.add(listing.fingerprint)
    assert len(seen) == 4


@given(
    st.binary(),
    st.integers(-(2**80), 2**80),
    st.dictionaries(st.text(), st.binary()),
    st.booleans(),
)
def test_any_value_survives(rel: bytes, number: int, xattrs: dict[str, bytes], flag: bool) -> None:
    item = Item(rel, "file", mtime=number, stat=(1, 2, number, number), xattrs=xattrs, implied=flag)
    listing = Listing([item] * 4097, Path("/tmp"))
    assert next(iter(listing)) == item
    listing.close()


def test_only_files_with_several_names_here_have_a_group(tmp_path: Path) -> None:
    linked = [item._replace(group=b"%d" % (n // 2)) for n, item in enumerate(items(SOME - 1))]
    with closing(Listing(linked, tmp_path)) as listing:
        groups = [item.group for item in listing]
    assert groups[:4] == [b"0", b"0", b"1", b"1"]
    assert groups[-2:] == [b"4998", b""]


def test_a_full_disk_is_told_as_such() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("cannot apply: there is no /dev/full")

    class Full(Listing):
        def _spill(self) -> None:
            self._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - closed by the listing
            super()._spill()

    with pytest.raises(DiskFullError):
        Full(items(SOME), Path("/tmp"))


def test_an_entry_becomes_an_item_and_back() -> None:
    entry = Entry(b"a/b", "char", 0o4600, 1, 2, 3, 0, b"", (4, 5), {"k": b"v"})
    assert from_entry(b"b", entry).entry(b"a/b") == entry
