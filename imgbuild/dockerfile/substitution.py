"""The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*` and `?`; brackets are plain text.

Neither wildcard matches a line feed, as in BuildKit.
"""

import re

_STAR = "*"


def trim_prefix(pattern: str, value: str, *, longest: bool) -> str:
    """Cut the shortest or longest prefix that matches; raises `ValueError` for a wrong escape."""
    match = _compile(_tokens(pattern), longest=longest).match(value)
    return value if match is None else value[match.end() :]


def trim_suffix(pattern: str, value: str, *, longest: bool) -> str:
    """Cut the shortest or longest suffix that matches; raises `ValueError` for a wrong escape."""
    # A search from the left cannot find the shortest suffix, so all is turned around.
    match = _compile(_tokens(pattern)[::-1], longest=longest).match(value[::-1])
    return value if match is None else value[: len(value) - match.end()]


def replace(pattern: str, replacement: str, value: str, *, everywhere: bool, room: int) -> str:
    """Replace the first or every longest match; raises `ValueError` for a wrong escape.

    Raises `OverflowError` where the replacements have more than `room` characters in all.
    """
    out: list[str] = []
    at, ended = 0, -1
    for match in _compile(_tokens(pattern), longest=True).finditer(value):
        # Go takes no empty match right behind another match.
        if match.start() == match.end() == ended:
            continue
        room -= len(replacement)
        if room < 0:
            raise OverflowError
        out += (value[at : match.start()], replacement)
        at = ended = match.end()
        if not everywhere:
            break
    return "".join(out) + value[at:]


def _tokens(pattern: str) -> list[str]:
    """Cut a pattern into regular expressions of one character each, and stars."""
    tokens, chars = [], iter(pattern)
    for char in chars:
        if char == "*":
            tokens.append(_STAR)
        elif char == "?":
            tokens.append(".")
        elif char == "\\":
            tokens.append(_escaped(next(chars, "\N{REPLACEMENT CHARACTER}")))
        else:
            tokens.append(re.escape(char))
    return tokens


def _escaped(char: str) -> str:
    # `}` and `/` need the escape to get into the pattern at all.
    if char not in "*?\\}/":
        raise ValueError(f"invalid escape '\\{char}'")
    return re.escape(char)


def _compile(tokens: list[str], *, longest: bool) -> re.Pattern[str]:
    """Join tokens so that matching stays linear.

    What follows a star can be taken at its first place for good, which an atomic group says;
    only the last one has to be looked for at its last place, for the longest match.
    """
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token == _STAR:
            parts.append([])
        else:
            parts[-1].append(token)
    first, *rest = ["".join(part) for part in parts]
    if not rest:
        return re.compile(first)
    *between, last = rest
    middle = "".join(f"(?>.*?{part})" for part in between if part)
    return re.compile(f"{first}{middle}{'.*' if longest else '.*?'}{last}")
