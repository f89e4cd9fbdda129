import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.errors import DigestMismatchError, ImageError
from imgbuild.oci.content import VerifiedReader
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.digest import Digest, digest_bytes, parse_digest


def described(data: bytes, size: int | None = None) -> Descriptor:
    return Descriptor("x", digest_bytes(data), len(data) if size is None else size)


class Trickle(io.BytesIO):
    """A stream that gives one byte at a time, as a socket may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(1, 1 if size is None or size < 0 else size))


@given(st.binary(max_size=300), st.integers(1, 400), st.booleans())
def test_good_content_passes_in_any_pieces(data: bytes, piece: int, trickle: bool) -> None:
    stream = Trickle(data) if trickle else io.BytesIO(data)
    reader = VerifiedReader(stream, described(data))
    assert b"".join(iter(lambda: reader.read(piece), b"")) == data
    assert reader.read(piece) == b""


@given(st.binary(min_size=1, max_size=100), st.data())
def test_other_content_never_passes(data: bytes, draw: st.DataObject) -> None:
    other = draw.draw(st.binary(max_size=120).filter(lambda other: other != data))
    piece = draw.draw(st.integers(1, 130))
    reader = VerifiedReader(io.BytesIO(other), described(data))
    with pytest.raises(DigestMismatchError):
        while reader.read(piece):
            pass
    # It does not turn good when asked again.
    with pytest.raises(DigestMismatchError):
        while reader.read(piece):
            pass


def test_the_last_byte_is_given_out_only_when_all_is_right() -> None:
    reader = VerifiedReader(io.BytesIO(b"abcd"), described(b"abce"))
    assert reader.read(3) == b"abc"
    with pytest.raises(DigestMismatchError):
        reader.read(1)


def test_a_reader_who_stops_at_the_size_is_told_of_more() -> None:
    reader = VerifiedReader(io.BytesIO(b"abcd"), described(b"abc"))
    with pytest.raises(DigestMismatchError, match="goes on"):
        reader.read(3)


def test_an_early_end_names_what_is_missing() -> None:
    reader = VerifiedReader(io.BytesIO(b"abc"), described(b"abcdef"))
    assert reader.read(3) == b"abc"
    with pytest.raises(DigestMismatchError, match="3 bytes early"):
        reader.read(3)


def test_empty_content_is_checked_too() -> None:
    assert VerifiedReader(io.BytesIO(b""), described(b"")).read() == b""
    with pytest.raises(DigestMismatchError):
        VerifiedReader(io.BytesIO(b""), described(b"x", 0)).read()


def test_it_works_below_a_buffer() -> None:
    data = bytes(range(256)) * 100
    with io.BufferedReader(VerifiedReader(io.BytesIO(data), described(data)), 1000) as stream:
        assert stream.read(7) == data[:7]
        assert stream.read() == data[7:]


def test_closing_closes_the_stream(tmp_path: Path) -> None:
    stream = io.BytesIO(b"x")
    VerifiedReader(stream, described(b"x")).close()
    assert stream.closed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:abc",
        "sha256:" + "G" * 64,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 65,
        "sha256:" + "a" * 64 + "\n",
        "md5:" + "a" * 32,
        "sha256:../../" + "a" * 58,
        None,
        7,
    ],
)
def test_bad_digests_are_refused(text: object) -> None:
    with pytest.raises(ImageError, match="invalid digest"):
        parse_digest(text)


def test_a_digest_has_two_parts() -> None:
    digest = parse_digest("sha512:" + "0" * 128)
    assert isinstance(digest, Digest)
    assert (digest.algorithm, digest.encoded) == ("sha512", "0" * 128)
