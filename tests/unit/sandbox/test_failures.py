"""Every failed operation is explained, with something to do about it."""

import ast
import errno
from pathlib import Path

import pytest

import imgbuild.sandbox
from imgbuild.errors import DiskFullError, SandboxError, StepFailedError
from imgbuild.sandbox import failures
from imgbuild.sandbox.failures import RefusedError, explain

_CHILD = Path(imgbuild.sandbox.__file__).parent / "child"


def _operations() -> set[str]:
    """Find all operations that the child names in its source."""
    found = set()
    for module in _CHILD.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                first = node.args[0] if node.args else None
                if node.func.id in {"naming", "Failed"} and isinstance(first, ast.Constant):
                    found.add(str(first.value))
    return found


@pytest.mark.parametrize("operation", sorted(_operations()))
def test_every_operation_has_a_meaning(operation: str) -> None:
    error = explain({"op": operation, "errno": errno.EPERM, "message": "said the kernel"})
    assert isinstance(error, StepFailedError if operation == "workdir" else SandboxError)
    assert error.message.endswith(": said the kernel")
    assert operation == "step" or not error.message.startswith("the sandbox broke")


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        ("unshare", "seccomp=unconfined"),
        ("unshare", "apparmor_restrict_unprivileged_userns=0"),
        ("unshare", "hostUsers: false"),
        ("newuidmap", "setcap cap_setuid=ep newuidmap"),
        ("overlay", "emptyDir"),
        ("proc", "systempaths=unconfined"),
        ("mount", "apparmor=unconfined"),
        ("mount", "appArmorProfile"),
        ("user", "--add-subuids"),
    ],
)
def test_remedies(operation: str, text: str) -> None:
    assert text in str(explain({"op": operation, "errno": 1, "message": ""}).hint)


@pytest.mark.parametrize("installed", [True, False])
def test_ubuntus_restriction_is_named(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"op": "map", "errno": errno.EPERM, "message": "Operation not permitted"}
    setting = tmp_path / "setting"
    monkeypatch.setattr(failures, "_RESTRICTION", setting)
    monkeypatch.setattr(failures, "_is_installed", lambda name: installed and name == "podman")
    plain = explain(said).hint
    setting.write_text("0\n")
    assert explain(said).hint == plain
    setting.write_text("1\n")
    hint = str(explain(said).hint)
    assert "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in hint
    assert "flags=(unconfined) { userns, }" in hint
    assert ("podman unshare imgbuild" in hint) == installed
    assert explain(said | {"op": "unshare"}).hint == plain, "it lets that pass"


def test_a_refusal_knows_its_operation() -> None:
    refusal = explain({"op": "mount", "errno": errno.EACCES, "message": "no"})
    assert isinstance(refusal, RefusedError)
    assert refusal.operation == "mount"
    assert not isinstance(explain({"op": "start", "message": "no"}), RefusedError)


def test_a_full_disk_is_one_and_too_many_namespaces_are_not() -> None:
    full = {"op": "overlay", "errno": errno.ENOSPC, "message": "No space left on device"}
    assert isinstance(explain(full), DiskFullError)
    limit = explain(full | {"op": "unshare"})
    assert "user namespaces" in limit.message
    assert "max_user_namespaces" in str(limit.hint)


def test_unknown_operations_are_told_plainly() -> None:
    assert explain({"message": "odd"}).message == "the sandbox broke: odd"
