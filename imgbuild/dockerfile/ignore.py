"""Ignore files: which paths of a build context stay out of it.

Source of the rules: github.com/moby/patternmatcher, walking down as BuildKit's context transfer
does: the last pattern that matches a path or one of its parents decides.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from imgbuild.dockerfile.globs import glob_matcher
from imgbuild.dockerfile.ignorelevels import Level, Levels
from imgbuild.dockerfile.source import BLANKS
from imgbuild.errors import ContextError, Span

_ROOT = frozenset({"", "."})


class IgnoreLine(NamedTuple):
    """A pattern of an ignore file: its line, counted from 1, as written and cleaned."""

    number: int
    text: str
    pattern: str


class Decision(NamedTuple):
    """Whether a path is excluded; `line` decided that by matching `at`, the path or one above it."""

    excluded: bool
    line: IgnoreLine | None = None
    at: str = ""


def parse_ignore(text: str) -> tuple[str, ...]:
    """Read the patterns of an ignore file: comments out, paths cleaned, `!` kept in front."""
    return tuple(line.pattern for line in parse_lines(text))


def parse_lines(text: str) -> tuple[IgnoreLine, ...]:
    """Read an ignore file as `parse_ignore` does, and keep where each pattern stands."""
    return tuple(_lines(text))


def _lines(text: str) -> Iterator[IgnoreLine]:
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        pattern = written = line.strip(BLANKS)
        if not pattern or line.startswith("#"):
            continue
        negated = pattern.startswith("!")
        if negated:
            pattern = pattern[1:].strip(BLANKS)
        if pattern:
            pattern = _clean(pattern)
        if len(pattern) > 1:
            pattern = pattern.removeprefix("/")
        yield IgnoreLine(number, written, "!" + pattern if negated else pattern)


class IgnoreScope:
    """What the patterns say of the names in one directory; no path is taken apart for it."""

    __slots__ = ("_level", "_levels", "_prefix")

    def __init__(self, levels: Levels, level: Level, prefix: str) -> None:
        self._levels = levels
        self._level = level
        self._prefix = prefix

    @property
    def silent(self) -> bool:
        """Whether nothing below is excluded, whatever its name."""
        return self._level.silent

    @property
    def prunes(self) -> bool:
        """Whether everything below is excluded."""
        return self._level.prunes

    @property
    def revives(self) -> bool:
        """Whether something below an excluded directory in this one may not be excluded."""
        return self._level.revives

    def hides(self, name: bytes) -> bool:
        """Tell whether a name in this directory is excluded."""
        level = self._level
        if not level.asked:
            return level.excluded
        return level.verdict(self._prefix, name.decode("utf-8", "surrogateescape"))[0]

    def below(self, name: bytes) -> "IgnoreScope":
        """Return what the patterns say of the names in a directory of this one."""
        return self.enter(name.decode("utf-8", "surrogateescape"))

    def enter(self, name: str) -> "IgnoreScope":
        level = self._levels.below(self._level, self._prefix, name)
        return IgnoreScope(self._levels, level, f"{self._prefix}{name}/")

    def verdict(self, name: str) -> tuple[bool, int]:
        """Return whether a name is excluded, and the number of the group that decides it."""
        return self._level.verdict(self._prefix, name)


class IgnoreMatcher:
    """Compiled patterns; paths are relative to the context's root, with `/` between names.

    `lines` are the patterns as an ignore file has them, one for each. Raises `ContextError` for
    a malformed pattern. A walk asks the scopes of its directories; for single paths the scopes
    above the last one are kept, so that questions in the order of a walk are cheap, too.
    """

    def __init__(self, patterns: Sequence[str], lines: Sequence[IgnoreLine] = ()) -> None:
        given = lines or [IgnoreLine(0, text, text) for text in patterns]
        stripped = [(line, line.pattern.strip(BLANKS)) for line in given]
        self._lines = [line for line, text in stripped if text]
        cleaned = [_clean(text) for _, text in stripped if text]
        self._levels = Levels(cleaned)
        self._way = [("", IgnoreScope(self._levels, self._levels.root, ""))]

    @classmethod
    def read(cls, text: str, name: str) -> "IgnoreMatcher | None":
        """Compile an ignore file, which errors call `name`; None for one without patterns."""
        lines = parse_lines(text)
        try:
            return cls([line.pattern for line in lines], lines) if lines else None
        except ContextError as error:
            number = next(line.number for line in lines if not _is_well_formed(line.pattern))
            error.span, error.source = Span(name, number, number), text
            raise

    def matches(self, path: str | bytes) -> bool:
        """Tell whether `path` is excluded; the root never is."""
        text = _text(path)
        parent, _, name = text.rpartition("/")
        return text not in _ROOT and self._scope(parent).verdict(name)[0]

    def may_include_below(self, path: str | bytes) -> bool:
        """Tell whether anything below a directory could be included; False means: do not look."""
        return not self.scope(path).prunes

    def scope(self, directory: str | bytes) -> IgnoreScope:
        """Return what is asked of the names in a directory."""
        text = _text(directory)
        return self._scope("" if text in _ROOT else text)

    def decide(self, path: str | bytes) -> Decision:
        """Tell whether `path` is excluded, and what decided that: for explanations."""
        scope = self._way[0][1]
        text = _text(path)
        names = [] if text in _ROOT else text.split("/")
        excluded, group, at = False, -1, ""
        for depth, name in enumerate(names, 1):
            excluded, decided = scope.verdict(name)
            if decided != group:
                group, at = decided, "/".join(names[:depth])
            scope = scope.enter(name)
        return Decision(excluded, self._last(group, at), at)

    def _last(self, group: int, path: str) -> IgnoreLine | None:
        """Return the last pattern of a group that matches `path`."""
        for line, rule in reversed(list(zip(self._lines, self._levels.rules, strict=True))):
            if rule.group == group:
                test = glob_matcher(rule.text)
                if re.fullmatch(test, path) if isinstance(test, str) else test.fullmatch(path):
                    return line
        return None

    def _scope(self, directory: str) -> IgnoreScope:
        """Return the scope of a directory, from the nearest one on the way to the last question."""
        way = self._way
        while len(way) > 1 and not f"{directory}/".startswith(f"{way[-1][0]}/"):
            way.pop()
        at, scope = way[-1]
        rest = directory[len(at) :].strip("/") if at else directory
        for name in rest.split("/") if rest else ():
            at = f"{at}/{name}" if at else name
            scope = scope.enter(name)
            way.append((at, scope))
        return scope


def _is_well_formed(pattern: str) -> bool:
    try:
        IgnoreMatcher([pattern])
    except ContextError:
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
