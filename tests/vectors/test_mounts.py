"""RUN --mount against BuildKit's own reading of it, defaults and error texts included."""

from typing import Any

import pytest

from imgbuild.dockerfile.instructions import Run
from imgbuild.dockerfile.mounts import MountText, parse_mount
from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError
from tests.vectors import load


def runs(document: list[Any]) -> list[dict[str, Any]]:
    found = []
    for case in document:
        for stage in case.get("instructions", case).get("stages") or []:
            for number, command in enumerate(stage["commands"]):
                if command.get("mounts") or command.get("mount_error"):
                    found.append({"text": case["dockerfile"], "number": number, **command})
    return found


def as_data(mount: MountText) -> dict[str, Any]:
    writable = mount.type in {"cache", "tmpfs"}
    return {
        "Type": mount.type,
        "From": mount.from_,
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": not writable if mount.readonly is None else mount.readonly,
        "SizeLimit": mount.size,
        "CacheID": mount.id,
        "CacheSharing": mount.sharing or "",
        "Required": mount.required,
        "Env": mount.env,
        "Mode": mount.mode,
        "UID": mount.uid,
        "GID": mount.gid,
    }


@pytest.mark.parametrize(
    "case", load("instructions/instructions.json", runs, lambda case: str(case["text"]))
)
def test_mounts(case: dict[str, Any]) -> None:
    run = parse(case["text"]).stages[0].instructions[case["number"]]
    assert isinstance(run, Run)
    if "mount_error" in case:
        with pytest.raises(DockerfileError) as caught:
            [parse_mount(text, str) for text in run.mounts]
        assert caught.value.message == case["mount_error"]
        return
    assert [as_data(parse_mount(text, str)) for text in run.mounts] == case["mounts"]
