"""Stages, bases, sources and steps of a plan."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuild.dockerfile.instructions import Dockerfile, From, StageText
from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError, ImgbuildError, NotFoundError, Span, UsageError
from imgbuild.oci.config import RunConfig
from imgbuild.oci.platform import Platform
from imgbuild.plan.model import (
    BaseImage,
    BuildPlan,
    ContextSource,
    CopyStep,
    ImageSource,
    MetaStep,
    RunStep,
    ScratchBase,
    StageBase,
    StageSource,
    WorkdirStep,
)
from imgbuild.plan.planner import PlanOptions, make_plan
from imgbuild.plan.render import render_json
from tests.unit.plan.planning import (
    HOST,
    Images,
    error,
    history,
    image,
    names,
    plan,
    target,
)

ARM = Platform("linux", "arm64")


def copy_of(text: str, *args: object, **options: object) -> CopyStep:
    step = target(text, *args, **options).steps[-1]
    assert isinstance(step, CopyStep)
    return step


# --- which stages


def test_only_what_the_target_needs_is_planned_and_resolved() -> None:
    images = Images()
    text = """\
        FROM nowhere AS unused
        RUN false
        FROM debian AS a
        FROM alpine AS b
        COPY --from=a /x /x
        FROM unknown AS also-unused
        FROM b
        """
    built = plan(text, images)
    assert [stage.index for stage in built.stages] == [1, 2, 4]
    assert built.target == 4
    assert images.asked == [("debian", "linux/amd64"), ("alpine", "linux/amd64")]


def test_what_is_wrong_matters_only_where_it_is_needed() -> None:
    text = "FROM debian AS a\nRUN --mount=type=cache,target=/ x\nFROM scratch\n"
    assert plan(text).stages
    assert 'invalid mount target "/"' in error(text, target="a").message


def test_an_image_is_resolved_once_for_each_platform() -> None:
    images = Images()
    plan(
        """\
        FROM debian AS a
        FROM --platform=$BUILDPLATFORM debian AS b
        FROM debian
        COPY --from=a /x /x
        COPY --from=b /x /x
        COPY --from=debian /x /x
        """,
        images,
        platform=ARM,
    )
    assert images.asked == [("debian", "linux/arm64"), ("debian", "linux/amd64")]


def test_a_stage_can_be_the_target_by_name_whatever_its_case() -> None:
    built = plan("FROM scratch AS One\nFROM scratch AS two\n", target="oNE")
    assert [stage.name for stage in built.stages] == ["one"]


def test_an_unknown_target_is_told_with_a_guess() -> None:
    found = error("FROM scratch AS build\nFROM scratch\n", target="bulid")
    assert found.message == 'target stage "bulid" could not be found (did you mean build?)'
    assert error("FROM scratch\n", target="0").message == 'target stage "0" could not be found'


def test_no_stage() -> None:
    empty = Dockerfile("Dockerfile", "ARG A\n", "\\", (), ())
    with pytest.raises(DockerfileError, match="dockerfile contains no stages to build"):
        make_plan(empty, PlanOptions(HOST, HOST), Images())


def test_a_name_used_twice_means_the_later_stage() -> None:
    text = "FROM debian AS a\nFROM alpine AS a\nFROM a\n"
    assert target(text).base == StageBase(1)


def test_a_stage_wins_over_an_image_but_not_over_itself() -> None:
    built = plan("FROM debian AS debian\nFROM debian\n")
    assert isinstance(built.stages[0].base, BaseImage)
    assert built.stages[1].base == StageBase(0)


def test_circles_are_refused() -> None:
    text = "FROM scratch AS a\nCOPY --from=b x x\nFROM scratch AS b\nCOPY --from=a x x\n"
    found = error(text)
    assert found.message == "circular dependency detected on stage: a"
    assert found.span == Span("Dockerfile", 4, 4)
    assert error("FROM scratch AS me\nCOPY --from=me x x\n").message.endswith("stage: me")


def test_a_circle_is_refused_even_where_it_is_not_needed() -> None:
    text = "FROM scratch\nCOPY --from=0 x x\nFROM scratch\n"
    assert error(text).message == "circular dependency detected on stage: stage-0"


def test_a_stage_cannot_copy_from_a_later_one() -> None:
    text = """\
        FROM debian AS target
        COPY --from=Build /x /out
        FROM alpine AS build
        FROM target
        """
    found = error(text)
    assert found.message == (
        'cannot copy from stage "Build", it needs to be defined before current stage "target"'
    )
    assert found.span == Span("Dockerfile", 2, 2)


def test_a_stage_that_copies_from_one_built_on_it_is_refused() -> None:
    text = "FROM scratch AS a\nCOPY --from=b x x\nFROM a AS b\n"
    assert "it needs to be defined before" in error(text).message


def test_thousands_of_stages_are_no_deep_recursion() -> None:
    count = 3000
    rest = (f"FROM s{n - 1} AS s{n}\nCOPY --from=s{n - 1} x x\n" for n in range(1, count))
    assert len(plan("FROM scratch AS s0\n" + "".join(rest)).stages) == count


# --- bases


def test_from_is_expanded() -> None:
    images = Images({"debian:12": image("debian")})
    plan("ARG TAG=12\nFROM debian:${TAG}\n", images)
    assert images.asked == [("debian:12", "linux/amd64")]


def test_blank_and_malformed_names() -> None:
    found = error("FROM ${X}\n")
    assert found.message == "base name (${X}) should not be blank"
    assert found.hint is not None
    assert found.span == Span("Dockerfile", 1, 1)
    found = error("FROM Debian\n")
    assert found.message.startswith(
        'failed to parse stage name "Debian": invalid reference format: repository name must be'
    )
    assert found.exit_code == 1


def test_a_stage_in_upper_case_is_told_how_to_name_it() -> None:
    found = error("FROM scratch AS Build\nFROM Build\n")
    assert found.message.startswith('failed to parse stage name "Build": invalid reference')
    assert found.hint == "for the stage, write FROM build"
    later = error("FROM Build AS a\nFROM scratch AS Build\nCOPY --from=a /x /\n")
    assert later.hint != found.hint


def test_a_missing_image_is_told_with_place_and_guess() -> None:
    with pytest.raises(NotFoundError) as caught:
        plan("FROM scratch AS build\nFROM biuld\n")
    assert caught.value.span == Span("Dockerfile", 2, 2)
    assert caught.value.source == "FROM scratch AS build\nFROM biuld\n"
    assert caught.value.hint == "did you mean build?"


def test_errors_of_the_resolver_keep_their_kind() -> None:
    def resolve(name: str, platform: Platform) -> BaseImage:
        raise UsageError(f"bad --build-context {name}")

    with pytest.raises(UsageError) as caught:
        make_plan(parse("FROM debian\n"), PlanOptions(HOST, HOST), resolve)
    assert caught.value.span == Span("Dockerfile", 1, 1)


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ("$NOPE", "empty platform value from expression $NOPE"),
        ("$BUILDPLATFOR", "(did you mean BUILDPLATFORM?)"),
        ("a/b/c/d", "failed to parse platform a/b/c/d"),
        ("nonsense", "failed to parse platform nonsense"),
    ],
)
def test_malformed_platforms(platform: str, message: str) -> None:
    found = error(f"FROM --platform={platform} debian\n")
    assert message in found.message
    assert found.span == Span("Dockerfile", 1, 1)


def test_scratch_is_for_the_target_platform() -> None:
    stage = target("FROM --platform=linux/arm64 scratch\n")
    assert stage.base == ScratchBase()
    assert stage.title is None
    assert stage.config.platform == HOST


def test_base_history_is_that_of_an_image_alone() -> None:
    built = plan("FROM debian AS a\nENV A=1\nFROM a\nENV B=1\n")
    assert [len(stage.base_history) for stage in built.stages] == [1, 0]


# --- names of steps


def test_steps_are_numbered() -> None:
    built = plan("FROM debian\nENV A=1\nRUN x\nWORKDIR /w\nCOPY a b\nADD a c\nWORKDIR /\n")
    digest = image("debian").digest
    assert names(built) == [
        f"[1/6] FROM docker.io/library/debian:latest@{digest}",
        "[2/6] RUN x",
        "[3/6] WORKDIR /w",
        "[4/6] COPY a b",
        "[5/6] ADD a c",
    ]


def test_numbers_are_as_wide_as_the_total() -> None:
    built = plan("FROM debian AS b\n" + "RUN x\n" * 11 + "FROM b\n")
    shown = names(built)
    assert shown[0].startswith("[b  1/12] FROM")
    assert shown[1] == "[b  2/12] RUN x"
    assert shown[11] == "[b 12/12] RUN x"


def test_a_single_stage_has_no_label_unless_something_foreign_is_copied() -> None:
    assert names(plan("FROM scratch AS a\nCOPY x x\n")) == ["[1/1] COPY x x"]
    shown = names(plan("FROM scratch AS a\nCOPY --from=alpine x x\n"))
    assert shown == ["[a 1/1] COPY --from=alpine x x"]


def test_names_show_the_instruction_as_written() -> None:
    built = plan(
        'FROM debian\nENV A=1\nrun echo "$A  $UNSET" && \\\n  # gone\n\n  true\n'
        'copy --chown=$A  \'ab\'   /x\nCOPY ["$A", "/y z/"]\n'
    )
    assert names(built)[1:] == [
        '[2/4] RUN echo "1  $UNSET" &&   true',
        "[3/4] COPY --chown=1  ab   /x",
        "[4/4] COPY [1, /y z/]",
    ]


def test_a_name_that_cannot_be_expanded_is_shown_raw() -> None:
    built = plan("FROM debian\nRUN echo ${A:0:1}\n")
    assert names(built)[1] == "[2/2] RUN echo ${A:0:1}"


# --- RUN


def test_run() -> None:
    run = target(
        "FROM debian\nWORKDIR /w/\nUSER me:g\nENV A=1\nRUN --network=none make -j\n",
        network="host",
    ).steps[-1]
    assert isinstance(run, RunStep)
    assert run.argv == ("/bin/sh", "-c", "make -j")
    assert (run.cwd, run.user, run.network) == ("/w", "me:g", "none")
    assert run.env == (("PATH", "/bin"), ("A", "1"))
    assert run.created_by == "RUN /bin/sh -c make -j # buildkit"


def test_run_in_exec_form_and_without_a_working_directory() -> None:
    run = target('FROM debian\nRUN ["a","b c"]\n', network="host").steps[-1]
    assert isinstance(run, RunStep)
    assert run.argv == ("a", "b c")
    assert (run.cwd, run.user, run.network) == ("/", "", "host")
    assert run.created_by == "RUN a b c # buildkit"


@pytest.mark.parametrize(
    ("given", "written", "network"),
    [
        ("default", "", "default"),
        ("default", "--network=default", "default"),
        ("host", "--network=host", "host"),
        ("host", "", "host"),
        ("host", "--network=none", "none"),
        ("none", "", "none"),
        ("none", "--network=default", "none"),
    ],
)
def test_the_network_of_a_run(given: str, written: str, network: str) -> None:
    run = target(f"FROM debian\nRUN {written} make\n", network=given).steps[-1]
    assert isinstance(run, RunStep)
    assert run.network == network


@pytest.mark.parametrize("given", ["none", "default"])
def test_a_run_cannot_take_the_network_that_the_caller_withheld(given: str) -> None:
    found = error("FROM debian\nRUN --network=host make\n", network=given)
    assert found.message == "network.host is not allowed"
    assert "--allow network.host" in str(found.hint)
    assert found.span == Span("Dockerfile", 2, 2)


@pytest.mark.parametrize("line", ["RUN []", 'RUN [""]', 'RUN ["", "x"]'])
def test_a_run_without_a_command(line: str) -> None:
    found = error(f"FROM debian\n{line}\n")
    assert (found.message, found.span) == ("RUN has no command", Span("Dockerfile", 2, 2))


def test_run_text_is_not_expanded() -> None:
    run = target("FROM debian\nENV A=1\nRUN echo $A '${B}'\n").steps[-1]
    assert isinstance(run, RunStep)
    assert run.argv[-1] == "echo $A '${B}'"


# --- WORKDIR


def test_workdirs_join_and_remember_the_user() -> None:
    text = "FROM debian\nUSER u\nWORKDIR /a/\nWORKDIR b\nWORKDIR ../c\nWORKDIR $D/x\n"
    stage = target(text)
    made = [step for step in stage.steps if isinstance(step, WorkdirStep)]
    assert [step.path for step in made] == ["/a", "/a/b", "/a/c", "/x"]
    assert {step.user for step in made} == {"u"}
    assert history(stage)[1:] == ["WORKDIR /a/", "WORKDIR /a/b", "WORKDIR /a/c", "WORKDIR /x"]
    assert stage.config.run.working_dir == "/x"


@pytest.mark.parametrize("path", ["/", "//", "/a/..", "."])
def test_the_root_as_workdir_makes_nothing(path: str) -> None:
    stage = target(f"FROM scratch\nWORKDIR {path}\n")
    assert isinstance(stage.steps[0], MetaStep)


def test_a_relative_workdir_of_a_base_is_made_absolute() -> None:
    stage = target("FROM b\nWORKDIR y\n", {"b": image("b", RunConfig(working_dir="x"))})
    assert stage.config.run.working_dir == "/x/y"


# --- COPY and ADD


def test_copy() -> None:
    step = copy_of(
        "FROM scratch\nWORKDIR /w\nENV D=dir M=0755\n"
        "COPY --chown=a:b --chmod=$M ./x/ /y/../z *.py $D/\n"
    )
    assert step.source == ContextSource()
    assert step.sources == ("x", "z", "*.py")
    assert step.dest == "/w/dir/"
    assert (step.chown, step.chmod, step.unpack) == ("a:b", 0o755, False)
    assert step.created_by == ("COPY --chown=a:b --chmod=0755 ./x/ /y/../z *.py dir/ # buildkit")


def test_add_unpacks_unless_told_otherwise() -> None:
    assert copy_of("FROM scratch\nADD a.tar /\n").unpack
    assert not copy_of("FROM scratch\nADD --unpack=false a.tar /\n").unpack


def test_an_owner_that_expands_to_nothing_is_none() -> None:
    step = copy_of("FROM scratch\nCOPY --chown=$U --chmod=$M a b\n")
    assert (step.chown, step.chmod) == (None, None)
    assert step.created_by == "COPY a b # buildkit"


def test_sources_of_copy() -> None:
    text = """\
        FROM debian AS a
        FROM debian
        FROM scratch
        COPY --from=A x x
        COPY --from=1 x x
        COPY --from=alpine x x
        COPY --from=scratch x x
        """
    steps = [step for step in target(text).steps if isinstance(step, CopyStep)]
    assert [step.source for step in steps[:2]] == [StageSource(0), StageSource(1)]
    assert isinstance(steps[2].source, ImageSource)
    assert steps[2].source.image == image("alpine")
    assert isinstance(steps[3].source, ImageSource)
    assert steps[3].source.image.layers == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("COPY --from=$FOO . .", "variable expansion is not supported for --from, define a new"),
        ("COPY --from=5 a b", "invalid stage index 5"),
        ("COPY --from=-1 a b", "invalid stage index -1"),
        ("COPY --from=Bad a b", 'failed to parse stage name "Bad"'),
        ("COPY http://h/x /", "source can't be a URL for COPY"),
        ("COPY https://h/x.git /", "source can't be a git ref for COPY"),
        ("COPY git@h:x /", "source can't be a git ref for COPY"),
        ("COPY --chmod=64a a b", "invalid chmod parameter: '64a'"),
        ('COPY "a b" /x', "looking for matching double-quote"),
        ("STOPSIGNAL nope", "invalid signal: nope"),
        ("EXPOSE 99999", "invalid containerPort: 99999"),
    ],
)
def test_errors_have_their_place(line: str, message: str) -> None:
    found = error(f"FROM scratch\nENV A=1\n{line}\n")
    assert message in found.message
    assert found.span == Span("Dockerfile", 3, 3)
    assert found.hint is None or found.hint


@pytest.mark.parametrize(
    ("line", "message", "allow"),
    [
        ("RUN --security=insecure true", "security.insecure is not allowed", "security.insecure"),
        ("RUN --device=x true", "device x is not allowed", "device"),
        (
            "RUN --device=a.com/b=c,required true",
            "device a.com/b=c is not allowed",
            "device=a.com/b=c",
        ),
        ("RUN --device=required,name=y true", "device y is not allowed", "device=y"),
    ],
)
def test_what_a_dockerfile_may_not_take_is_said(line: str, message: str, allow: str) -> None:
    text = f"FROM scratch\n{line}\n"
    found = error(text)
    assert found.message == message
    assert f"--allow {allow.partition('=')[0]}" in str(found.hint)
    assert found.span is not None
    assert found.span.first == 2
    assert error(text, allow=("device=other", "network.host")).message == message
    assert plan(text, allow=(allow,)).stages


def test_the_host_network_can_be_allowed() -> None:
    text = "FROM scratch\nRUN --network=host true\n"
    assert error(text).message == "network.host is not allowed"
    for network in ("none", "default"):
        (step,) = plan(text, network=network, allow=("network.host",)).stages[0].steps
        assert isinstance(step, RunStep)
        assert step.network == "host"


def test_flags_that_ask_for_nothing_special_are_fine() -> None:
    text = "FROM debian\nRUN --security=sandbox --network=default x\nCOPY --link=false a b\n"
    assert target(text).steps


# --- frontends


@pytest.mark.parametrize(
    "value",
    [
        "docker/dockerfile:1",
        "docker.io/docker/dockerfile:1.7-labs",
        "docker/dockerfile@sha256:" + "0" * 64,
        "docker/dockerfile-upstream:master",
        "registry.example:5000/mirror/docker/dockerfile:1.4",
        "dockerfile.v0",
    ],
)
def test_the_frontends_of_this_language_are_ignored(value: str) -> None:
    assert plan(f"# syntax={value}\nFROM scratch\n").stages


@pytest.mark.parametrize("value", ["example.com/lang:1", "docker/dockerfile-x", "dockerfile"])
def test_other_frontends_are_refused(value: str) -> None:
    found = error(f"# escape=`\n# Syntax = {value} arg\nFROM scratch\n")
    assert found.message == (
        f"the frontend {value} cannot be used: only docker/dockerfile is built in"
    )
    assert found.span == Span("Dockerfile", 2, 2)


def test_a_build_argument_chooses_the_frontend() -> None:
    text = "# syntax=example.com/x\nFROM scratch\n"
    assert plan(text, build_args={"BUILDKIT_SYNTAX": "docker/dockerfile:1"}).stages
    assert error("FROM scratch\n", build_args={"BUILDKIT_SYNTAX": "x/y"}).span is None


# --- SOURCE_DATE_EPOCH


@pytest.mark.parametrize(
    ("text", "arguments", "epoch"),
    [
        ("FROM scratch\n", {}, None),
        ("ARG SOURCE_DATE_EPOCH=12\nFROM scratch\n", {}, 12),
        ("ARG SOURCE_DATE_EPOCH=12\nFROM scratch\n", {"SOURCE_DATE_EPOCH": "13"}, 13),
        ("ARG SOURCE_DATE_EPOCH=12\nFROM scratch\n", {"SOURCE_DATE_EPOCH": ""}, None),
        ("FROM scratch\nARG SOURCE_DATE_EPOCH=12\n", {}, None),
        ("FROM scratch\n", {"SOURCE_DATE_EPOCH": "context"}, None),
    ],
)
def test_source_date_epoch(text: str, arguments: dict[str, str], epoch: int | None) -> None:
    assert plan(text, build_args=arguments).source_date_epoch == epoch


def test_a_malformed_epoch_is_told() -> None:
    found = error("ARG SOURCE_DATE_EPOCH=soon\nFROM scratch\n")
    assert found.message == "invalid SOURCE_DATE_EPOCH: soon"
    assert found.span == Span("Dockerfile", 1, 1)
    assert error("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": "-"}).span is None
    found = error("FROM scratch AS src\n", build_args={"SOURCE_DATE_EPOCH": "src"})
    assert found.message == "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD"
    assert found.span == Span("Dockerfile", 1, 1)


# --- properties

_LINES = st.sampled_from(
    [
        "ARG A=1",
        "ENV B=$A",
        "RUN make $B",
        "COPY a b",
        "COPY --from=s0 a b",
        "COPY --from=1 a b",
        "COPY --from=debian a b",
        "WORKDIR w",
        "USER $A",
        "EXPOSE 80",
        "LABEL a=$B",
        "ONBUILD RUN x",
        'CMD ["x"]',
        "VOLUME $B",
    ]
)
_STAGES = st.lists(
    st.tuples(
        st.sampled_from(["scratch", "debian", "s0", "s1", "$IMG", "nowhere"]),
        st.booleans(),
        st.lists(_LINES, max_size=6),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(_STAGES)
def test_the_same_text_gives_the_same_plan_or_the_same_error(
    stages: list[tuple[str, bool, list[str]]],
) -> None:
    text = "ARG IMG=alpine\n"
    for n, (base, named, lines) in enumerate(stages):
        text += "\n".join([f"FROM {base}" + (f" AS s{n}" if named else ""), *lines]) + "\n"

    def attempt() -> str:
        options = PlanOptions(HOST, HOST, labels={"a": "1", "b": "2"})
        try:
            built = make_plan(parse(text), options, Images())
        except ImgbuildError as found:
            return f"{found.span or 1 / 0} {found.message} {found.hint} {found.source}"
        check_order(built)
        return render_json(built)

    assert attempt() == attempt()


def check_order(built: BuildPlan) -> None:
    seen: set[int] = set()
    for stage in built.stages:
        sources = [step.source for step in stage.steps if isinstance(step, CopyStep)]
        used = [source.index for source in sources if isinstance(source, StageSource)]
        used += [stage.base.index] if isinstance(stage.base, StageBase) else []
        assert seen.issuperset(used), "a stage comes before what it needs"
        seen.add(stage.index)


def test_spans_of_hand_made_dockerfiles_may_point_anywhere() -> None:
    span = Span("x", 99, 99)
    made = Dockerfile("x", "", "\\", (), (StageText(From(span, "scratch"), ()),))
    assert make_plan(made, PlanOptions(HOST, HOST), Images()).stages
