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
    from imgbuild.dockerfile.globs import BadPatternError, element_expression

    try:
        return re.compile(element_expression(_text(pattern)), re.DOTALL)
    except BadPatternError:
        return None
