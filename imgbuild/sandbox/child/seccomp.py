"""Compile filters to BPF programs for this machine and its 32-bit sibling.

There are two: the profile, and one that hands chosen calls to a supervisor. The kernel asks all
filters of a process and takes the strictest answer: what the profile refuses, no supervisor sees.
"""

import functools
import struct
from collections.abc import Mapping
from typing import NamedTuple

from imgbuild.sandbox.child import seccomp_profile as profile
from imgbuild.sandbox.child import syscall_numbers

# linux/audit.h
AUDIT = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
_SIBLINGS = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64", "arm")}

# linux/seccomp.h
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = _ERRNO | 1, _ERRNO | 38
NOTIFY = 0x7FC00000  # SECCOMP_RET_USER_NOTIF: a supervisor answers
PRETEND = _ERRNO  # success, with nothing done

# linux/bpf_common.h: load a word, jump if equal, jump if greater or equal, jump, return, and
_LD, _JEQ, _JGE, _JA, _RET, _AND = 0x20, 0x15, 0x35, 0x05, 0x06, 0x54

_AT_NUMBER, _AT_MACHINE, _AT_ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_S_IFMT = 0o170000  # what type of file a mode is about
_X32 = 0x40000000  # set in the numbers of the x32 machine, which shares x86_64's AUDIT value

Tests = tuple[tuple[int, str, int], ...]
Action = int | Tests


class _Rest(NamedTuple):
    """What a filter says where no action is a plain one."""

    unlisted: int
    unknown: int  # numbers behind the table
    held: int  # a test of the arguments holds
    not_held: int


_PROFILE = _Rest(unlisted=_EPERM, unknown=_ENOSYS, held=_ALLOW, not_held=_EPERM)
_SUPERVISION = _Rest(unlisted=_ALLOW, unknown=_ALLOW, held=NOTIFY, not_held=_ALLOW)


def machines(machine: str) -> tuple[str, ...]:
    """Give the system call tables that programs on a machine may use; empty when unknown."""
    return _SIBLINGS.get(machine, ())


@functools.lru_cache(maxsize=8)
def compile_filter(capabilities: frozenset[str], machine: str) -> bytes:
    """Compile the profile for a process with some capabilities; ValueError for other machines."""
    actions = {name: _actions(name, capabilities) for name in machines(machine)}
    return _compile(machine, actions, _PROFILE, other_machines=_KILL)


def compile_supervision(actions: Mapping[str, Action], machine: str) -> bytes:
    """Compile a filter that lets all calls through but those named.

    Each name has `NOTIFY`, `PRETEND`, or tests of which one must hold for `NOTIFY`. Names that a
    machine does not have are left out. ValueError for machines without a table.
    """
    return _compile_supervision(tuple(sorted(actions.items())), machine)


@functools.lru_cache(maxsize=8)
def _compile_supervision(actions: tuple[tuple[str, Action], ...], machine: str) -> bytes:
    named = dict(actions)
    by_machine = dict.fromkeys(machines(machine), named)
    return _compile(machine, by_machine, _SUPERVISION, other_machines=_ALLOW)


def _compile(
    machine: str, actions: Mapping[str, dict[str, Action]], rest: _Rest, *, other_machines: int
) -> bytes:
    if not actions:
        raise ValueError(f"there is no system call table for {machine}")
    code = _Assembler()
    code.add(_LD, _AT_MACHINE)
    for name in actions:
        following = code.new_label()
        code.branch(_JEQ, AUDIT[name], otherwise=following)
        _compile_machine(code, name, actions[name], rest)
        code.place(following)
    code.add(_RET, other_machines)
    return code.build()


def _actions(machine: str, capabilities: frozenset[str]) -> dict[str, Action]:
    """Decide what happens to each system call; what is left out is refused."""
    actions: dict[str, Action] = {}
    actions.update(profile.WITH_ARGUMENT)
    if "sys_admin" not in capabilities:
        actions.update(profile.WITHOUT_ADMIN)
        actions.update(dict.fromkeys(profile.NOT_THERE_WITHOUT_ADMIN, _ENOSYS))
    allowed = [profile.ALWAYS, profile.ON_MACHINE[machine]]
    allowed += [text for name, text in profile.WITH_CAPABILITY.items() if name in capabilities]
    actions.update(dict.fromkeys(" ".join(allowed).split(), _ALLOW))
    return actions


def _compile_machine(
    code: "_Assembler", machine: str, actions: dict[str, Action], rest: _Rest
) -> None:
    code.add(_LD, _AT_NUMBER)
    if machine == "x86_64":
        native = code.new_label()
        code.branch(_JGE, _X32, otherwise=native)
        code.add(_RET, rest.unknown)
        code.place(native)
    tests: dict[Tests, str] = {}
    ranges = _ranges(machine, actions, rest)
    _search(code, ranges, tests)
    for alternatives, label in tests.items():
        code.place(label)
        for test in alternatives:
            _compile_test(code, *test, held=rest.held)
        code.add(_RET, rest.not_held)


def _ranges(machine: str, actions: dict[str, Action], rest: _Rest) -> list[tuple[int, Action]]:
    """List where, in order of the numbers, another action begins; newer calls are not known."""
    by_number = {
        number: actions.get(name, rest.unlisted)
        for name, number in syscall_numbers.numbers(machine).items()
    }
    ranges: list[tuple[int, Action]] = []
    previous = -1
    for number in sorted(by_number):
        if number > previous + 1:
            # arm has a few numbers of its own far behind the others
            near = number < previous + 1000
            ranges.append((previous + 1, rest.unlisted if near else rest.unknown))
        if not ranges or ranges[-1][1] != by_number[number]:
            ranges.append((number, by_number[number]))
        previous = number
    return [*ranges, (previous + 1, rest.unknown)]


def _search(code: "_Assembler", ranges: list[tuple[int, Action]], tests: dict[Tests, str]) -> None:
    """Find the range of a number by halves."""
    if len(ranges) == 1:
        action = ranges[0][1]
        if isinstance(action, int):
            code.add(_RET, action)
        else:
            code.jump(tests.setdefault(action, f"test {len(tests)} at {code.size}"))
        return
    middle = len(ranges) // 2
    below = code.new_label()
    code.branch(_JGE, ranges[middle][0], otherwise=below)
    _search(code, ranges[middle:], tests)
    code.place(below)
    _search(code, ranges[:middle], tests)


def _compile_test(
    code: "_Assembler", index: int, comparison: str, value: int, *, held: int
) -> None:
    """Answer `held` when the test holds, else go on behind. Arguments here have 32 bits."""
    following = code.new_label()
    code.add(_LD, _AT_ARGUMENTS + 8 * index)  # the low half on little-endian machines
    if comparison == "equal":
        code.branch(_JEQ, value, otherwise=following)
    elif comparison == "masked":
        code.add(_AND, value)
        code.branch(_JEQ, 0, otherwise=following)
    elif comparison == "type":
        code.add(_AND, _S_IFMT)
        code.branch(_JEQ, value, otherwise=following)
    elif comparison == "greater":
        code.branch(_JGE, value + 1, otherwise=following)
    elif comparison == "less":
        holds = code.new_label()
        code.branch(_JGE, value, otherwise=holds)
        code.jump(following)
        code.place(holds)
    else:
        raise ValueError(comparison)
    code.add(_RET, held)
    code.place(following)


class _Assembler:
    """BPF instructions with labels; a conditional jump is one test and one far jump."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._places: dict[str, int] = {}
        self._jumps: dict[int, str] = {}
        self._labels = 0

    @property
    def size(self) -> int:
        return len(self._code)

    def add(self, operation: int, value: int, true: int = 0, false: int = 0) -> None:
        self._code.append((operation, true, false, value & 0xFFFFFFFF))

    def new_label(self) -> str:
        self._labels += 1
        return f"label {self._labels}"

    def place(self, label: str) -> None:
        self._places[label] = self.size

    def jump(self, label: str) -> None:
        self._jumps[self.size] = label
        self.add(_JA, 0)

    def branch(self, operation: int, value: int, *, otherwise: str) -> None:
        """Go on behind when the test holds, else at a label (short jumps reach only 255 far)."""
        self.add(operation, value, 1, 0)
        self.jump(otherwise)

    def build(self) -> bytes:
        for at, label in self._jumps.items():
            self._code[at] = (_JA, 0, 0, self._places[label] - at - 1)
        if len(self._code) > 4096:
            raise ValueError("the filter is longer than the kernel allows")
        return b"".join(struct.pack("HBBI", *instruction) for instruction in self._code)
