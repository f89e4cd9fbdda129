"""The compiled filter, run by a small interpreter of BPF."""

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.sandbox.child import owners, seccomp, seccomp_profile, syscall_numbers
from imgbuild.sandbox.spec import DEFAULT_CAPABILITIES

_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
_AUDIT = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
_DEFAULT = frozenset(DEFAULT_CAPABILITIES)
_MACHINES = [("x86_64", "x86_64"), ("x86_64", "i386"), ("aarch64", "aarch64"), ("aarch64", "arm")]


def verdict(program: bytes, machine: str, number: int, *arguments: int) -> int:
    """Run a filter as the kernel does (classic BPF over struct seccomp_data)."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, _AUDIT[machine], 0, *padded)
    code = list(struct.iter_unpack("HBBI", program))
    accumulator = at = 0
    while True:
        operation, true, false, value = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x15:
                at += true if accumulator == value else false
            case 0x35:
                at += true if accumulator >= value else false
            case 0x54:
                accumulator &= value
            case 0x05:
                at += value
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"odd instruction {operation:#x}")


def of(name: str, *arguments: int, machine: str = "x86_64", caps: frozenset[str] = _DEFAULT) -> int:
    program = seccomp.compile_filter(caps, "x86_64" if machine in {"x86_64", "i386"} else "aarch64")
    return verdict(program, machine, syscall_numbers.numbers(machine)[name], *arguments)


@pytest.mark.parametrize(("host", "machine"), _MACHINES)
def test_every_call_has_the_verdict_of_the_tables(host: str, machine: str) -> None:
    program = seccomp.compile_filter(_DEFAULT, host)
    allowed = set(seccomp_profile.ALWAYS.split()) | set(seccomp_profile.ON_MACHINE[machine].split())
    allowed.add("chroot")
    tested = {"socket", "personality", "clone", "clone3"}
    for name, number in syscall_numbers.numbers(machine).items():
        if name in tested:
            continue
        expected = _ALLOW if name in allowed else _EPERM
        assert verdict(program, machine, number) == expected, name


@pytest.mark.parametrize(("host", "machine"), _MACHINES)
def test_numbers_beyond_the_table_do_not_exist(host: str, machine: str) -> None:
    program = seccomp.compile_filter(_DEFAULT, host)
    last = max(number for number in syscall_numbers.numbers(machine).values() if number < 1000)
    for number in (last + 1, 999, 5000, 0x3FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF):
        assert verdict(program, machine, number) == _ENOSYS


@pytest.mark.parametrize(("host", "machine"), _MACHINES)
def test_numbers_in_gaps_are_refused(host: str, machine: str) -> None:
    program = seccomp.compile_filter(_DEFAULT, host)
    known = set(syscall_numbers.numbers(machine).values())
    for number in range(max(number for number in known if number < 1000)):
        if number not in known:
            assert verdict(program, machine, number) in {_EPERM, _ENOSYS}, number


def test_other_machines_are_killed() -> None:
    program = seccomp.compile_filter(_DEFAULT, "x86_64")
    assert verdict(program, "arm", 0) == _KILL
    with pytest.raises(ValueError):
        seccomp.compile_filter(_DEFAULT, "sparc")


@given(st.integers(0, 0x3FFFFFFF))
def test_x32_does_not_exist(number: int) -> None:
    program = seccomp.compile_filter(_DEFAULT, "x86_64")
    assert verdict(program, "x86_64", 0x40000000 | number) == _ENOSYS


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "i386", "arm"])
def test_arguments(machine: str) -> None:
    for family in range(64):
        expected = _EPERM if family in {38, 40} else _ALLOW
        assert of("socket", family, machine=machine) == expected, family
    # The kernel cuts the family to 32 bits, so the upper half must not matter.
    assert of("socket", 1 << 32 | 38, machine=machine) == _EPERM
    for kind in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert of("personality", kind, machine=machine) == _ALLOW
    for kind in (1, 0x40000, 0x400000):
        assert of("personality", kind, machine=machine) == _EPERM


@pytest.mark.parametrize(
    "flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
)
def test_clone_makes_no_namespace(flag: int) -> None:
    assert of("clone", 17) == _ALLOW
    assert of("clone", 0x003D0F00) == _ALLOW, "a thread"
    assert of("clone", flag | 17) == _EPERM
    assert of("clone", flag | 17, caps=_DEFAULT | {"sys_admin"}) == _ALLOW


def test_clone3_is_not_there() -> None:
    assert of("clone3") == _ENOSYS
    assert of("clone3", caps=frozenset({"sys_admin"})) == _ALLOW


def test_capabilities_open_calls() -> None:
    assert of("mount") == _EPERM
    assert of("mount", caps=frozenset({"sys_admin"})) == _ALLOW
    assert of("chroot", caps=frozenset()) == _EPERM
    assert of("bpf", caps=frozenset({"bpf"})) == _ALLOW


def test_the_profile_names_only_calls_that_exist_somewhere() -> None:
    known: set[str] = set()
    for _, machine in _MACHINES:
        known |= set(syscall_numbers.numbers(machine))
    named = " ".join([seccomp_profile.ALWAYS, *seccomp_profile.WITH_CAPABILITY.values()]).split()
    assert set(named) - known == set()


def test_tables_have_unique_numbers_and_known_ones() -> None:
    for _, machine in _MACHINES:
        table = syscall_numbers.numbers(machine)
        assert len(set(table.values())) == len(table)
    assert syscall_numbers.numbers("x86_64")["execve"] == 59
    assert syscall_numbers.numbers("i386")["execve"] == 11
    assert syscall_numbers.numbers("aarch64")["execve"] == 221
    assert syscall_numbers.numbers("arm")["execve"] == 11
    for machine in ("x86_64", "i386", "aarch64", "arm"):
        assert syscall_numbers.numbers(machine)["openat2"] == 437


def test_the_filter_fits_the_kernel() -> None:
    everything = frozenset(seccomp_profile.WITH_CAPABILITY)
    for machine in ("x86_64", "aarch64"):
        assert len(seccomp.compile_filter(everything, machine)) // 8 < 4096


# --- the filter of a supervisor

_NOTIFY, _PRETEND = 0x7FC00000, 0x00050000
_SUPERVISED = owners.supervision(0, DEFAULT_CAPABILITIES)


@pytest.mark.parametrize(("host", "machine"), _MACHINES)
def test_only_what_is_named_goes_to_a_supervisor(host: str, machine: str) -> None:
    program = seccomp.compile_supervision(_SUPERVISED, host)
    for name, number in syscall_numbers.numbers(machine).items():
        expected = _ALLOW
        if name in {"mknod", "mknodat"}:
            continue
        if re.fullmatch(r"(f|l)?chown(32|at)?|rename(at2?)?", name):
            expected = _NOTIFY
        elif re.fullmatch(r"set(res?|fs)?[ug]id(32)?|setgroups(32)?", name):
            expected = _PRETEND
        assert verdict(program, machine, number) == expected, name
    for number in (1000, 5000, 0x40000000 + 92, 0xFFFFFFFF):
        assert verdict(program, machine, number) == _ALLOW


@pytest.mark.parametrize(("host", "machine"), _MACHINES)
def test_only_device_nodes_go_to_a_supervisor(host: str, machine: str) -> None:
    program = seccomp.compile_supervision(_SUPERVISED, host)
    table = syscall_numbers.numbers(machine)
    for mode in (0o20666, 0o60600, 1 << 40 | 0o20000):
        assert verdict(program, machine, table["mknodat"], 0, 0, mode) == _NOTIFY
    for mode in (0, 0o644, 0o10644, 0o100644, 0o140644, 0o160000, 0o170000, 0o40000):
        assert verdict(program, machine, table["mknodat"], 0, 0, mode) == _ALLOW
    if "mknod" in table:
        assert verdict(program, machine, table["mknod"], 0, 0o20666) == _NOTIFY
        assert verdict(program, machine, table["mknod"], 0o20666, 0o10644) == _ALLOW


def test_what_a_command_may_not_is_left_to_the_kernel() -> None:
    without = owners.supervision(0, ["chown"])
    assert not {"mknod", "setuid", "setgid", "setgroups"} & set(without)
    as_user = set(owners.supervision(1000, DEFAULT_CAPABILITIES))
    assert set(without) - as_user == {"rename", "renameat", "renameat2"}
    assert set(owners.supervision(0, ["setgid"])) - set(without) >= {"setgroups", "setgid32"}
    assert "setuid" not in owners.supervision(0, ["setgid"])


def test_a_supervisor_is_for_known_machines() -> None:
    with pytest.raises(ValueError):
        seccomp.compile_supervision(_SUPERVISED, "sparc")
    program = seccomp.compile_supervision(_SUPERVISED, "x86_64")
    assert verdict(program, "arm", 0) == _ALLOW  # the profile kills it
