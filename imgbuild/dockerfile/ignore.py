"""Ignore files: which paths of a build context stay out of it.

Source of the rules: github.com/moby/patternmatcher, walking down as BuildKit's context transfer
does: the last pattern that matches a path or one of its parents decides.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from imgbuild.dockerfile.globs import BadPatternError, glob_expression, leading_components
from imgbuild.dockerfile.quoting import quote
from imgbuild.dockerfile.source import BLANKS
from imgbuild.errors import ContextError


def parse_ignore(text: str) -> tuple[str, ...]:
    """Read the patterns of an ignore file: comments out, paths cleaned, `!` kept in front."""
    patterns: list[str] = []
    for line in text.removeprefix("\ufeff").split("\n"):
        pattern = line.strip(BLANKS)
        if not pattern or line.startswith("#"):
            continue
        negated = pattern.startswith("!")
        if negated:
            pattern = pattern[1:].strip(BLANKS)
        if pattern:
            pattern = _clean(pattern)
        if len(pattern) > 1:
            pattern = pattern.removeprefix("/")
        patterns.append("!" + pattern if negated else pattern)
    return tuple(patterns)


class IgnoreMatcher:
    """Compiled patterns; paths are relative to the context's root, with `/` between names.

    Raises `ContextError` for a malformed pattern. The verdicts on directories are remembered, so
    that a walk through a tree asks each pattern once a path.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._groups = _compile(patterns)
        self._directories: dict[str, int] = {"": 0}

    def matches(self, path: str | bytes) -> bool:
        """Tell whether `path` is excluded; the root never is."""
        path = _text(path)
        if path in {"", "."}:
            return False
        return self._verdict(path, self._hits(path.rpartition("/")[0]))[0]

    def may_include_below(self, path: str | bytes) -> bool:
        """Tell whether anything below a directory could be included; False means: do not look."""
        path = _text(path)
        if path in {"", "."}:
            return True
        excluded, hits = self._verdict(path, self._hits(path.rpartition("/")[0]))
        if not excluded:
            return True
        # Below here this group matches all; only one behind it can take that back.
        names = path.split("/")
        return any(
            _may_match_below(components, names)
            for group in self._groups[hits.bit_length() :]
            for components in group.reaches
        )

    def _hits(self, directory: str) -> int:
        """Return which groups matched a directory or its parents, as bits."""
        hits = self._directories.get(directory)
        if hits is not None:
            return hits
        hits, end = 0, 0
        while end < len(directory):
            end = directory.find("/", end + 1)
            end = len(directory) if end < 0 else end
            parent = directory[:end]
            known = self._directories.get(parent)
            hits = self._verdict(parent, hits)[1] if known is None else known
            self._directories[parent] = hits
        return hits

    def _verdict(self, path: str, parent: int) -> tuple[bool, int]:
        """Return whether a path is excluded, and the groups that matched it, as bits."""
        excluded, hits = False, 0
        for number, group in enumerate(self._groups):
            bit = 1 << number
            if parent & bit or (
                group.negated == excluded and group.expression.fullmatch(path) is not None
            ):
                hits |= bit
                excluded = not group.negated
        return excluded, hits


class _Group(NamedTuple):
    """Patterns in a row that all exclude, or that all take it back.

    `reaches` is for those that take back: each pattern, folder by folder.
    """

    negated: bool
    expression: re.Pattern[str]
    reaches: tuple[list[re.Pattern[str] | None], ...]


def _compile(patterns: Iterable[str]) -> list[_Group]:
    cleaned = (_clean(text) for text in (p.strip(BLANKS) for p in patterns) if text)
    groups = []
    for negated, members in groupby(cleaned, lambda pattern: pattern.startswith("!")):
        texts = [text.removeprefix("!") if negated else text for text in members]
        expression = "|".join(map(_expression, texts))
        reaches = tuple(map(leading_components, texts)) if negated else ()
        groups.append(_Group(negated, re.compile(expression), reaches))
    return groups


def _expression(pattern: str) -> str:
    if not pattern:
        raise ContextError(
            'illegal exclusion pattern: "!"', hint="write a path behind the ! in the ignore file"
        )
    try:
        return f"(?:{glob_expression(pattern)})"
    except BadPatternError as problem:
        raise ContextError(
            f"{problem}: {quote(pattern)}", hint="correct the pattern in the ignore file"
        ) from None


def _may_match_below(components: list[re.Pattern[str] | None], names: Sequence[str]) -> bool:
    for component, name in zip(components, names, strict=False):
        if component is None:
            return True
        if component.fullmatch(name) is None:
            return False
    return True


def _text(path: str | bytes) -> str:
    text = path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path
    return text.rstrip("/") or text


def _clean(path: str) -> str:
    """Shorten a path as Go's filepath.Clean does."""
    rooted = path.startswith("/")
    names: list[str] = []
    for name in path.split("/"):
        if name == "..":
            if names and names[-1] != "..":
                names.pop()
            elif not rooted:
                names.append(name)
        elif name not in {"", "."}:
            names.append(name)
    return ("/" if rooted else "") + "/".join(names) or "."
