"""A spec says everything a child needs, as JSON."""

import json
from typing import Any

import pytest

from imgbuild.errors import SandboxError
from imgbuild.sandbox.child import capabilities
from imgbuild.sandbox.spec import DEFAULT_CAPABILITIES, FileMount, OverlayRoot, SandboxSpec


def test_json_and_back() -> None:
    spec = SandboxSpec(
        ("sh", "-c", "true"),
        (("PATH", "/bin"),),
        OverlayRoot(("/l2", "/l1"), "/u", "/w"),
        mounts=(FileMount("/h", "/etc/hosts"),),
    )
    found = json.loads(json.dumps(spec.to_json()))
    assert found["root"] == {
        "kind": "overlay",
        "lowers": ["/l2", "/l1"],
        "upper": "/u",
        "work": "/w",
    }
    assert found["env"] == [["PATH", "/bin"]]
    assert found["mounts"] == [{"kind": "file", "source": "/h", "target": "/etc/hosts"}]
    assert (found["network"], found["interactive"]) == ("host", False)
    assert spec.mounts[0].describe() == "bind /h at /etc/hosts, read-only"


def test_default_capabilities_are_dockers() -> None:
    assert sum(1 << n for n in capabilities.numbers(DEFAULT_CAPABILITIES)) == 0xA80425FB


@pytest.mark.parametrize(
    "fields",
    [
        {"argv": ()},
        {"argv": ("",)},
        {"argv": ("sh", "a\0b")},
        {"argv": ("\ud800",)},
        {"env": (("A", "\0"),)},
        {"env": (("A", "\ud800"),)},
        {"env": (("", "x"),)},
        {"env": (("A=B", "x"),)},
        {"cwd": "/a\0b"},
        {"groups": tuple(range(65537))},
    ],
)
def test_what_nothing_can_be_started_with_is_said_before(fields: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"argv": ("sh",), "env": (("A", "\udcff"),)}
    SandboxSpec(root=OverlayRoot((), "/u", "/w"), **plain).check()
    with pytest.raises(SandboxError) as caught:
        SandboxSpec(root=OverlayRoot((), "/u", "/w"), **plain | fields).check()
    assert caught.value.hint
