import json
from pathlib import Path
from typing import Any

import pytest

from imgbuild.build.devices import Devices, find_devices, of_step
from imgbuild.errors import SandboxError, UsageError
from imgbuild.sandbox.spec import BindMount


def found(*names: str, folders: tuple[Path, ...] = (), own_files: bool = False) -> Devices:
    return find_devices(names, own_files=own_files, folders=folders)


def test_paths_are_written_as_for_docker() -> None:
    assert found("/dev/null").nodes == (("/dev/null", "/dev/null", "rwm"),)
    assert found("/dev/null:/dev/x").nodes == (("/dev/null", "/dev/x", "rwm"),)
    assert found("/dev/null:/dev/x:rw").nodes == (("/dev/null", "/dev/x", "rw"),)
    assert found("/dev/null:rwm").nodes == (("/dev/null", "/dev/null", "rwm"),)
    twice = found("/dev/null:/dev/x", "/dev/zero:/dev/x")
    assert twice.nodes == (("/dev/zero", "/dev/x", "rwm"),)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("null", "invalid device"),
        ("/dev/null:/dev/x:rw:y", "invalid device"),
        ("/dev/null:/dev/x:rwx", "invalid device permissions"),
        ("/dev/null:r", "cannot be given with 'r' alone"),
        ("/dev/null:/etc/x", "not in /dev"),
        ("/dev/null:/dev/../etc/x", "not in /dev"),
        ("/dev/no-such-device", "error gathering device information"),
        ("/dev", "not in /dev"),
        ("vendor.example/gpu=all", "unresolvable CDI devices vendor.example/gpu=all"),
    ],
)
def test_what_is_no_device_is_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        found(name)
    assert caught.value.hint


def test_a_file_is_no_device(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.touch()
    with pytest.raises(UsageError, match="is no device"):
        found(f"{file}:/dev/x")


def test_a_device_that_commands_cannot_open_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    stat = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path: os.stat_result((0o020660, *tuple(stat(path))[1:10]))
    )
    with pytest.raises(SandboxError, match="its mode is 0660") as caught:
        found("/dev/null")
    assert "chmod a+rw /dev/null" in str(caught.value.hint)
    assert found("/dev/null", own_files=True).nodes


def spec(**edits: Any) -> dict[str, Any]:
    return {
        "cdiVersion": "0.6.0",
        "kind": "vendor.example/gpu",
        "containerEdits": {"env": ["ALL=1"]},
        "devices": [{"name": "0", "containerEdits": edits}, {"name": "1"}],
    }


def test_cdi_names_are_looked_up_in_json(tmp_path: Path) -> None:
    edits = {
        "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero"}, {"path": "/dev/null"}],
        "mounts": [{"hostPath": "/usr/lib/gpu", "containerPath": "/usr/lib/gpu"}],
        "env": ["ONE=a=b"],
    }
    first, second = tmp_path / "etc", tmp_path / "run"
    for folder in (first, second):
        folder.mkdir()
    (first / "vendor.json").write_text(json.dumps(spec(**edits)))
    assert found("vendor.example/gpu=0", folders=(first, second)) == Devices(
        (("/dev/zero", "/dev/gpu0", "rwm"), ("/dev/null", "/dev/null", "rwm")),
        (BindMount("/usr/lib/gpu", "/usr/lib/gpu"),),
        (("ALL", "1"), ("ONE", "a=b")),
    )
    assert found("vendor.example/gpu=1", folders=(first, second)).env == (("ALL", "1"),)
    (second / "vendor.json").write_text(json.dumps(spec(env=["ONE=run"])))
    later = found("vendor.example/gpu=0", folders=(first, second))
    assert dict(later.env)["ONE"] == "run"


def test_a_dockerfile_names_devices_and_may_go_without(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(spec()))
    told: list[str] = []
    wanted = ("vendor.example/gpu=0", "name=vendor.example/gpu=1,required", "vendor.example/x=0")
    names = of_step(wanted, told.append, (tmp_path,))
    assert names == ("vendor.example/gpu=0", "vendor.example/gpu=1")
    (text,) = told
    assert text.startswith("RUN goes without the device vendor.example/x=0: unresolvable")
    with pytest.raises(UsageError, match="unresolvable"):
        of_step(("vendor.example/x=0,required",), told.append, (tmp_path,))
    with pytest.raises(UsageError, match="is no CDI name"):
        of_step(("/dev/sda",), told.append, (tmp_path,))


def test_what_cannot_be_done_for_a_device_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: vendor.example/gpu\n")
    with pytest.raises(UsageError, match="unresolvable") as caught:
        found("vendor.example/gpu=0", folders=(tmp_path,))
    assert "YAML" in str(caught.value.hint)
    (tmp_path / "a.json").write_text(json.dumps(spec(hooks=[{"path": "/x"}])))
    with pytest.raises(SandboxError, match="needs hooks"):
        found("vendor.example/gpu=0", folders=(tmp_path,))
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UsageError, match="no CDI spec"):
        found("vendor.example/gpu=0", folders=(tmp_path,))
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UsageError, match="cannot read"):
        found("vendor.example/gpu=0", folders=(tmp_path,))
