import pytest

from imgbuild.layer.entry import quoted


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a/b c", "'a/b c'"),
        ("é".encode(), "'é'"),
        (b"\xff", r"'\xff'"),
        (b"\x1b[2J\n", r"'\x1b[2J\n'"),
        ("\u202ex".encode(), r"'\xe2\x80\xaex'"),
    ],
)
def test_names_in_messages_cannot_speak_to_the_terminal(name: bytes, shown: str) -> None:
    assert quoted(name) == shown
