"""What instructions make of the config, and the history they leave."""

import dataclasses

import pytest

from imgbuild.oci.config import Healthcheck, RunConfig
from imgbuild.oci.platform import Platform
from imgbuild.options import STANDARD_PATH
from tests.unit.plan.planning import HOST, error, history, image, target


def test_the_base_is_inherited_whole() -> None:
    run = RunConfig(
        user="u",
        exposed_ports=("80/tcp",),
        env=(("PATH", "/p"), ("A", "1")),
        entrypoint=("/e",),
        cmd=("c",),
        volumes=("/v",),
        working_dir="/w",
        labels={"l": "1"},
        stop_signal="SIGINT",
        args_escaped=True,
        healthcheck=Healthcheck(("CMD", "x"), retries=3),
        shell=("/s",),
        extra={"StopTimeout": 5, "Vendor": {"x": 1}},
    )
    base = image("b", run, author="me", extra={"vendor.key": 1}, created="2020-01-01T00:00:00Z")
    stage = target("FROM b\n", {"b": base})
    assert stage.config.run == run
    assert (stage.config.author, stage.config.extra) == ("me", {"vendor.key": 1})
    assert stage.base_history == base.config.history


def test_what_is_left_to_the_engine_is_empty() -> None:
    config = target("FROM debian\n").config
    assert (config.diff_ids, config.history, config.created) == ((), (), None)


def test_what_describes_the_container_of_an_old_base_is_dropped() -> None:
    run = RunConfig(env=(("PATH", "/p"),), extra={"Hostname": "abc", "Image": "sha256:1", "K": 1})
    extra = {"container": "abc", "docker_version": "1.9", "moby.buildkit.cache.v0": "x", "k": 1}
    config = target("FROM b\n", {"b": image("b", run, extra=extra)}).config
    assert config.run.extra == {"K": 1}
    assert config.extra == {"k": 1}


def test_a_base_without_path_gets_one_at_the_end() -> None:
    base = image("b", RunConfig(env=(("A", "1"),)))
    assert target("FROM b\n", {"b": base}).config.run.env == (("A", "1"), ("PATH", STANDARD_PATH))


def test_the_platform_is_the_base_images_in_canonical_spelling() -> None:
    odd = image("b", platform=Platform("linux", "aarch64", "v8"))
    assert target("FROM b\n", {"b": odd}).config.platform == Platform("linux", "arm64")
    silent = image("b", platform=Platform("", ""))
    assert target("FROM b\n", {"b": silent}).config.platform == HOST


def test_env_keeps_the_order_of_first_setting() -> None:
    stage = target("FROM scratch\nENV A=1\nENV B=2\nENV A=3\n")
    assert [name for name, _ in stage.config.run.env] == ["PATH", "A", "B"]
    assert dict(stage.config.run.env)["A"] == "3"


def test_names_are_expanded_too() -> None:
    stage = target("FROM scratch\nENV N=x\nENV $N=1\nLABEL $N.$N=2\n")
    assert dict(stage.config.run.env)["x"] == "1"
    assert stage.config.run.labels == {"x.x": "2"}


@pytest.mark.parametrize(
    ("text", "cmd", "line"),
    [
        ('CMD ["a","b c"]', ("a", "b c"), 'CMD ["a" "b c"]'),
        ("CMD a $X", ("/bin/sh", "-c", "a $X"), 'CMD ["/bin/sh" "-c" "a $X"]'),
        ("CMD []", None, "CMD []"),
        ('CMD ["\\u0000é\\n\\"\\\\"]', None, 'CMD ["\\x00é\\n\\"\\\\"]'),
    ],
)
def test_cmd(text: str, cmd: tuple[str, ...] | None, line: str) -> None:
    stage = target(f"FROM scratch\n{text}\n")
    assert history(stage) == [line]
    if cmd is not None or text == "CMD []":
        assert stage.config.run.cmd == cmd
    assert stage.config.run.args_escaped


def test_entrypoint_clears_a_cmd_that_the_stage_did_not_set() -> None:
    base = image("b", RunConfig(cmd=("old",)))
    assert target('FROM b\nENTRYPOINT ["x"]\n', {"b": base}).config.run.cmd is None
    kept = target('FROM b\nCMD ["new"]\nENTRYPOINT ["x"]\n', {"b": base})
    assert kept.config.run.cmd == ("new",)
    inherited = target('FROM scratch AS a\nCMD ["c"]\nFROM a\nENTRYPOINT ["x"]\n')
    assert inherited.config.run.cmd is None


def test_shell_is_what_the_shell_form_goes_to() -> None:
    stage = target('FROM scratch\nSHELL ["/bin/bash","-c"]\nCMD x y\nENTRYPOINT z\n')
    assert stage.config.run.shell == ("/bin/bash", "-c")
    assert history(stage)[0] == "SHELL [/bin/bash -c]"
    assert stage.config.run.cmd == ("/bin/bash", "-c", "x y")
    assert stage.config.run.entrypoint == ("/bin/bash", "-c", "z")


def test_windows_has_another_shell() -> None:
    stage = target("FROM scratch\nCMD x\n", platform=Platform("windows", "amd64"))
    assert stage.config.run.cmd == ("cmd", "/S", "/C", "x")


def test_labels_of_the_command_line_win_and_leave_no_history() -> None:
    text = "FROM scratch AS a\nLABEL x=1\nFROM a\nLABEL a=1 b=2\n"
    stage = target(text, labels={"b": "cli", "c": "3"})
    assert stage.config.run.labels == {"x": "1", "a": "1", "b": "cli", "c": "3"}
    assert history(stage) == ["LABEL a=1 b=2"]


def test_user_volume_and_stopsignal_are_expanded() -> None:
    text = "FROM scratch\nARG U=me V='/a b' S=SIGINT\nUSER $U:g\nVOLUME $V /c\nSTOPSIGNAL $S\n"
    stage = target(text)
    assert stage.config.run.user == "me:g"
    assert stage.config.run.volumes == ("/a b", "/c")
    assert stage.config.run.stop_signal == "SIGINT"
    assert history(stage)[1:] == ["USER me:g", "VOLUME [/a b /c]", "STOPSIGNAL SIGINT"]


def test_an_empty_volume_is_an_error() -> None:
    found = error("FROM scratch\nVOLUME $UNSET\n")
    assert found.message == "VOLUME specified can not be an empty string"
    assert found.span is not None
    assert found.span.first == 2


def test_expose_splits_what_a_variable_holds_and_keeps_its_order() -> None:
    stage = target('FROM scratch\nARG P="3000 4000/udp"\nEXPOSE 5000 $P 80\n')
    assert history(stage)[-1] == "EXPOSE [3000/tcp 4000/udp 5000/tcp 80/tcp]"
    assert set(stage.config.run.exposed_ports) == {"3000/tcp", "4000/udp", "5000/tcp", "80/tcp"}


def test_maintainer_is_the_author_and_not_expanded() -> None:
    stage = target("FROM scratch\nENV A=1\nMAINTAINER me $A\n")
    assert stage.config.author == "me $A"


def test_healthcheck_replaces_the_whole_check() -> None:
    text = (
        "FROM scratch AS a\nHEALTHCHECK --interval=1m30s --retries=2 CMD x\n"
        'FROM a\nHEALTHCHECK --timeout=100ms CMD ["a","b c"]\n'
    )
    stage = target(text)
    assert stage.config.run.healthcheck == Healthcheck(("CMD", "a", "b c"), timeout=100_000_000)
    (line,) = history(stage)
    assert line.startswith("HEALTHCHECK {Test:[CMD a b c] Interval:0s Timeout:100ms StartPeriod:0s")
    assert line.endswith(" StartInterval:0s Retries:0}")


def test_onbuild_is_kept_raw_without_history() -> None:
    stage = target("FROM scratch\nONBUILD RUN echo $X\nONBUILD copy a b\n")
    assert stage.config.run.on_build == ("RUN echo $X", "copy a b")
    assert stage.steps == ()


def test_a_config_is_a_value_of_its_own() -> None:
    labels = {"a": "1"}
    base = image("b", RunConfig(labels=labels))
    stage = target("FROM b\nLABEL a=2\n", {"b": base})
    assert labels == {"a": "1"}
    assert dataclasses.replace(stage.config).run.labels == {"a": "2"}
