"""What holds for every plan: the same twice, in any process, and no surprise on the way."""

import re
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from imgbuild.dockerfile.parse import parse
from imgbuild.errors import ImgbuildError, Span
from imgbuild.oci.config import RunConfig
from imgbuild.oci.platform import Platform
from imgbuild.plan.model import BuildPlan, MetaStep
from imgbuild.plan.planner import PlanOptions, make_plan
from imgbuild.plan.render import render_json  # noqa: F401  # by the other process
from tests.support.command import PROJECT, environment
from tests.unit.plan.planning import HOST, Images, image

LINES = st.sampled_from(
    """FROM scratch|FROM debian AS a|FROM a AS b|FROM $G|FROM --platform=$BUILDPLATFORM alpine AS c|
FROM --platform=linux/s390x debian|ARG G=debian|ARG G|ARG X=${G:-1} Y=$X|ENV A=$X B=$A$A$A$A|ENV A b c|
RUN true|RUN ["a"]|RUN <<E|E|COPY a b|COPY --from=a /x /y|COPY --from=0 /x /y|COPY --from=alpine x y|
COPY --chown=$A --chmod=u+x a* b/|COPY <<E /f|COPY --from=9 a b|ADD a.tar /|WORKDIR $A|WORKDIR ..|USER $X|
EXPOSE $A 80-82|VOLUME ["/a"]|STOPSIGNAL 9|SHELL ["x"]|CMD a|ENTRYPOINT ["a"]|HEALTHCHECK CMD a|LABEL $A=b|
ONBUILD COPY --from=b a b|ONBUILD RUN a|MAINTAINER m|ARG SOURCE_DATE_EPOCH=1|RUN --mount=type=cache,target=/c a|
ENV P=${A:?no} Q=${A%%b}|COPY --link --parents --exclude=*.c a b /|ENV A='|ADD https://example.com/x /""".replace(
        "\n", ""
    ).split("|")
)
TRIGGERS = ("RUN true", "COPY --from=a /a /b")
BASES = {
    "debian": image("debian"),
    "alpine": image("alpine", RunConfig(on_build=TRIGGERS)),
}
ARGUMENTS = st.dictionaries(
    st.sampled_from(["G", "X", "HTTP_PROXY", "TARGETARCH", "SOURCE_DATE_EPOCH"]),
    st.sampled_from(["", "a", "scratch", "$X", "7"]),
    max_size=3,
)


def planned(text: str, options: PlanOptions) -> BuildPlan | tuple[str, str | None, Span | None]:
    try:
        return make_plan(parse(text), options, Images(BASES))
    except ImgbuildError as error:
        if error.span is not None and error.source != text:
            raise
        return error.message, error.hint, error.span


@given(st.lists(LINES, max_size=14), ARGUMENTS, st.sampled_from([None, "a", "b", "none"]))
def test_a_plan_is_the_same_twice(
    lines: list[str], arguments: dict[str, str], target: str | None
) -> None:
    text = "\n".join(["FROM debian", *lines])
    options = PlanOptions(
        platform=Platform("linux", "arm64"),
        build_platform=HOST,
        build_args=arguments,
        target=target,
    )
    found = planned(text, options)
    assert found == planned(text, options)
    if isinstance(found, BuildPlan):
        check_order(found, len(lines) + 1)
    elif span := found[2]:
        assert 1 <= span.first <= span.last <= len(lines) + 1


def check_order(found: BuildPlan, lines: int) -> None:
    """Stages come after what they need, steps point into the Dockerfile, and counts add up."""
    indexes = [stage.index for stage in found.stages]
    assert indexes == sorted(set(indexes))
    assert found.target == indexes[-1]
    for stage in found.stages:
        shown = [step.name for step in stage.steps if not isinstance(step, MetaStep)]
        titles = [stage.title] if stage.title else []
        counts = [re.search(r"([0-9]+)/([0-9]+)\] ", name) for name in (*titles, *shown)]
        assert [count and int(count[1]) for count in counts] == list(range(1, len(counts) + 1))
        # A WORKDIR of / counts and shows nothing, as with BuildKit.
        assert all(count and int(count[2]) >= len(counts) for count in counts)
        assert len({count and count[2] for count in counts}) <= 1
        assert all(1 <= step.span.first <= step.span.last <= lines for step in stage.steps)


MANY_NAMES = """\
ARG G=debian
FROM $G AS x
ARG HTTP_PROXY TARGETARCH B=$TARGETARCH
ENV Z=1 Y=$B W=$HTTP_PROXY X=$U$V$W
LABEL z=1 y=$U a=b
EXPOSE 80-82 70 ${Z}0/udp
VOLUME /z /y /a
RUN echo $B $Z
FROM alpine AS y
COPY --from=x /x /y /z/
COPY --from=a f g
FROM a AS z
FROM y
COPY --from=h --chown=$Z f g
"""


def test_a_plan_is_the_same_in_every_process() -> None:
    """Sets have another order where texts hash otherwise."""
    code = (
        "from tests.unit.plan.test_properties import *;"
        "names = frozenset('abcdefgh');"
        "proxies = {name: 'p' for name in {'https_proxy', 'HTTP_PROXY', 'NO_PROXY', 'no_proxy'}};"
        "print(render_json(planned(MANY_NAMES, PlanOptions(HOST, HOST, contexts=names,"
        " directory_contexts=names, proxies=proxies))))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            text=True,
            cwd=PROJECT,
            env=environment({"PYTHONHASHSEED": seed}),
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
