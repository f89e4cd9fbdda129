from dataclasses import replace
from pathlib import Path

import pytest

from imgbuild.build.granted import capabilities, with_options
from imgbuild.errors import SandboxError
from imgbuild.options import RunOptions, Volume
from imgbuild.sandbox.child.capability_names import NAMES
from imgbuild.sandbox.idmap import IdMap
from imgbuild.sandbox.spec import DEFAULT_CAPABILITIES, BindMount, SandboxSpec

SHIFTED = IdMap("subids", ((0, 1000, 1), (1, 100000, 9)), ((0, 1000, 1), (1, 100000, 9)), 1, 9)
SINGLE = IdMap("single", ((0, 1000, 1),), ((0, 1000, 1),), 0, 1)
SPEC = SandboxSpec(("true",), (("A", "1"),))


@pytest.mark.parametrize(
    ("add", "drop", "held"),
    [
        ((), (), set(DEFAULT_CAPABILITIES)),
        (("net_admin",), (), {*DEFAULT_CAPABILITIES, "net_admin"}),
        ((), ("chown",), set(DEFAULT_CAPABILITIES) - {"chown"}),
        (("chown",), ("chown",), set(DEFAULT_CAPABILITIES)),
        (("chown",), ("ALL",), {"chown"}),
        ((), ("ALL",), set()),
        (("ALL",), (), set(NAMES)),
        (("ALL",), ("bpf",), set(NAMES) - {"bpf"}),
        (("ALL",), ("ALL",), set(NAMES)),
    ],
)
def test_capabilities_are_counted_as_docker_does(
    add: tuple[str, ...], drop: tuple[str, ...], held: set[str]
) -> None:
    assert set(capabilities(RunOptions(cap_add=add, cap_drop=drop))) == held


def test_insecure_has_them_all() -> None:
    insecure = replace(SPEC, insecure=True)
    given = with_options(insecure, RunOptions(cap_drop=("chown",)), SHIFTED)
    assert set(given.capabilities) == set(NAMES)


def test_options_reach_the_spec() -> None:
    options = RunOptions(shm_size=5, ulimits=(("nofile", 1, 2),), devices=("/dev/null:/dev/x",))
    given = with_options(SPEC, options, SHIFTED, ("/dev/zero",))
    assert given.shm_size == 5
    assert given.rlimits == (("nofile", 1, 2),)
    assert [target for _, target, _ in given.devices] == ["/dev/x", "/dev/zero"]
    assert given.env == SPEC.env


def test_volumes_have_to_be_of_use(tmp_path: Path) -> None:
    def mounted(mode: int, *, readonly: bool, ids: IdMap = SHIFTED, mapped: str = "") -> object:
        tmp_path.chmod(mode)
        options = RunOptions(volumes=(Volume(tmp_path, "/v", readonly),))
        return with_options(SPEC, options, ids, mapped=(mapped,)).mounts

    expected = (BindMount(str(tmp_path), "/v", readonly=True, straight=True),)
    assert mounted(0o755, readonly=True) == expected
    assert mounted(0o777, readonly=False) == (
        BindMount(str(tmp_path), "/v", readonly=False, straight=True),
    )
    with pytest.raises(SandboxError, match="could not read the volume") as caught:
        mounted(0o750, readonly=True)
    assert "chmod -R o" in str(caught.value.hint)
    with pytest.raises(SandboxError, match="could not write to the volume") as caught:
        mounted(0o755, readonly=False)
    assert "add :ro" in str(caught.value.hint)
    # Files that are the commands' own, or are made to look so.
    assert mounted(0o700, readonly=False, ids=SINGLE)
    assert mounted(0o700, readonly=False, mapped="/v")
