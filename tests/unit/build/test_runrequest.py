from pathlib import Path
from typing import Any

import pytest

from imgbuild import api
from imgbuild.build.runrequest import settled_run
from imgbuild.errors import UsageError
from imgbuild.options import RunOptions, Volume


def test_capabilities_have_one_name_each() -> None:
    settled = settled_run(
        RunOptions(cap_add=("CAP_NET_ADMIN", "sys_time"), cap_drop=("All", "MKNOD"))
    )
    assert settled.cap_add == ("net_admin", "sys_time")
    assert settled.cap_drop == ("ALL", "mknod")


def test_no_limit_is_none() -> None:
    settled = settled_run(RunOptions(memory=0, cpus=0.0, pids_limit=-1))
    assert (settled.memory, settled.cpus, settled.pids_limit) == (None, None, None)


def test_the_last_limit_of_a_name_counts() -> None:
    limits = (("nofile", 1, 2), ("core", 0, 0), ("nofile", 3, 4))
    assert settled_run(RunOptions(ulimits=limits)).ulimits == (("nofile", 3, 4), ("core", 0, 0))


def test_volumes_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    settled = settled_run(RunOptions(volumes=(Volume(Path("a"), "/b"), Volume(Path(), "/c"))))

    assert [volume.source for volume in settled.volumes] == [tmp_path / "a", tmp_path]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"allow": ("everything",)}, "unknown entitlement"),
        ({"allow": ("network.host=x",)}, "unknown entitlement"),
        ({"allow": ("device=",)}, "unknown entitlement"),
        ({"on_fail": "cry"}, "unknown on-fail"),
        ({"cap_add": "CHOWN"}, "cap_add is one text: 'CHOWN'"),
        ({"volumes": ".:/v"}, "volumes is one text"),
        ({"add_hosts": ["db:10.0.0.5"]}, "add_hosts has no pair, but 'db:10.0.0.5'"),
        ({"add_hosts": {"db": "10.0.0.5"}}, "add_hosts has no pair, but 'db'"),
        ({"memory": "100m"}, "memory is no number, but '100m'"),
        ({"timeout": "5m"}, "timeout is no number, but '5m'"),
        ({"add_hosts": (("a b", "1.1.1.1"),)}, "no host name"),
        ({"add_hosts": (("a", "b"),)}, "not an IP address"),
        ({"dns": ("none", "1.1.1.1")}, "not an IP address"),
        ({"dns": ("none",), "dns_search": ("a",)}, "nothing can be added"),
        ({"dns_search": ("a\nnameserver 1.1.1.1",)}, "cannot stand"),
        ({"shm_size": 0}, "/dev/shm"),
        ({"memory": 1}, "minimum memory limit"),
        ({"memory": -1}, "below 0"),
        ({"cpus": float("nan")}, "invalid number of cpus"),
        ({"cpus": -1.0}, "invalid number of cpus"),
        ({"pids_limit": -2}, "invalid pids-limit"),
        ({"timeout": 0}, "timeout has to be"),
        ({"ulimits": (("nofile", 2, 1),)}, "soft limit"),
        ({"ulimits": ("nofile=2",)}, "to unpack"),
        ({"cap_add": ("NET_ADMN",)}, "unknown capability to cap-add"),
        ({"volumes": ("/a:/b",)}, "no Volume"),
        ({"volumes": (Volume(Path("/"), "b"),)}, "no absolute path"),
        ({"volumes": (Volume(Path("/"), "/"),)}, "can't be '/'"),
        ({"volumes": (Volume(Path("/missing/one"), "/b"),)}, "does not exist"),
    ],
)
def test_what_can_never_be_had_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        settled_run(RunOptions(**given))
    assert caught.value.hint


def test_a_command_of_run_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="command is one text: 'id -u'") as caught:
        api.run("app", "id -u", store=tmp_path)
    assert caught.value.hint == "give a list: ['id', '-u']"
