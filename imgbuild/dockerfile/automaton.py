"""Match patterns that would cost a backtracking regular expression too much: every state at once.

What is matched costs its length times that of the pattern, whatever both are.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple


class One(NamedTuple):
    """One character that `expression`, which is of one, matches."""

    expression: str


class Many(NamedTuple):
    """Any number of such characters."""

    expression: str


class Folders(NamedTuple):
    """Nothing, or anything that ends with a slash."""


Step = One | Many | Folders
_ANY = "(?s:.)"
_KEPT = 1024  # characters


class Automaton:
    """A pattern as its steps; states are the bits of a number."""

    def __init__(self, steps: Iterable[Step]) -> None:
        # A state is left with a character, is left without one, or stays with a character.
        self._leave: list[re.Pattern[str]] = []
        self._stay: list[re.Pattern[str] | None] = []
        self._skip_one = self._skip_two = 0
        for step in steps:
            match step:
                case One(expression):
                    self._state(re.compile(expression), None)
                case Many(expression):
                    self._skip_one |= self._state(re.compile("(?!)"), re.compile(expression))
                case Folders():
                    entered = self._state(re.compile("(?!)"), None)
                    self._skip_one |= entered
                    self._skip_two |= entered
                    self._state(re.compile("/"), re.compile(_ANY))
        self._end = 1 << len(self._leave)
        self._known: dict[str, tuple[int, int]] = {}

    def fullmatch(self, text: str) -> bool:
        states = self._closed(1)
        for character in text:
            leave, stay = self._moves(character)
            states = self._closed((states & leave) << 1 | states & stay)
            if not states:
                return False
        return bool(states & self._end)

    def _state(self, leave: re.Pattern[str], stay: re.Pattern[str] | None) -> int:
        self._leave.append(leave)
        self._stay.append(stay)
        return 1 << (len(self._leave) - 1)

    def _closed(self, states: int) -> int:
        while True:
            more = states | (states & self._skip_one) << 1 | (states & self._skip_two) << 2
            if more == states:
                return states
            states = more

    def _moves(self, character: str) -> tuple[int, int]:
        """Return the states that are left with a character, and those that stay."""
        found = self._known.get(character)
        if found is None:
            leave = sum(1 << i for i, test in enumerate(self._leave) if test.fullmatch(character))
            stay = sum(
                1 << i for i, test in enumerate(self._stay) if test and test.fullmatch(character)
            )
            if len(self._known) >= _KEPT:
                self._known.clear()
            found = self._known[character] = (leave, stay)
        return found
