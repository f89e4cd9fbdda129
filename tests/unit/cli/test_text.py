import pytest

from imgbuild.cli.text import sanitise, size


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain\ttext", "plain\ttext"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]52;c;aGk=\x1b\\x", "x"),
        ("a\x08b\x07c", "abc"),
        ("\x9b31mred", "31mred"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1bcreset", "reset"),
        ("caf\udce9 \udcff", r"caf\xe9 \xff"),
    ],
)
def test_control_sequences_are_removed(text: str, safe: str) -> None:
    assert sanitise(text) == safe


def test_colours_can_stay_and_nothing_else_does() -> None:
    assert sanitise("\x1b[31mred\x1b[2J\x1b[0m", colours=True) == "\x1b[31mred\x1b[0m"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (1000, "1kB"), (12_300_000, "12.3MB")]
)
def test_sizes_are_powers_of_a_thousand(count: int, text: str) -> None:
    assert size(count) == text
