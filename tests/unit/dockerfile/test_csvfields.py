"""One line of comma separated values."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.dockerfile.csvfields import csv_fields


@given(st.lists(st.text('ab ,"=é', max_size=5), min_size=1, max_size=5))
def test_what_a_writer_wrote_comes_back(fields: list[str]) -> None:
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="").writerow(fields)
    assert csv_fields(stream.getvalue()) == fields


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "EOF"),
        ('a"', 'parse error on line 1, column 2: bare " in non-quoted-field'),
        ('é,b"', 'parse error on line 1, column 5: bare " in non-quoted-field'),
        ('"a', 'parse error on line 1, column 2: extraneous or missing " in quoted-field'),
        ('"a"b', 'parse error on line 1, column 3: extraneous or missing " in quoted-field'),
    ],
)
def test_refusals(line: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        csv_fields(line)
    assert str(caught.value) == message
