"""Variable expansion and quoting: one scanner over a word, with the modes BuildKit uses it in.

Source of the rules: BuildKit's frontend/dockerfile/shell. A value that was filled in is never
looked at again, so `$` and quotes in values stay what they are.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from imgbuild.dockerfile.quoting import quote
from imgbuild.dockerfile.source import BLANKS
from imgbuild.dockerfile.substitution import replace, trim_prefix, trim_suffix
from imgbuild.errors import DockerfileError

Lookup = Callable[[str], str | None]

# Parameters of a shell that a Dockerfile never has; they are read as names, and are unset.
_SPECIAL = "@*#?-$!0"
_PLAIN = {escape: re.compile(f"[^$'\"<{re.escape(escape)}}}/{BLANKS}]+") for escape in "\\`"}
_NOTEWORTHY = {escape: re.compile(f"[$'\"{re.escape(escape)}]") for escape in "\\`"}
_RUNS = re.compile(f"[{BLANKS}]+|[^{BLANKS}]+")
# What Go makes of a character that is not there.
_END = "\N{REPLACEMENT CHARACTER}"
_DEEPEST = 100
# How many characters the variables of one word may add; a file of 60 kB could ask for terabytes.
_MOST = 1 << 24
_TOO_MUCH = f"its variables come to more than {_MOST} characters"


class Expanded(NamedTuple):
    """A word's text, and the variables it named: `used` were set, `unknown` were not."""

    text: str
    used: frozenset[str]
    unknown: frozenset[str]


def expand(
    word: str,
    lookup: Lookup,
    escape: str = "\\",
    *,
    raw_quotes: bool = False,
    raw_escapes: bool = False,
    skip_quotes: bool = False,
    keep_unset: bool = False,
) -> Expanded:
    """Fill in the variables of a word and take its quotes and escapes off.

    `raw_quotes` keeps the quotes and `raw_escapes` the escape characters in the text;
    `skip_quotes` sees no quotes at all; `keep_unset` leaves references to unset variables as they
    are. Raises `DockerfileError` (without a span) in BuildKit's words.
    """
    if not _NOTEWORTHY[escape].search(word):
        return Expanded(word, frozenset(), frozenset())
    scanner = _Scanner(
        word,
        lookup,
        escape,
        raw_quotes=raw_quotes,
        keep_unset=keep_unset,
        skip_quotes=skip_quotes,
    )
    text = scanner.run(raw_escapes, None)
    return Expanded(text, frozenset(scanner.used), frozenset(scanner.unknown))


def expand_words(
    word: str,
    lookup: Lookup,
    escape: str = "\\",
    *,
    raw_quotes: bool = False,
    raw_escapes: bool = False,
    keep_unset: bool = False,
) -> list[str]:
    """Expand as `expand` does and split at blanks, those of values included, but not quoted ones."""
    words = _Words()
    scanner = _Scanner(word, lookup, escape, raw_quotes=raw_quotes, keep_unset=keep_unset)
    scanner.run(raw_escapes, words)
    return words.take()


def expand_heredoc(content: str, lookup: Lookup) -> Expanded:
    """Expand the body of a COPY's or ADD's here-document: quotes stay, the escape is a backslash."""
    return expand(content, lookup, skip_quotes=True)


def expand_for_display(word: str, lookup: Lookup, escape: str = "\\") -> Expanded:
    """Expand for the name of a step: quotes and unset variables stay."""
    return expand(word, lookup, escape, raw_quotes=True, keep_unset=True)


class _Words:
    """Words as they grow: blanks end one unless they were quoted or escaped."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._word: list[str] = []
        self._inside = False

    def add(self, text: str) -> None:
        for part in _RUNS.findall(text):
            if part[0] not in BLANKS:
                self.add_raw(part)
            elif self._inside and any(self._word):
                self._end()

    def add_raw(self, text: str) -> None:
        self._word.append(text)
        self._inside = True

    def take(self) -> list[str]:
        if any(self._word):
            self._end()
        return self._done

    def _end(self) -> None:
        self._done.append("".join(self._word))
        self._word = []
        self._inside = False


class _Scanner:
    """One pass over a word; `pos` only moves forward."""

    def __init__(
        self,
        text: str,
        lookup: Lookup,
        escape: str,
        *,
        raw_quotes: bool,
        keep_unset: bool,
        skip_quotes: bool = False,
    ) -> None:
        self.text = text
        self.pos = 0
        self.lookup = lookup
        self.escape = escape
        self.raw_quotes = raw_quotes
        self.quotes = "" if skip_quotes else "'\""
        self.keep_unset = keep_unset
        self.raw_escapes = False
        self.depth = 0
        self.room = _MOST
        self.plain = _PLAIN[escape]
        self.used: set[str] = set()
        self.unknown: set[str] = set()

    def run(self, raw_escapes: bool, words: _Words | None) -> str:
        try:
            return self._until("", raw_escapes, words)
        except _WordError as problem:
            raise DockerfileError(f"failed to process {quote(self.text)}: {problem}") from None

    def _peek(self) -> str:
        return self.text[self.pos : self.pos + 1]

    def _next(self) -> str:
        char = self.text[self.pos : self.pos + 1]
        self.pos += 1
        return char

    def _until(self, stop: str, raw_escapes: bool, words: _Words | None = None) -> str:
        """Read up to the character `stop` and over it, or to the end where `stop` is empty."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _WordError("substitutions are nested too deeply")
        before, self.raw_escapes = self.raw_escapes, raw_escapes
        try:
            return self._pieces(stop, words)
        finally:
            self.depth -= 1
            self.raw_escapes = before

    def _pieces(self, stop: str, words: _Words | None) -> str:
        out: list[str] = []
        while self.pos < len(self.text):
            if self.text[self.pos] == stop:
                self.pos += 1
                return "".join(out)
            piece, quoted = self._piece()
            out.append(piece)
            if words is not None:
                (words.add_raw if quoted else words.add)(piece)
        if stop:
            raise _WordError(f"unexpected end of statement while looking for matching {stop}")
        return "".join(out)

    def _piece(self) -> tuple[str, bool]:
        """Read one piece; tell whether its blanks are protected from splitting."""
        char = self.text[self.pos]
        if char == "$":
            return self._dollar(), False
        if char in self.quotes:
            return (self._single() if char == "'" else self._double()), True
        if char == "<":
            return self._angle(), True
        if char == self.escape:
            return self._escaped(), True
        run = self.plain.match(self.text, self.pos)
        if run is None:
            self.pos += 1
            return char, False
        self.pos = run.end()
        return run[0], False

    def _escaped(self) -> str:
        self.pos += 1
        char = self._next()
        # An escape character at the very end is dropped.
        return self.escape + char if self.raw_escapes else char

    def _angle(self) -> str:
        """Read `<`, or `<<` with the blanks behind it: they belong to a here-document's word."""
        if self.text[self.pos : self.pos + 2] != "<<":
            self.pos += 1
            return "<"
        start, end = self.pos, self.pos + 2
        while self.text[end : end + 1] and self.text[end] in BLANKS:
            end += 1
        self.pos = end
        return self.text[start:end]

    def _single(self) -> str:
        end = self.text.find("'", self.pos + 1)
        if end < 0:
            self.pos = len(self.text)
            raise _WordError("unexpected end of statement while looking for matching single-quote")
        start, self.pos = self.pos, end + 1
        return self.text[start : self.pos] if self.raw_quotes else self.text[start + 1 : end]

    def _double(self) -> str:
        mark = '"' if self.raw_quotes else ""
        self.pos += 1
        out = [mark]
        while self.pos < len(self.text):
            char = self.text[self.pos]
            if char == '"':
                self.pos += 1
                out.append(mark)
                return "".join(out)
            if char == "$":
                out.append(self._dollar())
            elif char == self.escape:
                out.append(self._escaped_in_double())
            else:
                self.pos += 1
                out.append(char)
        raise _WordError("unexpected end of statement while looking for matching double-quote")

    def _escaped_in_double(self) -> str:
        self.pos += 1
        char = self._peek()
        kept = self.escape if self.raw_escapes else ""
        if not char:
            return kept
        if char in {'"', "$", self.escape}:
            self.pos += 1
            return kept + char
        return kept + self.escape

    def _dollar(self) -> str:
        self.pos += 1
        if self._peek() == "{":
            self.pos += 1
            return self._braces()
        name = self._name()
        if not name:
            return "$"
        value = self._value(name)
        if value is None:
            return f"${name}" if self.keep_unset else ""
        return value

    def _braces(self) -> str:
        first = self._peek()
        if not first:
            raise _WordError("syntax error: missing '}'")
        if first in "{}:":
            raise _WordError("syntax error: bad substitution")
        name = self._name()
        sign = self._next()
        if sign == "}":
            value = self._value(name)
            if value is None:
                return f"${{{name}}}" if self.keep_unset else ""
            return value
        if sign == "/":
            return self._replaced(name)
        if sign == ":":
            return self._modified(name, self._next() or _END, colon=True)
        if sign and sign in "+-?#%":
            return self._modified(name, sign, colon=False)
        raise _WordError(f"unsupported modifier ({sign or _END}) in substitution")

    def _modified(self, name: str, sign: str, *, colon: bool) -> str:
        word = self._inner("}", "syntax error: missing '}'", raw_escapes=sign in "#%")
        value = self._value(name)
        signs = f":{sign}" if colon else sign
        if value is None and self.keep_unset:
            return f"${{{name}{signs}{word}}}"
        missing = value is None or (colon and not value)
        text = value or ""
        if sign == "-":
            return word if missing else text
        if sign == "+":
            return "" if missing else word
        if sign == "?":
            if missing:
                state = "unset" if value is None else "empty"
                raise _WordError(f"{name}: {word or f'is not allowed to be {state}'}")
            return text
        if sign in "#%" and not colon:
            longest = word.startswith(sign)
            trim = trim_prefix if sign == "#" else trim_suffix
            return _substituted(word, lambda: trim(word.removeprefix(sign), text, longest=longest))
        raise _WordError(f"unsupported modifier ({signs}) in substitution")

    def _replaced(self, name: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self.pos += 1
        pattern = self._inner("/", "syntax error: missing '/' in ${}", raw_escapes=True)
        replacement = self._inner("}", "syntax error: missing '}'", raw_escapes=True)
        value = self._value(name)
        if value is None and self.keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        text = value or ""
        return _substituted(
            pattern,
            lambda: replace(pattern, replacement, text, everywhere=everywhere, room=self.room),
        )

    def _inner(self, stop: str, missing: str, *, raw_escapes: bool) -> str:
        try:
            return self._until(stop, raw_escapes)
        except _WordError:
            if self.pos >= len(self.text):
                raise _WordError(missing) from None
            raise

    def _name(self) -> str:
        """Read a variable's name: digits, one special parameter, or letters, digits and `_`."""
        start = end = self.pos
        text = self.text
        if text[end : end + 1].isdecimal():
            while text[end : end + 1].isdecimal():
                end += 1
        elif end < len(text) and text[end] in _SPECIAL:
            end += 1
        else:
            while end < len(text) and _names(text[end]):
                end += 1
        self.pos = end
        return text[start:end]

    def _value(self, name: str) -> str | None:
        value = self.lookup(name)
        (self.unknown if value is None else self.used).add(name)
        self.room -= len(value or "")
        if self.room < 0:
            raise _WordError(_TOO_MUCH)
        return value


class _WordError(Exception):
    """What is wrong with a word, in BuildKit's words."""


def _names(char: str) -> bool:
    return char == "_" or char.isalpha() or char.isdecimal()


def _substituted(pattern: str, substitute: Callable[[], str]) -> str:
    try:
        return substitute()
    except OverflowError:
        raise _WordError(_TOO_MUCH) from None
    except ValueError as problem:
        raise _WordError(f"invalid pattern ({pattern}) in substitution: {problem}") from None
