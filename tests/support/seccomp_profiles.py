"""The seccomp profiles of docker and podman, as a runtime takes them in config.json."""

import json
import os
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

Profile = Literal["docker", "podman", "unconfined"]

_FOLDER = Path(__file__).parents[2] / "testdata/profiles"
# machine: its names in profiles, and the architectures whose calls it can make
_MACHINES = {
    "x86_64": ({"amd64", "x86", "x32"}, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    "aarch64": ({"arm64", "arm"}, ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
}
_EACCES = 13


def seccomp(
    profile: Profile, capabilities: Collection[str], refused: Collection[str] = ()
) -> dict[str, Any] | None:
    """Give `linux.seccomp` of a container with these capabilities; None is no filter.

    The calls `refused` fail with EACCES whatever the profile says of them.
    """
    if profile == "unconfined" and not refused:
        return None
    names, architectures = _MACHINES[os.uname().machine]
    if profile == "unconfined":
        known: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW"}
        rules: list[dict[str, Any]] = []
    else:
        document = _document(profile)
        known = {
            "defaultAction": document["defaultAction"],
            "defaultErrnoRet": document["defaultErrnoRet"],
        }
        found = (_rule(r, names, capabilities, refused) for r in document["syscalls"])
        rules = [rule for rule in found if rule is not None]
    if refused:
        action = {"action": "SCMP_ACT_ERRNO", "errnoRet": _EACCES}
        rules.append({"names": sorted(refused), **action})
    return {**known, "architectures": architectures, "syscalls": rules}


@cache
def _document(profile: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((_FOLDER / f"{profile}.json").read_text())
    return document


def _rule(
    rule: dict[str, Any],
    machine: Collection[str],
    capabilities: Collection[str],
    refused: Collection[str],
) -> dict[str, Any] | None:
    """Give a rule of a profile without its conditions, None when they do not hold."""
    needed, spared = rule.get("includes") or {}, rule.get("excludes") or {}
    held = {f"CAP_{name.upper()}" for name in capabilities}
    if not held.issuperset(needed.get("caps") or ()) or held & set(spared.get("caps") or ()):
        return None
    if not _meets(needed.get("arches"), machine) or set(spared.get("arches") or ()) & set(machine):
        return None
    names = [name for name in rule["names"] if name not in refused]
    kept = {key: rule[key] for key in ("action", "args", "errnoRet") if rule.get(key) is not None}
    return {"names": names, **kept} if names else None


def _meets(wanted: Iterable[str] | None, machine: Collection[str]) -> bool:
    return not wanted or bool(set(wanted) & set(machine))
