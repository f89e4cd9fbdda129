"""Guesses at misspelt words."""

import pytest

from imgbuild.dockerfile.suggest import did_you_mean

NAMES = ("RUN", "COPY", "ENTRYPOINT", "ENV")


@pytest.mark.parametrize(
    ("word", "guess"),
    [
        ("COPYY", "COPY"),
        ("copyy", "copy"),
        ("Copyy", "copy"),
        ("ENTRIPONT", "ENTRYPOINT"),
        ("EOF", "ENV"),
        ("INVALID", ""),
        ("copy", ""),
        ("", ""),
        ("X" * 100000, ""),
    ],
)
def test_guesses(word: str, guess: str) -> None:
    expected = f" (did you mean {guess}?)" if guess else ""
    assert did_you_mean(word, NAMES, ignore_case=True) == expected


def test_case_matters_for_flags() -> None:
    assert did_you_mean("FROM", ("from",)) == ""
    assert did_you_mean("form", ("from",)) == " (did you mean from?)"
