import hashlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.errors import ImageError
from imgbuild.layer.entry import Entry
from imgbuild.layer.index import IndexWriter, decode_entry, encode_entry, read_index
from imgbuild.oci.digest import digest_bytes

DIFF_ID = digest_bytes(b"layer")

ENTRIES = st.builds(
    Entry,
    path=st.binary(min_size=1),
    type=st.sampled_from(["file", "dir", "symlink", "whiteout", "opaque", "char"]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32),
    mtime=st.integers(-(2**60), 2**60),
    size=st.integers(0, 2**60),
    linkname=st.binary(),
    rdev=st.none() | st.tuples(st.integers(0, 4095), st.integers(0, 2**20)),
    xattrs=st.dictionaries(st.text(), st.binary()),
    digest=st.none() | st.builds(digest_bytes, st.binary()),
    offset=st.integers(0, 2**60),
)


def written(entries: list[Entry]) -> bytes:
    out = io.BytesIO()
    writer = IndexWriter(out)
    for entry in entries:
        writer.add(entry)
    writer.finish(DIFF_ID, 1024)
    return out.getvalue()


@given(st.lists(ENTRIES, max_size=5))
def test_what_is_written_is_read(entries: list[Entry]) -> None:
    assert read_index(io.BytesIO(written(entries)), DIFF_ID) == entries


@given(ENTRIES)
def test_lines_stand_alone(entry: Entry) -> None:
    line = encode_entry(entry)
    assert line.count(b"\n") == 1
    assert decode_entry(line) == entry


def test_a_name_that_is_not_utf8_survives() -> None:
    entry = Entry(b"caf\xe9/\xff\xfe\n", "file")
    assert read_index(io.BytesIO(written([entry])), DIFF_ID)[0].path == b"caf\xe9/\xff\xfe\n"


def test_every_truncation_is_refused() -> None:
    data = written([Entry(b"a", "file"), Entry(b"b", "dir")])
    for length in range(len(data)):
        with pytest.raises(ImageError):
            read_index(io.BytesIO(data[:length]), DIFF_ID)


def test_another_version_is_refused() -> None:
    data = written([]).replace(b":2}", b":999}", 1)
    with pytest.raises(ImageError, match="another version"):
        read_index(io.BytesIO(data), DIFF_ID)


def test_the_index_of_another_layer_is_refused() -> None:
    with pytest.raises(ImageError, match="another layer"):
        read_index(io.BytesIO(written([])), digest_bytes(b"other"))


def test_a_lost_line_is_noticed() -> None:
    lines = written([Entry(b"a", "file"), Entry(b"b", "dir")]).splitlines(keepends=True)
    with pytest.raises(ImageError, match="lacks"):
        read_index(io.BytesIO(b"".join(lines[:1] + lines[2:])), DIFF_ID)


@pytest.mark.parametrize(
    "row", ["[]", "{}", "1", '["a"]', "not json", '["a","rocket"' + ",0" * 10 + "]"]
)
def test_a_damaged_line_is_refused(row: str) -> None:
    lines = written([Entry(b"a", "file")]).splitlines(keepends=True)
    lines[1] = row.encode() + b"\n"
    with pytest.raises(ImageError, match="damaged"):
        read_index(io.BytesIO(b"".join(lines)), DIFF_ID)
    with pytest.raises(ImageError):
        decode_entry(lines[1])


def test_the_trailer_says_what_the_layer_is() -> None:
    *lines, end = written([Entry(b"a", "file")]).splitlines(keepends=True)
    trailer = json.loads(end)
    assert trailer == {
        "diff_id": DIFF_ID,
        "size": 1024,
        "entries": 1,
        "plain": True,
        "whiteouts": 0,
        "sha256": hashlib.sha256(b"".join(lines)).hexdigest(),
    }
