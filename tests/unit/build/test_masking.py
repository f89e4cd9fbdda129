import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.build.masking import Masker

SECRET = b"s3cret-value"


def masked(values: list[bytes], *parts: bytes) -> bytes:
    masker = Masker(values)
    return b"".join(masker.feed(part) for part in parts) + masker.flush()


@pytest.mark.parametrize(
    ("values", "parts", "shown"),
    [
        ([SECRET], [b"a s3cret-value b\n"], b"a *** b\n"),
        ([SECRET], [b"a s3cr", b"et-val", b"ue b\n"], b"a *** b\n"),
        ([SECRET], [b"s3cret-s3cret-value"], b"s3cret-***"),
        ([SECRET + b"\n"], [b"x=s3cret-value\n"], b"x=***\n"),
        ([b"abc"], [b"abc"], b"abc"),
        ([b""], [b"abc"], b"abc"),
        ([], [b"abc"], b"abc"),
        ([b"abcd", b"abcdef"], [b"abcd", b"ef abcd"], b"*** ***"),
        ([b"abcd", b"abcdef"], [b"abcd", b"x"], b"***x"),
        ([b"-----\nfirst-line\nshort\n"], [b"first-line short -----\nfirst-line\nshort"], b"*** short ***"),
        ([b"abab"], [b"ababab"], b"***ab"),
        ([b"s3cret-value"], [b"s3cret-valu"], b"s3cret-valu"),
    ],
)  # fmt: skip
def test_values_are_replaced(values: list[bytes], parts: list[bytes], shown: bytes) -> None:
    assert masked(values, *parts) == shown


def test_nothing_waits_that_is_no_beginning() -> None:
    masker = Masker([SECRET])
    assert masker.feed(b"Password: ") == b"Password: "
    assert masker.flush() == b""
    assert masker.feed(b"ends in s3c") == b"ends in "
    assert masker.flush() == b"s3c"
    assert masker.flush() == b""


@given(
    st.lists(st.text("ab", min_size=4, max_size=7).map(str.encode), max_size=3),
    st.lists(st.text("ab\n", max_size=9).map(str.encode), max_size=6),
)
def test_pieces_change_nothing(values: list[bytes], parts: list[bytes]) -> None:
    whole = b"".join(parts)
    shown = masked(values, *parts)
    assert not any(value in shown for value in values)
    if not any(value in whole for value in values):
        assert shown == whole


def test_a_large_secret_costs_little() -> None:
    # Each piece ends like the beginning of the value, again and again.
    assert masked([b"a" * 400_000 + b"b"], *[b"a" * 50_000] * 3) == b"a" * 150_000
