import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.oci.codec import dump_compact, dump_indented, load_object


@pytest.mark.parametrize(
    ("value", "written"),
    [
        # Observed with Go's json.Marshal.
        ("a && b > c < d", rb'"a \u0026\u0026 b \u003e c \u003c d"'),
        ("\u2028\u2029", rb'"\u2028\u2029"'),
        ('"\\\n\r\t\x01', rb'"\"\\\n\r\t\u0001"'),
        ("ä\U0001f600\x7f", '"ä\U0001f600\x7f"'.encode()),
        (b"\xff\xfea".decode("utf-8", "surrogateescape"), rb'"\ufffd\ufffda"'),
        ("\ud800", rb'"\ufffd"'),
        ({"<": [1, None, True]}, rb'{"\u003c":[1,null,true]}'),
    ],
)
def test_text_is_written_as_go_does(value: object, written: bytes) -> None:
    assert dump_compact(value) == written


@given(st.dictionaries(st.text(max_size=9), st.text(max_size=9)))
def test_what_is_written_can_be_read(value: dict[str, str]) -> None:
    assert json.loads(dump_compact(value)) == value
    assert json.loads(dump_indented(value)) == value


def test_half_characters_are_read_as_go_reads_them() -> None:
    data = rb'{"a": ["\ud800", "\uD83D\ude00", "x\uDC80y"], "\udfff": {"b": "\ud801"}}'
    found = load_object(data, "it")
    assert found == {"a": ["\ufffd", "\U0001f600", "x\ufffdy"], "\ufffd": {"b": "\ufffd"}}
