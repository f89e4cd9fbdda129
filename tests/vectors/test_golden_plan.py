"""Plans compared with 82 complete builds of BuildKit: steps, config, history and error texts."""

import json
import os
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError, ImgbuildError
from imgbuild.oci.config import HistoryEntry, ImageConfig, dump_config, parse_config
from imgbuild.oci.descriptor import Descriptor, Layer
from imgbuild.oci.digest import Digest
from imgbuild.oci.platform import Platform, parse_platform
from imgbuild.plan.model import BaseImage, BuildPlan, RunStep, Stage, StageBase
from imgbuild.plan.planner import PlanOptions, make_plan

VECTORS = Path(
    os.environ.get("IMGBUILD_VECTORS") or Path(__file__).resolve().parents[3] / "shared" / "vectors"
)
GOLDEN = VECTORS / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.json"))
HOST = Platform("linux", "amd64")

# These fail when a step is made, or an image is fetched: the plan itself is fine.
LATER = {
    "copy-broken-link",
    "copy-chown-name-missing",
    "copy-dir-onto-file",
    "copy-file-onto-dir2",
    "copy-missing",
    "dockerignore-copies-ignored",
    "run-fail",
    "secret-required-missing",
    "shell-then-cmd",
    "user-unknown",
}
# Several platforms in one build are not planned.
MULTI = {"platform-multi", "multi-platform-onearch-flag"}

pytestmark = pytest.mark.skipif(not CASES, reason=f"no vectors at {GOLDEN}")


def load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return data


def busybox() -> BaseImage:
    """The base of these builds, taken from the result of the simplest one."""
    config = parse_config(json.dumps(load("empty-run-layer")["image"]["config"]).encode())
    digest = re.search(r"sha256:[0-9a-f]{64}", load("empty-run-layer")["steps"][0])
    assert digest
    own = 2  # RUN true, twice
    diff_ids = config.diff_ids[:-own]
    layers = tuple(
        Layer(Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", one, 1), one)
        for one in diff_ids
    )
    base = ImageConfig(HOST, config.run, diff_ids, config.history[:-own])
    return BaseImage("docker.io/library/busybox:latest", Digest(digest[0]), base, layers)


def resolve(name: str, platform: Platform) -> BaseImage:
    assert name in {"busybox", "busybox:latest"}, name
    return busybox()


def options(case: dict[str, Any]) -> PlanOptions:
    opts = dict(case.get("opts", {}))
    arguments = {k.removeprefix("build-arg:"): v for k, v in opts.items() if "build-arg:" in k}
    if case.get("sde", True):
        arguments["SOURCE_DATE_EPOCH"] = "1700000000"
    extra = " ".join(case.get("args", ()))
    contexts = frozenset(re.findall(r"context:(\w+)=local:", extra))
    return PlanOptions(
        platform=parse_platform(opts.get("platform", "linux/amd64"), HOST),
        build_platform=HOST,
        build_args=arguments,
        labels={k.removeprefix("label:"): v for k, v in opts.items() if k.startswith("label:")},
        target=opts.get("target"),
        contexts=contexts,
        directory_contexts=contexts,
    )


def plan(case: dict[str, Any]) -> BuildPlan:
    return make_plan(parse(case["dockerfile"]), options(case), resolve)


def history(built: BuildPlan, stage: Stage) -> list[HistoryEntry]:
    before = list(stage.base_history)
    if isinstance(stage.base, StageBase):
        before = history(built, built.stage(stage.base.index))
    own = [
        HistoryEntry(
            created_by=step.created_by,
            comment="buildkit.dockerfile.v0",
            empty_layer=not hasattr(step, "name"),
        )
        for step in stage.steps
    ]
    return before + own


def steps(built: BuildPlan) -> list[str]:
    found = []
    for stage in built.stages:
        found += [stage.title] if stage.title else []
        found += [step.name for step in stage.steps if hasattr(step, "name")]
    return found


def without_times(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "created"}


def to_json(config: ImageConfig) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(dump_config(config))
    return {key: data.get(key) for key in ("architecture", "os", "variant", "author", "config")}


BUILT = [name for name in CASES if load(name)["exit"] == 0 and name not in MULTI]


@pytest.mark.parametrize("name", BUILT)
def test_config_is_what_buildkit_writes(name: str) -> None:
    case = load(name)
    built = plan(case)
    wanted = {
        key: case["image"]["config"].get(key)
        for key in ("architecture", "os", "variant", "author", "config")
    }
    config = built.stage(built.target).config
    assert to_json(config) == wanted
    text = json.loads(dump_config(config), object_pairs_hook=list)
    assert text == sorted(text)
    assert json.dumps(to_json(config)["config"]) == json.dumps(wanted["config"]), "order of keys"


@pytest.mark.parametrize("name", BUILT)
def test_history_is_what_buildkit_writes(name: str) -> None:
    case = load(name)
    built = plan(case)
    found = json.loads(
        dump_config(ImageConfig(HOST, history=tuple(history(built, built.stage(built.target)))))
    ).get("history", [])
    wanted = case["image"]["config"].get("history") or []
    assert list(map(without_times, found)) == list(map(without_times, wanted))


@pytest.mark.parametrize("name", BUILT)
def test_steps_are_named_as_buildkit_names_them(name: str) -> None:
    case = load(name)
    wanted = [step for step in case["steps"] if not step.startswith(("[internal]", "[context "))]
    # The two halves of a --link are shown under one name.
    assert steps(plan(case)) == [name for name, _ in groupby(wanted)]


PLAN_ERRORS = [
    name for name in CASES if load(name)["exit"] and name not in LATER | {"from-missing"}
]


@pytest.mark.parametrize("name", PLAN_ERRORS)
def test_errors_use_buildkits_words_and_place(name: str) -> None:
    case = load(name)
    with pytest.raises(DockerfileError) as caught:
        plan(case)
    assert caught.value.message == case["error"].removeprefix("error: failed to solve: ")
    marked = [int(line.split("|")[0]) for line in case["frame"].splitlines() if "| >>>" in line]
    assert caught.value.span is not None
    assert [caught.value.span.first, caught.value.span.last] == [marked[0], marked[-1]]
    assert caught.value.source == case["dockerfile"]


@pytest.mark.parametrize("name", sorted(LATER & set(CASES)))
def test_what_fails_later_can_be_planned(name: str) -> None:
    assert plan(load(name)).stages


def test_every_case_is_looked_at() -> None:
    looked_at = {*BUILT, *PLAN_ERRORS, *LATER, *MULTI, "from-missing"}
    assert looked_at >= set(CASES)


def test_an_image_that_is_not_there_is_told_with_its_place() -> None:
    case = load("from-missing")

    def missing(name: str, platform: Platform) -> BaseImage:
        raise ImgbuildError(f"{name}: not found")

    with pytest.raises(ImgbuildError) as caught:
        make_plan(parse(case["dockerfile"]), options(case), missing)
    assert caught.value.span is not None
    assert caught.value.span.first == 1


def test_proxies_reach_run_but_no_history() -> None:
    case = load("run-args-history-stage0")
    run = next(step for step in plan(case).stages[0].steps if isinstance(step, RunStep))
    assert run.hidden_env == (("HTTP_PROXY", "http://p"), ("http_proxy", "http://p"))
    assert dict(run.env) == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "A": "env",
        "B": "bb",
        "G": "g",
    }
