"""Ignore patterns on the way down a tree: what is left to ask of the names in one directory.

Patterns in a row that all exclude, or that all take it back, are a group. The last group that
matched a directory decides for all below it, until a later group matches: so those before it are
forgotten there, as are patterns whose leading names are others than those of the way down.
Raises `ContextError` for a malformed pattern.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from imgbuild.dockerfile.automaton import Automaton
from imgbuild.dockerfile.globs import BadPatternError, Split, split
from imgbuild.dockerfile.quoting import quote
from imgbuild.errors import ContextError

# Levels that are kept to be found again; most trees need a handful.
_KEPT = 1024


class Rule(NamedTuple):
    """A pattern without its `!`, and the number of its group."""

    group: int
    text: str
    parts: Split

    @property
    def ends(self) -> bool:
        """Whether the leading names are all of it."""
        return not (self.parts.name or self.parts.path)

    def follows(self, depth: int, name: str) -> bool:
        """Tell whether it can match below the directory `name`, which is `depth` deep."""
        leading = self.parts.leading
        if depth >= len(leading):
            return not self.ends
        if self.ends and depth == len(leading) - 1:
            return False
        test = leading[depth]
        return test == name if isinstance(test, str) else test.fullmatch(name) is not None


class _Asked(NamedTuple):
    """What a group asks of the names in a directory; `path` and `slow` are about the whole path."""

    group: int
    negated: bool
    names: frozenset[str]
    name: re.Pattern[str] | None
    path: re.Pattern[str] | None
    slow: tuple[Automaton, ...]

    def hits(self, prefix: str, name: str) -> bool:
        return (
            name in self.names
            or (self.name is not None and self.name.fullmatch(name) is not None)
            or (self.path is not None and self.path.fullmatch(prefix + name) is not None)
            or any(one.fullmatch(prefix + name) for one in self.slow)
        )


class Level:
    """What is left of the patterns in a directory.

    `excluded` is the verdict on what nothing here matches. With `prunes` that is the last word on
    everything below; with `silent` nothing below is excluded. Only with `revives` may there be
    something to keep below a directory here that is excluded.
    """

    __slots__ = (
        "asked",
        "depth",
        "excluded",
        "prunes",
        "revives",
        "rules",
        "settled",
        "silent",
        "top",
    )

    def __init__(
        self, top: int, depth: int, rules: tuple[Rule, ...], negated: Callable[[int], bool]
    ) -> None:
        self.top = top
        self.depth = depth
        self.rules = rules
        self.excluded = top >= 0 and not negated(top)
        takes_back = [rule for rule in rules if negated(rule.group)]
        self.prunes = self.excluded and not takes_back
        self.silent = not self.excluded and len(takes_back) == len(rules)
        last = depth + 1
        self.revives = any(not r.ends or len(r.parts.leading) > last for r in takes_back)
        self.settled = all(depth >= len(rule.parts.leading) for rule in rules)
        groups = groupby(rules, lambda rule: rule.group)
        asked = (_ask(group, negated(group), depth, members) for group, members in groups)
        self.asked = tuple(one for one in asked if one.names or one.name or one.path or one.slow)

    def verdict(self, prefix: str, name: str) -> tuple[bool, int]:
        """Return whether a name here is excluded, and the group that decides."""
        excluded, top = self.excluded, self.top
        for asked in self.asked:
            if asked.negated == excluded and asked.hits(prefix, name):
                excluded, top = not excluded, asked.group
        return excluded, top


def _ask(group: int, negated: bool, depth: int, rules: Iterable[Rule]) -> _Asked:
    names: set[str] = set()
    expressions: list[str] = []
    paths: list[str] = []
    slow: list[Automaton] = []
    for rule in rules:
        leading = rule.parts.leading
        if depth >= len(leading):
            if isinstance(rule.parts.path, Automaton):
                slow.append(rule.parts.path)
            else:
                listed = paths if rule.parts.path else expressions
                listed.append(rule.parts.path or rule.parts.name)
        elif rule.ends and depth == len(leading) - 1:
            test = leading[depth]
            if isinstance(test, str):
                names.add(test)
            else:
                expressions.append(test.pattern)
    return _Asked(
        group, negated, frozenset(names), _either(expressions), _either(paths), tuple(slow)
    )


def _either(expressions: Sequence[str]) -> re.Pattern[str] | None:
    return _compiled("|".join(f"(?:{one})" for one in expressions)) if expressions else None


@lru_cache(maxsize=256)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


class Levels:
    """Finds levels, starting at `root`, the context's own."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._negated: list[bool] = []
        self.rules = tuple(self._rules(patterns))
        self._deepest = max((len(rule.parts.leading) for rule in self.rules), default=0)
        self._known: dict[tuple[int, int, tuple[Rule, ...]], Level] = {}
        self.root = Level(-1, 0, self.rules, self._negated.__getitem__)

    def below(self, level: Level, prefix: str, name: str) -> Level:
        """Return the level of a directory in that of `level`, whose path with a slash is `prefix`."""
        top = level.verdict(prefix, name)[1]
        if level.settled and top == level.top:
            return level
        depth = level.depth
        rules = tuple(r for r in level.rules if r.group > top and r.follows(depth, name))
        key = (top, min(depth + 1, self._deepest), rules)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            found = self._known[key] = Level(*key, self._negated.__getitem__)
        return found

    def _rules(self, patterns: Sequence[str]) -> Iterator[Rule]:
        for pattern in patterns:
            negated = pattern.startswith("!")
            if not self._negated or self._negated[-1] != negated:
                self._negated.append(negated)
            yield _rule(len(self._negated) - 1, pattern.removeprefix("!"))


def _rule(group: int, text: str) -> Rule:
    if not text:
        raise ContextError(
            'illegal exclusion pattern: "!"', hint="write a path behind the ! in the ignore file"
        )
    try:
        return Rule(group, text, split(text))
    except BadPatternError as problem:
        raise ContextError(
            f"{problem}: {quote(text)}", hint="correct the pattern in the ignore file"
        ) from None
