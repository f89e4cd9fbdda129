"""Go's %q."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.dockerfile.quoting import quote, quote_list


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", '""'),
        ("a b'é☃", '"a b\'é☃"'),
        ('"\\', '"\\"\\\\"'),
        ("\a\b\f\n\r\t\v\0\x1b\x7f", '"\\a\\b\\f\\n\\r\\t\\v\\x00\\x1b\\x7f"'),
        ("\udcff", '"\\xff"'),
        ("\x80\u200b\u2028\ufeff", '"\\u0080\\u200b\\u2028\\ufeff"'),
        ("\U0001f600\U000e0001", '"\U0001f600\\U000e0001"'),
    ],
)
def test_quote(text: str, quoted: str) -> None:
    assert quote(text) == quoted


def test_lists() -> None:
    assert quote_list(["a", "b c"]) == '["a" "b c"]'
    assert quote_list(()) == "[]"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_ascii_is_quoted_as_json_does(text: str) -> None:
    assert quote(text) == json.dumps(text)
