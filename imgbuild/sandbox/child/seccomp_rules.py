"""The seccomp profile as config.json of an OCI runtime has it."""

from typing import Any

from imgbuild.sandbox.child import seccomp
from imgbuild.sandbox.child import seccomp_profile as profile

_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
_OPERATORS = {"equal": "SCMP_CMP_EQ", "greater": "SCMP_CMP_GT", "less": "SCMP_CMP_LT"}
_EPERM, _ENOSYS = 1, 38


def rules(capabilities: frozenset[str], machine: str) -> dict[str, Any]:
    """Give `linux.seccomp` for a process with some capabilities; ValueError for other machines.

    What stands nowhere fails with EPERM, as calls without a number of this machine do anyway.
    """
    tables = seccomp.machines(machine)
    if not tables:
        raise ValueError(f"there is no system call table for {machine}")
    allowed = [profile.ALWAYS, *(profile.ON_MACHINE[name] for name in tables)]
    allowed += [text for name, text in profile.WITH_CAPABILITY.items() if name in capabilities]
    names = sorted(set(" ".join(allowed).split()))
    filters: list[dict[str, Any]] = [{"names": names, "action": "SCMP_ACT_ALLOW"}]
    tested = dict(profile.WITH_ARGUMENT)
    if "sys_admin" not in capabilities:
        tested |= profile.WITHOUT_ADMIN
        missing = list(profile.NOT_THERE_WITHOUT_ADMIN)
        filters.append({"names": missing, "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    filters += [_tested(name, *test) for name, tests in tested.items() for test in tests]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": _ARCHITECTURES[machine],
        "syscalls": filters,
    }


def _tested(name: str, index: int, comparison: str, value: int) -> dict[str, Any]:
    """Allow a call when a test of one argument holds."""
    test: dict[str, Any] = {"index": index, "value": value, "op": _OPERATORS.get(comparison)}
    if comparison == "masked":
        test |= {"op": "SCMP_CMP_MASKED_EQ", "valueTwo": 0}
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [test]}
