"""File patterns of ignore files, and of COPY and ADD, as regular expressions.

Source of the rules: github.com/moby/patternmatcher. `*` and `?` match anything but `/`, `**` any
number of folders. Where moby hands part of a pattern to its regular expressions by accident (`\\d`,
`[[:alpha:]]`, `*` in brackets), the rules of Go's filepath.Match are kept instead.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from imgbuild.dockerfile.automaton import Automaton, Folders, Many, One, Step

_ANY = "(?s:.*)"
_FOLDERS = f"(?:{_ANY}/)?"
_FEWEST_FOLDERS = "(?:(?s:.*?)/)??"
_WILD = re.compile(r"[*?\[\\]")
# A bracket may match a slash, an escape may stand before one.
_HARD = re.compile(r"\*\*|[\[\\]")
_NO_SLASH = "[^/]"
# With more places than this where a match could go one way or the other, trying all takes too long.
_FEW_WAYS = 2


class BadPatternError(ValueError):
    """The pattern is malformed."""


def glob_expression(pattern: str) -> str:
    """Translate a cleaned pattern, without its `!`; raises `BadPatternError`."""
    if pattern.startswith("**") and not _WILD.search(pattern, 2):
        return _suffix(pattern[2:])
    out: list[str] = []
    at = 0
    while at < len(pattern):
        end = _component_end(pattern, at)
        if end > at:
            out.append(_component(pattern[at:end]))
            at = end
        elif pattern[at] == "/":
            out.append("/")
            at += 1
        else:
            at += 3 if pattern[at + 2 : at + 3] == "/" else 2
            if at == len(pattern):
                out.append(_ANY)
            else:
                _settle(out, _passes_slash(pattern))
                out.append(_FOLDERS)
    return "".join(out)


def glob_matcher(pattern: str) -> "str | Automaton":
    """Return an expression for a cleaned pattern, or what matches it where that could take for ever.

    Raises `BadPatternError`.
    """
    expression = glob_expression(pattern)
    stars = pattern.count("*") if _passes_slash(pattern) else 0
    # Those inside of an atomic group are tried once.
    folders = expression.count(_FOLDERS)
    if stars > _FEW_WAYS or folders > _FEW_WAYS:
        return Automaton(_steps(pattern))
    return expression


def _steps(pattern: str) -> Iterator[Step]:
    """Yield what `glob_expression` makes an expression of."""
    at = 0
    while at < len(pattern):
        if pattern.startswith("**", at):
            at += 3 if pattern[at + 2 : at + 3] == "/" else 2
            yield Folders() if at < len(pattern) else Many("(?s:.)")
            continue
        char = pattern[at]
        at += 1
        if char == "*":
            yield Many(_NO_SLASH)
        elif char == "?":
            yield One(_NO_SLASH)
        elif char == "[":
            expression, at = _bracket(pattern, at - 1)
            yield One(expression)
        else:
            at += char == "\\"
            yield One(re.escape(pattern[at - 1]))


def _settle(out: list[str], passes_slash: bool) -> None:
    """Let whole folders between two `**` be taken where they are found first.

    Matching stays linear so. A class that matches a slash makes the first place no good.
    """
    if out and out[-1] == _FOLDERS:
        out.pop()
    elif out.count(_FOLDERS) == 1 and out[-1] == "/" and not passes_slash:
        at = out.index(_FOLDERS)
        out[at:] = [f"(?>{_FEWEST_FOLDERS}{''.join(out[at + 1 :])})"]


def element_expression(pattern: str) -> str:
    """Translate a pattern for one name, which has no slash: Go's filepath.Match alone.

    Raises `BadPatternError`.
    """
    return _component(pattern, one_name=True)


def _component_end(pattern: str, at: int) -> int:
    """Find where a run without `/` and `**` ends."""
    while at < len(pattern) and pattern[at] != "/" and not pattern.startswith("**", at):
        if pattern[at] == "\\":
            at += 2
        elif pattern[at] == "[":
            at = _bracket(pattern, at)[1]
        else:
            at += 1
    return min(at, len(pattern))


def _suffix(text: str) -> str:
    """`**` before plain text matches any path that ends with it, in the midst of a name too."""
    if text.startswith("/"):
        return _FOLDERS + re.escape(text[1:])
    return _ANY + re.escape(text)


def _component(text: str, *, one_name: bool = False) -> str:
    """Translate a run without `/` and `**`, or with `one_name` all there is to match."""
    parts = [""]
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            parts.append("")
        elif char == "?":
            parts[-1] += "[^/]"
        elif char == "[":
            expression, at = _bracket(text, at - 1, reversible=one_name)
            parts[-1] += expression
        elif char == "\\":
            if at == len(text):
                raise BadPatternError("syntax error in pattern")
            parts[-1] += re.escape(text[at])
            at += 1
        else:
            parts[-1] += re.escape(char)
    # A class that matches a slash passes what a star must not.
    if len(parts) < 3 or (not one_name and _passes_slash(text)):
        return "[^/]*".join(parts)
    # All but the last part can be taken where they are found first: matching stays linear.
    first, *middle, last = parts
    found = "".join(f"(?>[^/]*?{part})" for part in middle if part)
    return f"{first}{found}[^/]*{last}"


def _passes_slash(text: str) -> bool:
    """Tell whether a class in `text` matches a slash."""
    at = 0
    while at < len(text):
        if text[at] == "[":
            expression, at = _bracket(text, at)
            if re.fullmatch(expression, "/"):
                return True
        else:
            at += 2 if text[at] == "\\" else 1
    return False


def _bracket(text: str, start: int, *, reversible: bool = False) -> tuple[str, int]:
    """Translate the class at `start`; return where it ends, too. The rules are filepath.Match's.

    A range such as `z-a` is an error in moby's regular expressions, and empty where `reversible`.
    """
    at = start + 1
    negated = text.startswith("^", at)
    at = first = at + negated
    ranges: list[str] = []
    while not (at > first and text.startswith("]", at)):
        low, at = _class_char(text, at)
        high = low
        if text.startswith("-", at):
            high, at = _class_char(text, at + 1)
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        elif not reversible:
            raise BadPatternError("syntax error in pattern")
    if not ranges:
        return ("(?s:.)" if negated else "(?!)"), at + 1
    return f"[{'^' if negated else ''}{''.join(ranges)}]", at + 1


def _class_char(text: str, at: int) -> tuple[str, int]:
    if text.startswith("\\", at):
        at += 1
    elif text[at : at + 1] in {"-", "]"}:
        raise BadPatternError("syntax error in pattern")
    # The closing bracket is still to come.
    if at + 1 >= len(text):
        raise BadPatternError("syntax error in pattern")
    return text[at], at + 1


class Split(NamedTuple):
    """A cleaned pattern, folder by folder, as far as that can be told.

    `leading` are the names that it starts with: text, or an expression where it is wild. What
    comes behind them is in `name`, an expression for any one name below, or in `path`, one for a
    whole path (or what matches it). Both are empty where the leading names are all.
    """

    leading: tuple[str | re.Pattern[str], ...]
    name: str = ""
    path: str | Automaton = ""


def split(pattern: str) -> Split:
    """Take a cleaned pattern without its `!` apart; raises `BadPatternError`."""
    leading: list[str | re.Pattern[str]] = []
    folders = pattern.split("/")
    for at, text in enumerate(folders):
        if _HARD.search(text):
            name = _any_name(folders[at:])
            return Split(tuple(leading), name, "" if name else glob_matcher(pattern))
        leading.append(re.compile(_component(text)) if _WILD.search(text) else text)
    return Split(tuple(leading))


def _any_name(folders: list[str]) -> str:
    """Return what a pattern's end asks of a name at any depth; empty where it asks for more."""
    if folders == ["**"]:
        return _ANY
    if len(folders) == 2 and folders[0] == "**" and not _HARD.search(folders[1]):
        return _component(folders[1])
    return ""
