"""Symbolic modes of --chmod: `u=rwX,go=rX` as changes of a mode.

Source of the rules: github.com/tonistiigi/dchapes-mode, which follows BSD's setmode(3). There is
no umask: a clause without a who part acts on all three.
"""

from typing import NamedTuple

_USER, _GROUP, _OTHER = 0o700, 0o070, 0o007
_SET_USER, _SET_GROUP, _STICKY = 0o4000, 0o2000, 0o1000
_STANDARD = 0o6777  # all that a clause without a who part may touch, but for the sticky bit
_ALL = _STANDARD | _STICKY
_WHO = {
    "a": _STANDARD,
    "u": _SET_USER | _USER,
    "g": _SET_GROUP | _GROUP,
    "o": _OTHER,
}
_PERMISSIONS = {"r": 0o444, "w": 0o222, "x": 0o111}
_SHIFT = {"u": 6, "g": 3, "o": 0}


class Change(NamedTuple):
    """One step of a symbolic mode.

    `action` is `+` or `-` for `bits`, `X` for `+` where anyone may execute already, or `u`, `g`
    or `o`: copy that class's permissions by `operator` to the classes in `bits`.
    """

    action: str
    bits: int
    operator: str = ""


def parse_changes(text: str) -> tuple[Change, ...]:
    """Return the changes that a symbolic mode stands for; raise `ValueError` for what is none."""
    changes: list[Change] = []
    for clause in text.split(","):
        rest = clause.lstrip("augo")
        who = 0
        for letter in clause[: len(clause) - len(rest)]:
            who |= _WHO[letter]
        if not rest:
            raise ValueError(text)
        while rest:
            rest = _operation(rest, who, changes, text)
    return tuple(changes)


def _operation(rest: str, who: int, changes: list[Change], text: str) -> str:
    """Read an operator with its permissions; return what follows."""
    operator, rest = rest[0], rest[1:]
    if operator not in "+-=":
        raise ValueError(text)
    bits = conditional = 0
    assigned = operator != "="
    at = 0
    for at, letter in enumerate(rest + "\0"):  # noqa: B007 - where it ended is needed below
        if letter in _SHIFT:
            if bits or conditional:
                _change(operator, who, bits, changes, conditional)
            bits = conditional = 0
            assigned = True
            changes.append(Change(letter, who or _ALL, operator))
        elif letter in _PERMISSIONS:
            bits |= _PERMISSIONS[letter]
        elif letter == "X":
            conditional = 0o111
        elif letter in "st":
            # For "other" alone there is no such bit.
            if not who or who & ~_OTHER:
                bits |= _STICKY if letter == "t" else _SET_USER | _SET_GROUP
                who |= _STICKY if letter == "t" and who else 0
        else:
            break
    if bits or conditional or not assigned:
        _change(operator, who, bits, changes, conditional)
    return rest[at:]


def _change(operator: str, who: int, bits: int, changes: list[Change], conditional: int) -> None:
    reach = who or _ALL
    if operator == "-":
        # Who may not execute loses nothing, so that here `X` is as good as `x`.
        changes.append(Change("-", reach & (bits | conditional)))
        return
    if operator == "=":
        changes.append(Change("-", who or _STANDARD))
    changes.append(Change("+", reach & bits))
    if conditional:
        changes.append(Change("X", reach & conditional))


def apply_changes(changes: tuple[Change, ...], mode: int, *, is_dir: bool) -> int:
    """Return what `changes` make of `mode`."""
    new = mode
    for action, bits, operator in changes:
        if action == "+" or (action == "X" and (mode & 0o111 or is_dir)):
            new |= bits
        elif action == "-":
            new &= ~bits
        elif action in _SHIFT:
            new = _copied(new, new >> _SHIFT[action] & 0o7, bits, operator)
    return new


def _copied(mode: int, value: int, who: int, operator: str) -> int:
    for mask, shift in ((_USER, 6), (_GROUP, 3), (_OTHER, 0)):
        # A class belongs to `who` when its read bit does.
        if not who & mask:
            continue
        if operator == "=":
            mode &= ~mask
        elif operator == "-":
            mode &= ~(value << shift)
        if operator != "-":
            mode |= value << shift
    return mode
