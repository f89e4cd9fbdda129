from pathlib import Path
from typing import Any

import pytest

from imgbuild.cli import environment, running
from imgbuild.cli.main import command_line
from imgbuild.errors import UsageError
from imgbuild.options import RunOptions, Volume


def read(**flags: Any) -> RunOptions:
    return running.run_fields(flags)


def test_without_flags_the_options_are_the_default_ones() -> None:
    for name in ("build", "plan", "check", "run"):
        command = command_line.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        context = command.make_context(name, [], resilient_parsing=True)
        assert read(**context.params) == RunOptions()


def test_every_option_has_a_flag() -> None:
    build = command_line.get_command(None, "build")  # type: ignore[arg-type]
    assert build is not None
    assert set(RunOptions.__dataclass_fields__) <= {p.name for p in build.params}


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        ({"add_hosts": ("db:10.0.0.1", "a=::1", "b:fd00::2")}, "add_hosts", (("db", "10.0.0.1"), ("a", "::1"), ("b", "fd00::2"))),
        ({"shm_size": "1g"}, "shm_size", 1 << 30),
        ({"memory": "1.5g"}, "memory", 3 << 29),
        ({"cpus": "1.5"}, "cpus", 1.5),
        ({"cpu_quota": "50000"}, "cpus", 0.5),
        ({"cpu_quota": "20000", "cpu_period": "10000"}, "cpus", 2.0),
        ({"cpu_quota": "-1"}, "cpus", None),
        ({"pids_limit": "-1"}, "pids_limit", -1),
        ({"ulimits": ("nofile=1:2", "core=-1")}, "ulimits", (("nofile", 1, 2), ("core", -1, -1))),
        ({"timeout": "90"}, "timeout", 90.0),
        ({"timeout": "1h30m"}, "timeout", 5400.0),
        ({"timeout": "500ms"}, "timeout", 0.5),
        ({"volumes": ("/a:/b",)}, "volumes", (Volume(Path("/a"), "/b"),)),
        ({"volumes": ("./a:/b:ro,rw,ro",)}, "volumes", (Volume(Path("a"), "/b", True),)),
    ],
)  # fmt: skip
def test_flags_are_read(flags: dict[str, Any], field: str, value: object) -> None:
    assert getattr(read(**flags), field) == value


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"add_hosts": ("db",)}, "bad format for add-host"),
        ({"add_hosts": ("=1.1.1.1",)}, "bad format for add-host"),
        ({"shm_size": "x"}, "invalid --shm-size"),
        ({"memory": "-1"}, "invalid --memory"),
        ({"cpus": "x"}, "invalid --cpus"),
        ({"cpus": "1", "cpu_quota": "5"}, "conflicting"),
        ({"cpu_period": "5"}, "without --cpu-quota"),
        ({"cpu_quota": "5", "cpu_period": "5"}, "between 1000"),
        ({"cpu_quota": "a"}, "invalid --cpu-quota"),
        ({"pids_limit": "a"}, "invalid --pids-limit"),
        ({"ulimits": ("nofile=2:1",)}, "soft limit must be less"),
        ({"ulimits": ("files=2",)}, "invalid ulimit type"),
        ({"timeout": "5x"}, "invalid --timeout"),
        ({"volumes": ("/a",)}, "invalid --volume"),
        ({"volumes": ("/a:/b:U",)}, "unknown option U"),
        ({"volumes": ("a:/b",)}, "no volumes with names"),
    ],
)
def test_what_is_malformed_is_refused(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read(**flags)
    assert caught.value.hint


def test_labels_are_refused_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_SELINUX", tmp_path / "none")
    assert read(volumes=("/a:/b:z",)).volumes == (Volume(Path("/a"), "/b"),)
    monkeypatch.setattr(running, "_SELINUX", tmp_path)
    with pytest.raises(UsageError, match="not relabelled"):
        read(volumes=("/a:/b:Z",))


def test_variables_come_from_files_flags_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(environment.os.environ, "INHERITED", "i")
    file = tmp_path / "env"
    file.write_text("# a comment\n\nA=1\nB=x=y # no comment\nINHERITED\nMISSING_ONE\n")
    found = running.environment_pairs(("A=2", "C="), (file,))
    assert found == {"A": "2", "B": "x=y # no comment", "INHERITED": "i", "C": ""}
    with pytest.raises(UsageError, match="cannot read --env-file"):
        running.environment_pairs((), (tmp_path / "none",))
