"""Values of secrets are found in whatever pieces a layer comes, and never told."""

import base64
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.build.commit import LayerMaker
from imgbuild.build.leaks import Search, leak_error, needles
from imgbuild.errors import SecretInLayerError
from imgbuild.layer.entry import Entry
from imgbuild.store.store import Store

VALUE = b"a-value-of-some-length"


def found(data: bytes, values: dict[str, bytes], cuts: list[int]) -> list[tuple[str, str, int]]:
    search = Search(needles(values))
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in zip(edges, edges[1:], strict=False):
        search.feed(data[start:end])
    return [(hit.needle.name, hit.needle.form, hit.offset) for hit in search.hits]


@given(
    before=st.binary(max_size=60), after=st.binary(max_size=60), cuts=st.lists(st.integers(0, 200))
)
def test_a_value_is_found_across_pieces(before: bytes, after: bytes, cuts: list[int]) -> None:
    assert found(before + VALUE + after, {"s": VALUE + b"\n"}, cuts)[0] == ("s", "", len(before))


@given(
    before=st.binary(max_size=9), after=st.binary(max_size=9), cuts=st.lists(st.integers(0, 200))
)
def test_a_value_is_found_in_base64_whatever_is_around_it(
    before: bytes, after: bytes, cuts: list[int]
) -> None:
    data = b"Basic " + base64.b64encode(before + VALUE + after) + b"\n"
    assert [hit[:2] for hit in found(data, {"s": VALUE}, cuts)] == [("s", " in base64")]


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300)))
def test_nothing_is_found_where_there_is_nothing(data: bytes, cuts: list[int]) -> None:
    is_there = VALUE in data
    assert bool(found(data, {"s": VALUE}, cuts)) == is_there


def test_each_secret_is_told_once_and_short_ones_are_not_looked_for() -> None:
    values = {"a": b"first-value", "b": b"second-value", "short": b"1234567\n", "none": b""}
    data = b"second-value 1234567 first-value first-value"
    assert sorted(hit[0] for hit in found(data, values, [])) == ["a", "b"]
    assert needles({"short": b"1234567\n", "none": b""}) == []


def test_an_error_names_the_file_and_not_the_value() -> None:
    search = Search(needles({"key": VALUE}))
    search.feed(bytes(1000) + VALUE)
    entries = [
        Entry(b"a", "file", size=10, offset=990),
        Entry(b"d/\xff", "file", size=100, offset=1000),
    ]
    error = leak_error(search.hits[0], entries)
    assert error.message == r"the layer would hold the value of the secret key: in /d/\xff"
    assert VALUE.decode() not in error.message + str(error.hint)
    assert "among the names" in leak_error(search.hits[0], entries[:1]).message


@pytest.mark.parametrize("size", [1 << 10, 3 << 20])
def test_a_layer_is_not_made(tmp_path: Path, size: int) -> None:
    content = bytes(size) + VALUE
    entries = [Entry(b"a", "file", size=len(content)), Entry(b"b", "file", size=len(VALUE))]
    with Store.open(tmp_path / "store") as store:
        with (
            pytest.raises(SecretInLayerError, match="in /a"),
            LayerMaker(store, 0, {"s": VALUE}) as maker,
        ):
            maker.add(entries[0], io.BytesIO(content))
            maker.add(entries[1], io.BytesIO(VALUE))
            maker.finish_tar()
            maker.finish()
        store.blobs.flush()
        assert not [path for path in store.paths.blobs.rglob("*") if path.is_file()]
        assert not [path for path in store.paths.indexes.rglob("*") if path.is_file()]
        with LayerMaker(store, 0, {"s": b"another-value"}) as maker:
            maker.add(entries[0], io.BytesIO(content))
            maker.finish_tar()
            assert maker.finish().uncompressed_size > size
