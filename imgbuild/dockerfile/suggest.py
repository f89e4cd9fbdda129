"""Guess what a misspelt word was meant to be, as BuildKit does."""

from collections.abc import Iterable

# A guess further away than this many edits helps nobody (BuildKit's util/suggest).
_TOO_FAR = 3


def did_you_mean(word: str, options: Iterable[str], *, ignore_case: bool = False) -> str:
    """Return ` (did you mean X?)` for the closest option, and nothing when none is close.

    With `ignore_case` the guess is written in the case of `word`.
    """
    wanted = word.lower() if ignore_case else word
    best, match = _TOO_FAR, ""
    for option in options:
        candidate = option.lower() if ignore_case else option
        if candidate == wanted:
            return ""
        if abs(len(candidate) - len(wanted)) < best:
            distance = _distance(wanted, candidate)
            if distance < best:
                best, match = distance, candidate
    if not match:
        return ""
    if ignore_case and word != word.lower() and word == word.upper():
        match = match.upper()
    return f" (did you mean {match}?)"


def _distance(left: str, right: str) -> int:
    """Return the Levenshtein distance."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]
