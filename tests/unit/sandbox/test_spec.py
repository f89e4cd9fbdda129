"""A spec says everything a child needs, as JSON."""

import json

from imgbuild.sandbox.child import capabilities
from imgbuild.sandbox.spec import DEFAULT_CAPABILITIES, FileMount, OverlayRoot, SandboxSpec


def test_json_and_back() -> None:
    spec = SandboxSpec(
        OverlayRoot(("/l2", "/l1"), "/u", "/w"),
        ("sh", "-c", "true"),
        (("PATH", "/bin"),),
        mounts=(FileMount("/h", "/etc/hosts"),),
    )
    found = json.loads(json.dumps(spec.to_json()))
    assert found["root"] == {"lowers": ["/l2", "/l1"], "upper": "/u", "work": "/w"}
    assert found["env"] == [["PATH", "/bin"]]
    assert found["mounts"] == [{"source": "/h", "target": "/etc/hosts"}]
    assert (found["network"], found["interactive"]) == ("host", False)
    assert spec.mounts[0].describe() == "bind /h at /etc/hosts, read-only"


def test_default_capabilities_are_dockers() -> None:
    assert sum(1 << n for n in capabilities.numbers(DEFAULT_CAPABILITIES)) == 0xA80425FB
