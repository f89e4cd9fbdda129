"""RUN --mount in a plan: defaults, expansion, sources, order, and what is refused."""

import json
from typing import Any

import pytest

from imgbuild.plan.model import (
    ContextSource,
    ImageSource,
    PlannedBind,
    PlannedCache,
    PlannedMount,
    PlannedSecret,
    PlannedSsh,
    PlannedTmpfs,
    RunStep,
    StageSource,
)
from imgbuild.plan.render import render_json, render_plan
from tests.unit.plan.planning import Images, error, names, plan

CONTEXT = ContextSource()


def step(text: str, **options: Any) -> RunStep:
    found = [step for stage in plan(text, **options).stages for step in stage.steps]
    runs = [step for step in found if isinstance(step, RunStep)]
    return runs[-1]


def mount(value: str, *lines: str, **options: Any) -> PlannedMount:
    """Return what `--mount=value` means after `lines`."""
    text = "\n".join(["FROM scratch", *lines, f"RUN --mount={value} x", ""])
    (found,) = step(text, **options).mounts
    return found


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("target=/t", PlannedBind(CONTEXT, "", "/t")),
        ("type=bind,src=a/../b/,dst=/t/", PlannedBind(CONTEXT, "b", "/t")),
        ("TYPE=BIND,Source=/b,destination=/t,rw", PlannedBind(CONTEXT, "b", "/t", readonly=False)),
        ("source=../../b,target=/t,readonly=false", PlannedBind(CONTEXT, "b", "/t", False)),
        ("target=t", PlannedBind(CONTEXT, "", "/work/t")),
        ("target=../../t", PlannedBind(CONTEXT, "", "/t")),
        ("source=b", PlannedBind(CONTEXT, "b", "/work")),
        ("'\"source=a,b\",target=/t'", PlannedBind(CONTEXT, "a,b", "/t")),
        ("type=cache,target=/c", PlannedCache("/c", "/c")),
        ("type=cache,target=/c/../d/", PlannedCache("/d", "/d")),
        ("type=cache,target=c", PlannedCache("c", "/work/c")),
        (
            "type=cache,target=/c,id=x,sharing=LOCKED,mode=0700,uid=1,gid=2,ro",
            PlannedCache("x", "/c", "locked", None, "", 0o700, 1, 2, readonly=True),
        ),
        ("type=tmpfs,target=/t", PlannedTmpfs("/t")),
        ("type=tmpfs,target=/t,size=1.5k", PlannedTmpfs("/t", 1536)),
        ("type=secret,id=a", PlannedSecret("a", "/run/secrets/a")),
        ("type=secret,id=a/b", PlannedSecret("a/b", "/run/secrets/b")),
        ("type=secret,src=a,required", PlannedSecret("a", "/run/secrets/a", required=True)),
        ("type=secret,target=/etc/key", PlannedSecret("key", "/etc/key")),
        ("type=secret,id=a,env=KEY", PlannedSecret("a", None, "KEY")),
        ("type=secret,id=a,env=KEY,target=/k", PlannedSecret("a", "/k", "KEY")),
        (
            "type=secret,id=a,mode=440,uid=1,gid=2,required=false",
            PlannedSecret("a", "/run/secrets/a", None, False, 0o440, 1, 2),
        ),
        ("type=ssh", PlannedSsh("default", "/run/buildkit/ssh_agent.0")),
        ("type=ssh,id=k,target=s,required=1", PlannedSsh("k", "/work/s", required=True)),
        ("type=ssh,mode=0666,uid=5,gid=6", PlannedSsh("default", "/run/buildkit/ssh_agent.0", False, 0o666, 5, 6)),
        ("type=$T,target=${D}/x,id=$T", PlannedCache("cache", "/d/x")),
    ],
)  # fmt: skip
def test_what_a_mount_means(value: str, wanted: PlannedMount) -> None:
    assert mount(value, "WORKDIR /work", "ARG T=cache", "ENV D=/d") == wanted


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("target=/", 'invalid mount target "/"'),
        ("type=cache", 'invalid mount target "/"'),
        ("type=tmpfs,target=/x/..", 'invalid mount target "/"'),
        ("type=ssh,source=x", "ssh does not support source"),
        ("type=secret,id=x,env=A=B", "invalid name of a variable for the secret x"),
        ("type=secret,id=x,env=", "invalid name of a variable for the secret x"),
        ("type=cache,target=/x,uid=-1", "invalid value -1 for uid"),
        ("type=cache,target=/x,gid=4294967296", "invalid value 4294967296 for gid"),
        ("type=cache,target=/x,mode=8", "invalid value 8 for mode"),
        ("type=cache,target=/x,mode=" + "7" * 5000, "invalid value 777"),
        ("type=tmpfs,target=/x,size=-1", "invalid value for size: -1"),
        ("type=cache,target=/x,sharing=share", "(did you mean shared?)"),
        ("target=/x,frm=a", "unexpected key 'frm' in 'frm=a' (did you mean from?)"),
        ("required,type=secret,id=x", "unexpected key 'required' for mount type 'bind'"),
        ("from=Bad:Name:,target=/x", 'failed to parse stage name "Bad:Name:"'),
        ("target=${A:?none}", "A: none"),
        ("from=late,target=/x", 'cannot mount from stage "late", it needs to be defined before'),
        ("from=7,target=/x", "invalid stage index 7"),
    ],
)
def test_what_is_refused(value: str, message: str) -> None:
    found = error(
        f"FROM scratch AS first\nRUN --mount={value} x\nFROM scratch AS late\n", target="first"
    )
    assert message in found.message
    assert found.span is not None
    assert found.span.first == 2


def test_the_files_of_a_mount_come_from_where_copy_would_take_them() -> None:
    images = Images()
    text = """\
FROM scratch AS unused
FROM scratch AS tools
FROM scratch
RUN --mount=from=tools,target=/a --mount=from=1,target=/b --mount=from=debian,target=/c \
 --mount=from=named,target=/d --mount=type=cache,from=tools,source=/x,target=/e x
"""
    found = plan(
        text, images, contexts=frozenset(["named"]), directory_contexts=frozenset(["named"])
    )
    assert [stage.index for stage in found.stages] == [1, 2]
    assert images.asked == [("debian", "linux/amd64")]
    (run,) = found.stages[1].steps
    assert isinstance(run, RunStep)
    sources = [getattr(each, "source", None) for each in run.mounts]
    assert sources[:2] == [StageSource(1), StageSource(1)]
    assert isinstance(sources[2], ImageSource)
    assert sources[3:] == [ContextSource("named"), StageSource(1)]
    assert json.loads(render_json(found))["stages"][1]["steps"][0]["mounts"][4]["path"] == "x"


def test_stages_that_mount_from_each_other_are_refused() -> None:
    text = "FROM scratch AS a\nRUN --mount=from=a,target=/x y\n"
    assert error(text).message == "circular dependency detected on stage: a"


def test_a_mount_above_another_one_comes_first() -> None:
    text = "FROM scratch\nRUN --mount=type=tmpfs,target=/a/b --mount=type=cache,target=/a x\n"
    assert [each.target for each in step(text).mounts] == ["/a", "/a/b"]


def test_the_agent_is_named_to_the_command() -> None:
    text = "FROM scratch\n{}RUN --mount=type=ssh --mount=type=ssh,id=b x\n"
    found = step(text.format(""))
    assert ("SSH_AUTH_SOCK", "/run/buildkit/ssh_agent.0") in found.env
    assert [each.target for each in found.mounts] == [
        "/run/buildkit/ssh_agent.0",
        "/run/buildkit/ssh_agent.1",
    ]
    assert ("SSH_AUTH_SOCK", "/mine") in step(text.format("ENV SSH_AUTH_SOCK=/mine\n")).env
    assert "SSH_AUTH_SOCK" not in step(text.format("")).created_by


def test_caches_have_the_namespace_that_the_caller_gives() -> None:
    options = {"build_args": {"BUILDKIT_CACHE_MOUNT_NS": "ci"}}
    assert mount("type=cache,target=/c", **options) == PlannedCache("ci//c", "/c")
    assert mount("type=cache,id=x,target=/c", **options) == PlannedCache("ci/x", "/c")


def test_triggers_mount_too() -> None:
    text = """\
FROM scratch AS tools
FROM scratch AS base
ONBUILD RUN --mount=from=tools,target=/t x
FROM base
"""
    found = plan(text)
    assert [stage.index for stage in found.stages] == [0, 1, 2]
    assert step(text).mounts == (PlannedBind(StageSource(0), "", "/t"),)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("source=a,target=/t", "mount /a from the context at /t"),
        ("from=s,target=/t,rw", "mount / from stage 0 at /t, writes thrown away"),
        ("type=cache,target=/c,from=s", "mount cache /c at /c, shared, begun / from stage 0"),
        ("type=tmpfs,target=/t,size=1k", "mount tmpfs of 1024 bytes at /t"),
        ("type=secret,id=a,env=A,target=/a,required", "mount secret a at /a and as $A, required"),
        ("type=ssh", "mount ssh agent default at /run/buildkit/ssh_agent.0"),
    ],
)
def test_a_plan_shows_mounts(value: str, shown: str) -> None:
    text = f"FROM scratch AS s\nFROM scratch\nRUN --mount={value} x\n"
    assert f"      {shown}\n" in render_plan(plan(text))
    assert json.loads(render_json(plan(text)))


def test_a_mount_makes_a_stage_of_its_own_as_buildkit_counts() -> None:
    assert names(plan("FROM scratch\nRUN x\n")) == ["[1/1] RUN x"]
    line = "RUN --mount=type=tmpfs,target=/t x"
    assert names(plan(f"FROM scratch\n{line}\n")) == [f"[stage-0 1/1] {line}"]
