"""Here-documents: openers and bodies."""

import pytest

from imgbuild.dockerfile.heredoc import (
    UnterminatedError,
    chomp,
    find_openers,
    parse_opener,
    read_body,
)
from imgbuild.dockerfile.instructions import Heredoc

A = Heredoc("A", "", expand=True, chomp=False)
DASHED = Heredoc("A", "", expand=True, chomp=True)


def test_openers_of_a_line() -> None:
    found = find_openers("RUN 3<<A cat <<-'B c' && x << D > e")
    assert found == [
        Heredoc("A", "", expand=True, chomp=False, fd=3),
        Heredoc("B c", "", expand=False, chomp=True),
        Heredoc("D", "", expand=True, chomp=False),
    ]


@pytest.mark.parametrize(
    "text", ["a b", "a<<b", "<<<a", "'<<a'", "\\<<a", "$((1<<2))", "<<- a", "<<"]
)
def test_no_openers(text: str) -> None:
    assert find_openers(f"RUN {text}") == []


def test_a_huge_descriptor() -> None:
    found = parse_opener("9" * 5000 + "<<A")
    assert found is not None
    assert found.fd == (1 << 64) - 1


def test_bodies() -> None:
    assert read_body(A, ["x", "\ty", " A", "A ", "A\r", "z"], 0) == (
        A.__class__("A", "x\n\ty\n A\nA \n", expand=True, chomp=False),
        5,
    )
    found, end = read_body(DASHED, ["-", "\tx", "\t\tA"], 1)
    assert (found.content, end) == ("\tx\n", 3)
    assert chomp(found).content == "x\n"
    assert chomp(A) is A


def test_an_unterminated_body() -> None:
    with pytest.raises(UnterminatedError):
        read_body(A, ["x", "\tA"], 0)
