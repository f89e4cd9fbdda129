"""Durations as Go reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.dockerfile.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("1h2m3s4ms5us6ns", 3723004005006),
        ("1.5h", 5400 * 10**9),
        ("-.5s", -500 * 10**6),
        ("0.000000001s", 1),
        ("0.9999999999999999999999s", 999999999),
        ("9223372036854775807ns", (1 << 63) - 1),
        ("-9223372036854775808ns", -(1 << 63)),
    ],
)
def test_good(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        (".", 'time: invalid duration "."'),
        ("+-1s", 'time: invalid duration "+-1s"'),
        ("1", 'time: missing unit in duration "1"'),
        ("1x", 'time: unknown unit "x" in duration "1x"'),
        ("1 s", 'time: unknown unit " s" in duration "1 s"'),
        ("\u0661s", 'time: invalid duration "\u0661s"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("9" * 5000 + "s", f'time: invalid duration "{"9" * 5000}s"'),
        ("9223372036s9223372036s", 'time: invalid duration "9223372036s9223372036s"'),
    ],
)
def test_bad(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(text)
    assert str(caught.value) == message


@given(st.text("0123456789.+-nsuµmh", max_size=12))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        found = parse_duration(text)
    except ValueError:
        return
    assert -(1 << 63) <= found < 1 << 63
