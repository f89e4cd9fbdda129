"""ARG and ENV: who sees which value where (reference: Dockerfile scoping, BuildKit's convert.go)."""

import pytest

from imgbuild.oci.platform import Platform
from imgbuild.plan.model import RunStep, Stage
from imgbuild.plan.scope import PROXIES
from tests.unit.plan.planning import DEFAULT_PATH, HOST, error, history, plan, target


def env_of_run(stage: Stage) -> dict[str, str]:
    run = [step for step in stage.steps if isinstance(step, RunStep)][-1]
    return dict(run.env)


def test_global_arguments_are_for_from_alone() -> None:
    stage = target("ARG NAME=debian\nFROM $NAME\nENV A=[$NAME]\n")
    assert stage.title is not None
    assert "debian" in stage.title
    assert dict(stage.config.run.env)["A"] == "[]"


def test_an_argument_without_default_imports_the_global_one() -> None:
    stage = target("ARG V=1\nARG W=$V-2\nFROM scratch\nARG W\nENV A=$W B=[$V]\n")
    assert history(stage) == ["ARG W=1-2", "ENV A=1-2 B=[]"]


def test_a_given_value_wins_over_default_and_global() -> None:
    text = "ARG G=g\nFROM scratch\nARG A=1 G B C=3\nENV R=$A-$G-$B-$C\n"
    stage = target(text, build_args={"A": "x", "G": "y"})
    assert history(stage) == ["ARG A=x G=y B C=3", "ENV R=x-y--3"]


def test_a_default_is_not_evaluated_when_a_value_is_given() -> None:
    text = 'ARG G="${G:?no global}"\nFROM scratch\nARG A="${X:?no x}"\nENV R="$A"\n'
    assert history(target(text, build_args={"A": "1", "G": "2"})) == ["ARG A=1", "ENV R=1"]
    found = error(text, build_args={"A": "1"})
    assert "G: no global" in found.message
    assert found.span is not None
    assert found.span.first == 1
    found = error(text, build_args={"G": "1"})
    assert "X: no x" in found.message
    assert found.span is not None
    assert found.span.first == 3


def test_arguments_of_one_line_see_the_earlier_ones() -> None:
    stage = target("FROM scratch\nARG a=1 b=$a-2 b=${b}y\n")
    assert history(stage) == ["ARG a=1 b=1-2 b=1-2y"]


def test_words_of_env_and_label_see_the_environment_before_the_line() -> None:
    stage = target("FROM scratch\nENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc\n")
    values = dict(stage.config.run.env)
    assert (values["def"], values["ghi"]) == ("hello", "bye")


def test_the_last_writer_of_a_name_wins() -> None:
    stage = target("FROM debian\nENV A=1\nARG A\nRUN x\n", build_args={"A": "2"})
    assert env_of_run(stage)["A"] == "2"
    assert dict(stage.config.run.env)["A"] == "1"
    stage = target("FROM debian\nARG A=1\nENV A=2\nRUN x\n")
    assert env_of_run(stage)["A"] == "2"
    assert history(stage)[-1] == "RUN |1 A=2 /bin/sh -c x # buildkit"


def test_an_unset_argument_is_not_in_the_environment_but_in_history() -> None:
    stage = target("FROM debian\nARG A\nARG B=\nRUN x\n")
    assert "A" not in env_of_run(stage)
    assert env_of_run(stage)["B"] == ""
    assert history(stage)[-1] == "RUN |2 A= B= /bin/sh -c x # buildkit"


def test_arguments_and_environment_pass_to_a_stage_built_on_this_one() -> None:
    text = "FROM debian AS a\nARG X=1\nENV Y=2\nFROM a\nRUN echo $X\n"
    stage = target(text)
    assert env_of_run(stage) == {"PATH": "/bin", "X": "1", "Y": "2"}
    assert history(stage) == ["RUN |1 X=1 /bin/sh -c echo $X # buildkit"]


def test_the_config_wins_again_at_the_start_of_a_stage() -> None:
    text = "FROM debian AS a\nENV A=1\nARG A\nFROM a\nRUN x\n"
    assert env_of_run(target(text, build_args={"A": "2"}))["A"] == "1"


def test_arguments_do_not_pass_to_other_stages() -> None:
    text = "FROM debian AS a\nARG X=1\nFROM debian\nCOPY --from=a /x /x\nRUN x\n"
    assert "X" not in env_of_run(target(text))


@pytest.mark.parametrize(
    ("text", "options", "stage_name"),
    [
        ("FROM scratch\n", {}, "default"),
        ("FROM scratch AS last\n", {}, "last"),
        ("FROM scratch AS one\n", {"target": "ONE"}, "ONE"),
    ],
)
def test_platform_arguments_need_to_be_declared(
    text: str, options: dict[str, str], stage_name: str
) -> None:
    names = "TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM BUILDARCH TARGETSTAGE"
    text += "ENV U=[$TARGETARCH]\nARG " + names + "\n"
    stage = target(text, platform=Platform("linux", "arm", "v7"), build_platform=HOST, **options)
    wanted = (
        "ARG TARGETPLATFORM=linux/arm/v7 TARGETOS=linux TARGETARCH=arm TARGETVARIANT=v7"
        f" BUILDPLATFORM=linux/amd64 BUILDARCH=amd64 TARGETSTAGE={stage_name}"
    )
    assert history(stage) == ["ENV U=[]", wanted]


def test_platform_arguments_can_be_overridden() -> None:
    stage = target(
        "FROM scratch\nARG TARGETOS\nLABEL a=$TARGETOS\n", build_args={"TARGETOS": "plan9"}
    )
    assert stage.config.run.labels == {"a": "plan9"}


def test_proxies_reach_every_run_in_both_cases_and_nothing_else() -> None:
    text = "FROM debian\nENV E=[$http_proxy]\nRUN x\n"
    stage = target(
        text, build_args={"Http_Proxy": "http://u:p@h"}, proxies={"NO_PROXY": "localhost"}
    )
    run = stage.steps[-1]
    assert isinstance(run, RunStep)
    assert run.hidden_env == (
        ("HTTP_PROXY", "http://u:p@h"),
        ("http_proxy", "http://u:p@h"),
        ("NO_PROXY", "localhost"),
        ("no_proxy", "localhost"),
    )
    assert dict(run.env) == {"PATH": "/bin", "E": "[]"}
    assert "http" not in run.created_by


def test_build_arguments_win_over_the_proxies_of_the_configuration() -> None:
    stage = target(
        "FROM debian\nRUN x\n", proxies={"HTTP_PROXY": "a"}, build_args={"HTTP_PROXY": "b"}
    )
    run = stage.steps[-1]
    assert isinstance(run, RunStep)
    assert dict(run.hidden_env)["HTTP_PROXY"] == "b"


def test_a_declared_proxy_is_an_argument_like_any_other() -> None:
    stage = target("FROM debian\nARG HTTP_PROXY\nRUN x\n", build_args={"HTTP_PROXY": "p"})
    run = stage.steps[-1]
    assert isinstance(run, RunStep)
    assert dict(run.env)["HTTP_PROXY"] == "p"
    assert run.hidden_env == (("http_proxy", "p"),)
    assert run.created_by == "RUN |1 HTTP_PROXY=p /bin/sh -c x # buildkit"


def test_every_proxy_of_the_reference_is_known() -> None:
    given = {name.lower(): "v" for name in PROXIES}
    run = target("FROM debian\nRUN x\n", build_args=given).steps[-1]
    assert isinstance(run, RunStep)
    assert len(run.hidden_env) == 10


def test_arguments_of_the_scanner_never_reach_the_environment() -> None:
    run = target("FROM debian\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN x\n").steps[-1]
    assert isinstance(run, RunStep)
    assert "BUILDKIT_SBOM_SCAN_STAGE" not in dict(run.env)


def test_a_value_that_doubles_itself_is_stopped() -> None:
    found = error("FROM scratch\nENV A=0123456789abcdef\n" + "ENV A=$A$A\n" * 40)
    assert "longer than" in found.message
    assert "longer than" in error("ARG A=01234567\n" + "ARG A=$A$A\n" * 40 + "FROM x\n").message


def test_single_quotes_and_escapes_keep_a_dollar() -> None:
    stage = target("FROM scratch\nENV A=1\nENV B='$A' C=\\$A D=\"$A\"\n")
    assert history(stage)[1] == "ENV B=$A C=$A D=1"


def test_the_escape_directive_holds_for_words() -> None:
    stage = target("# escape=`\nFROM scratch\nENV A=1 B=`$A C=\\$A\n")
    assert history(stage)[0] == "ENV A=1 B=$A C=\\"


def test_scratch_has_a_path_and_linux_alone_does() -> None:
    assert target("FROM scratch\n").config.run.env == (("PATH", DEFAULT_PATH),)
    windows = Platform("windows", "amd64")
    assert target("FROM scratch\n", platform=windows).config.run.env == ()


def test_build_arguments_nobody_declares_are_no_error() -> None:
    assert plan("FROM scratch\n", build_args={"UNUSED": "1"}).stages
