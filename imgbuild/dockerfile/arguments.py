"""How the arguments of an instruction are cut up; nothing is expanded, quotes and escapes stay.

Source of the rules: BuildKit's frontend/dockerfile/parser/line_parsers.go.
"""

import re

from imgbuild.dockerfile.quoting import quote
from imgbuild.dockerfile.source import BLANKS
from imgbuild.errors import DockerfileError

# Blanks between words; fewer than Go's own blanks, which are trimmed at the ends.
_SPACES = re.compile(r"[\t\v\f\r ]+")
_BLANKS = re.compile(f"[{BLANKS}]+")
_SURROGATES = re.compile("[\ud800-\udfff]")


def cut_name(text: str) -> tuple[str, str]:
    """Cut an instruction's text into its name, as written, and the rest."""
    name, *rest = _SPACES.split(text.strip(BLANKS), maxsplit=1)
    return name, rest[0] if rest else ""


def cut_word(text: str) -> tuple[str, str]:
    """Cut off the first word; the rest starts at the next one."""
    word, *rest = _BLANKS.split(text, maxsplit=1)
    return word, rest[0] if rest else ""


def blank_separated(text: str) -> list[str]:
    return _SPACES.split(text) if text else []


def read_json(text: str) -> list[str] | None:
    """Return the strings of a JSON array; None for what is no JSON array.

    Raises `DockerfileError` for an array that holds anything but strings.
    """
    if not text.startswith("["):
        return None
    import json

    try:
        array = json.loads(text, parse_constant=_no_constant, parse_int=str.encode)
    except RecursionError:
        array = [None]
    except ValueError:
        return None
    if not all(isinstance(item, str) for item in array):
        raise DockerfileError(
            "when using JSON array syntax, arrays must be comprised of strings only"
        )
    return [_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", item) for item in array]


def _no_constant(name: str) -> None:
    raise ValueError(name)


def quoted_words(text: str, escape: str) -> list[str]:
    """Split at blanks that are neither quoted nor escaped."""
    words: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at] in BLANKS:
            at += 1
        if at == len(text):
            return words
        word, at = _quoted_word(text, at, escape)
        if word:
            words.append(word)


def _quoted_word(text: str, at: int, escape: str) -> tuple[str, int]:
    out: list[str] = []
    quote_ = ""
    while at < len(text):
        char = text[at]
        if not quote_ and char in BLANKS:
            break
        at += 1
        if char == escape and quote_ != "'":
            if at == len(text):
                break  # an escape character at the very end is dropped
            out.append(char)
            char = text[at]
            at += 1
        elif char == quote_:
            quote_ = ""
        elif not quote_ and char in "'\"":
            quote_ = char
        out.append(char)
    return "".join(out), at


def name_values(text: str, name: str, escape: str) -> tuple[list[tuple[str, str]], bool]:
    """Read the pairs of ENV and LABEL; tell whether they have the old form `NAME rest of line`."""
    words = quoted_words(text, escape)
    if not words:
        return [], False
    if "=" not in words[0]:
        parts = _SPACES.split(text, maxsplit=1)
        if len(parts) < 2:
            raise DockerfileError(
                f"{name} must have two arguments", hint=f"write {name} {parts[0]}=VALUE"
            )
        return [(parts[0], parts[1])], True
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(
                f"Syntax error - can't find = in {quote(word)}. Must be of the form: name=value",
                hint="put a value with blanks in quotes",
            )
        pairs.append((key, value))
    return pairs, False
