"""What an OCI runtime is told: config.json of a step."""

import json
from dataclasses import replace
from typing import Any

import pytest

from imgbuild.sandbox.child import bundle, seccomp_rules
from imgbuild.sandbox.spec import DEFAULT_CAPABILITIES, SandboxSpec

SPEC = SandboxSpec(("sh", "-c", "true"), (("A", "b=c"), ("PATH", "/bin")))


def made(
    spec: SandboxSpec = SPEC,
    *,
    count: int = 65536,
    terminal: bool = False,
    nested: bool = True,
    **mounts: str,
) -> dict[str, Any]:
    message = {**spec.to_json(), "shift": 1, "count": count, "nested": nested}
    message["first"] = [0, 0]
    pairs = [(source, target) for target, source in mounts.items()]
    document = bundle.config(message, pairs, root="/r", terminal=terminal, machine="x86_64")
    plain: dict[str, Any] = json.loads(json.dumps(document))  # it has to be JSON
    return plain


def test_the_process_is_the_specs() -> None:
    process = made(replace(SPEC, cwd="/w", uid=7, gid=8, groups=(9,)))["process"]
    assert process["args"] == ["sh", "-c", "true"]
    assert process["env"] == ["PATH=/bin", "A=b=c"]
    assert process["user"] == {"uid": 7, "gid": 8, "umask": 0o22, "additionalGids": [9]}
    assert (process["cwd"], process["terminal"]) == ("/w", False)
    assert process["noNewPrivileges"] is False


def test_root_holds_its_capabilities_and_others_could() -> None:
    names = {f"CAP_{name.upper()}" for name in DEFAULT_CAPABILITIES}
    sets = made()["process"]["capabilities"]
    assert {name for name, held in sets.items() if set(held) == names} == {
        *("bounding", "effective", "permitted")
    }
    sets = made(replace(SPEC, uid=1))["process"]["capabilities"]
    assert set(sets["bounding"]) == names
    assert sets["effective"] == sets["permitted"] == []


def test_ids_are_shifted_in_a_user_namespace_of_the_step() -> None:
    linux = made()["linux"]
    mapping = [{"containerID": 0, "hostID": 1, "size": 65536}]
    assert linux["uidMappings"] == linux["gidMappings"] == mapping
    kinds = [space["type"] for space in linux["namespaces"]]
    assert kinds == ["pid", "ipc", "uts", "mount", "cgroup", "user"]
    linux = made(nested=False)["linux"]
    assert "uidMappings" not in linux
    assert {"type": "user"} not in linux["namespaces"]


def test_what_docker_hides_is_hidden_unless_the_step_is_insecure() -> None:
    linux = made()["linux"]
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]
    everything = made(replace(SPEC, insecure=True))
    assert not {"maskedPaths", "readonlyPaths", "seccomp"} & set(everything["linux"])
    assert "CAP_SYS_ADMIN" in everything["process"]["capabilities"]["effective"]


def test_limits_and_mounts_are_the_specs() -> None:
    limits = (("nofile", 10, 20), ("core", -1, -1))
    document = made(replace(SPEC, rlimits=limits, shm_size=99, readonly=True), target="/source")
    infinite = 2**64 - 1
    assert document["process"]["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20},
        {"type": "RLIMIT_CORE", "soft": infinite, "hard": infinite},
    ]
    assert document["root"] == {"path": "/r", "readonly": True}
    mounts = {mount["destination"]: mount for mount in document["mounts"]}
    assert mounts["target"] == {
        "destination": "target",
        "type": "bind",
        "source": "/source",
        "options": ["rbind"],
    }
    assert "size=99" in mounts["/dev/shm"]["options"]


def test_terminals_have_the_group_tty_where_it_is_mapped() -> None:
    def options(count: int) -> list[str]:
        mounts = made(count=count)["mounts"]
        found: list[str] = next(m["options"] for m in mounts if m["destination"] == "/dev/pts")
        return found

    assert "gid=5" in options(65536)
    assert "gid=5" not in options(1)


def test_the_filter_is_the_profile() -> None:
    rules = seccomp_rules.rules(frozenset(DEFAULT_CAPABILITIES), "x86_64")
    assert (rules["defaultAction"], rules["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    allowed = next(r["names"] for r in rules["syscalls"] if "args" not in r)
    assert {"openat", "chroot", "arch_prctl"} <= set(allowed)
    assert not {"mount", "unshare", "bpf", "clone", "clone3", "socket"} & set(allowed)
    clone = next(r for r in rules["syscalls"] if r["names"] == ["clone"])
    assert clone["args"] == [
        {"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    ]
    assert next(r for r in rules["syscalls"] if r["names"] == ["clone3"])["errnoRet"] == 38


def test_capabilities_open_their_calls() -> None:
    rules = seccomp_rules.rules(frozenset({"sys_admin"}), "aarch64")
    allowed = next(r["names"] for r in rules["syscalls"] if "args" not in r)
    assert {"mount", "clone3"} <= set(allowed)
    assert "chroot" not in allowed
    with pytest.raises(ValueError, match="riscv64"):
        seccomp_rules.rules(frozenset(), "riscv64")
