"""Wildcards of COPY and ADD sources: Go's filepath.Match, one path element at a time.

Source: https://pkg.go.dev/path/filepath#Match.
"""

import re
from functools import lru_cache


def has_wildcard(element: bytes) -> bool:
    """Tell whether `element` is a pattern; a backslash hides the character after it."""
    return re.search(rb"(?:^|[^\\])(?:\\\\)*[*?[]", element) is not None


def match(pattern: bytes, name: bytes) -> bool:
    """Tell whether `name`, which has no slash, matches; a malformed pattern matches nothing."""
    compiled = _compile(pattern)
    return compiled is not None and compiled.fullmatch(_text(name)) is not None


def _text(raw: bytes) -> str:
    # Go matches characters, not bytes; names that are not UTF-8 keep their bytes.
    return raw.decode("utf-8", "surrogateescape")


@lru_cache(maxsize=256)
def _compile(pattern: bytes) -> re.Pattern[str] | None:
    text, out, at = _text(pattern), [], 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            found = _char_class(text, at)
            if found is None:
                return None
            piece, at = found
            out.append(piece)
        elif char == "\\":
            if at == len(text):
                return None
            out.append(re.escape(text[at]))
            at += 1
        else:
            out.append(re.escape(char))
    return re.compile("".join(out), re.DOTALL)


def _char_class(text: str, at: int) -> tuple[str, int] | None:
    """Translate `[...]` whose inside starts at `at`; None when it is malformed."""
    negated = text[at : at + 1] == "^"
    at += negated
    ranges: list[tuple[str, str]] = []
    while True:
        if at < len(text) and text[at] == "]" and ranges:
            break
        first = _class_char(text, at)
        if first is None:
            return None
        low, at = first
        high = low
        if text[at : at + 1] == "-":
            second = _class_char(text, at + 1)
            if second is None:
                return None
            high, at = second
        ranges.append((low, high))
    usable = [(low, high) for low, high in ranges if low <= high]
    body = "".join(f"{re.escape(low)}-{re.escape(high)}" for low, high in usable)
    if not body:
        return ("[^/]" if negated else "(?!)"), at + 1
    return (f"(?!/)[^{body}]" if negated else f"(?!/)[{body}]"), at + 1


def _class_char(text: str, at: int) -> tuple[str, int] | None:
    if at >= len(text) or text[at] in "-]":
        return None
    if text[at] == "\\":
        at += 1
        if at >= len(text):
            return None
    # A pattern that ends inside the class is malformed, as in Go.
    return (text[at], at + 1) if at + 1 < len(text) else None
