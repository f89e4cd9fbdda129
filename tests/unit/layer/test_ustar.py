from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.errors import ImageError
from imgbuild.layer import pax, ustar
from tests.support.archives import resummed


@pytest.mark.parametrize(
    ("name", "split"),
    [
        (b"a", (b"a", b"")),
        (b"a" * 100, (b"a" * 100, b"")),
        (b"a" * 101, None),
        (b"p/" + b"a" * 100, (b"a" * 100, b"p")),
        (b"p/" + b"a" * 101, None),
        (b"p" * 155 + b"/" + b"a" * 100, (b"a" * 100, b"p" * 155)),
        (b"p" * 156 + b"/" + b"a" * 100, None),
        (b"a" * 100 + b"/", None),
        (b"d/" + b"a" * 99 + b"/", (b"a" * 99 + b"/", b"d")),
        ("é".encode(), None),
    ],
)
def test_where_names_are_split(name: bytes, split: tuple[bytes, bytes] | None) -> None:
    assert ustar.split_name(name) == split


@given(st.lists(st.text("ab", min_size=1, max_size=60), min_size=1, max_size=8))
def test_split_names_join_again(parts: list[str]) -> None:
    name = "/".join(parts).encode()
    split = ustar.split_name(name)
    if split is not None:
        packed = ustar.pack(split[0], 0o644, 0, 0, 0, 0, b"0", prefix=split[1])
        assert ustar.parse(packed).name == name


def test_packing_is_undone_by_parsing() -> None:
    packed = ustar.pack(b"n", 0o7777, 2097151, 1, 2**33 - 1, 12345, b"3", b"l", (8, 1), b"p/q")
    assert ustar.parse(packed) == ustar.Header(
        b"p/q/n", 0o7777, 2097151, 1, 2**33 - 1, 12345, b"3", b"l", (8, 1)
    )


def header(**fields: tuple[int, bytes]) -> bytes:
    block = bytearray(ustar.pack(b"n", 0, 0, 0, 0, 0, b"0"))
    for at, value in fields.values():
        block[at : at + len(value)] = value
    return resummed(bytes(block))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"\x80" + bytes(10) + b"\x05", 5),
        (b"\x80" + bytes(6) + b"\xff\xff\xff\xff\xff", 2**40 - 1),
        (b"\xff" * 12, -1),
        (b"\xff" * 11 + b"\x00", -256),
        (b"           7", 7),
        (b"7          \0", 7),
        (b"\0" * 12, 0),
        (b"777777777777", 0o777777777777),
    ],
)
def test_numbers_in_all_their_forms(value: bytes, number: int) -> None:
    assert ustar.parse(header(mtime=(136, value))).mtime == number


def test_gnu_has_no_prefix_and_star_a_short_one() -> None:
    prefix = (345, b"p" * 131 + b"00000000001 " * 2)
    assert ustar.parse(header(p=prefix, m=(257, b"ustar  \0"))).name == b"n"
    assert ustar.parse(header(p=prefix, t=(508, b"tar\0"))).name == b"p" * 131 + b"/n"


def test_checksums_of_signed_characters_are_taken() -> None:
    block = bytearray(header(name=(0, b"\xe9")))
    signed = sum(b - 256 if b > 127 else b for b in block[:148] + b" " * 8 + block[156:])
    block[148:156] = b"%06o\0 " % signed
    assert ustar.parse(bytes(block)).name == b"\xe9"


@given(st.binary(min_size=512, max_size=512))
def test_garbage_is_refused(block: bytes) -> None:
    with pytest.raises(ImageError):
        ustar.parse(block)


@given(st.dictionaries(st.from_regex(rb"[a-zA-Z.]{1,30}", fullmatch=True), st.binary(max_size=200)))
def test_pax_records_survive(records: dict[bytes, bytes]) -> None:
    packed = pax.pack(records, b"n")
    size = ustar.parse(packed[:512]).size
    assert pax.parse(packed[512 : 512 + size]) == records
    assert len(packed) % 512 == 0


@pytest.mark.parametrize("size", range(85, 1005, 100))
def test_pax_lengths_count_themselves(size: int) -> None:
    for length in range(size, size + 15):
        assert pax.parse(pax._record(b"k", b"v" * length)) == {b"k": b"v" * length}


@given(st.binary(max_size=100))
def test_pax_garbage_never_crashes(body: bytes) -> None:
    with suppress(ImageError):
        pax.parse(body)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1", 1), (b"1.9", 1), (b"-1", -1), (b"-1.5", -2), (b"-0.5", -1), (b"-1.0", -1), (b"0", 0)],
)
def test_times_are_rounded_down(text: bytes, seconds: int) -> None:
    assert pax.seconds(text) == seconds
