"""What is recorded can be read again, and what a command made up does no harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild import recorded

HALF = st.one_of(st.none(), st.integers(0, 0xFFFFFFFE))


@given(HALF, HALF, st.booleans())
def test_owners_come_back(uid: int | None, gid: int | None, guessed: bool) -> None:
    value = recorded.owner_value((uid, gid), guessed=guessed)
    assert recorded.parse_owner(value) == (uid, gid)
    assert recorded.is_guessed(value) == guessed
    assert recorded.parse_special(recorded.special_value((uid, gid))) == (uid, gid)


@pytest.mark.parametrize(
    ("value", "owner"),
    [
        (b"", (None, None)),
        (b"5", (None, None)),
        (b"5:6", (5, 6)),
        (b"5:", (5, None)),
        (b":6:?", (None, 6)),
        (b"5:6:7", (5, None)),
        (b"-1:+6", (None, None)),
        (b"4294967295:4294967294", (None, 4294967294)),
        (b"1e3: 6", (None, None)),
        ("\u0665:6".encode(), (None, 6)),
        (b"9" * 5000 + b":1", (None, 1)),
    ],
)
def test_owners_that_a_command_made_up(value: bytes, owner: recorded.Halves) -> None:
    assert recorded.parse_owner(value) == owner


@pytest.mark.parametrize("value", [b"", b"x", b"x" * 20, b"\0" * 24])
def test_special_values_of_another_size_say_nothing(value: bytes) -> None:
    assert recorded.parse_special(value)[0] in ({None} if len(value) != 20 else {0x78787878})


@given(st.sampled_from(["char", "block"]), st.integers(0, 4095), st.integers(0, 0xFFFFF))
def test_devices_come_back(kind: str, major: int, minor: int) -> None:
    found = recorded.parse_device(recorded.device_value(kind, major, minor))
    assert found == (None if (kind, major, minor) == ("char", 0, 0) else (kind, major, minor))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"c",
        b"c:1",
        b"c:1:",
        b"d:1:3",
        b"c:0:0",
        b"c:4096:0",
        b"b:0:1048576",
        b"c:1:3:5",
        b"c:-1:3",
    ],
)
def test_devices_that_a_command_made_up(value: bytes) -> None:
    assert recorded.parse_device(value) is None
