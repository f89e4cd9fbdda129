"""Which differences change a step's key, and which do not."""

import json
from dataclasses import replace
from typing import Any

import pytest

from imgbuild.errors import Span
from imgbuild.oci.platform import Platform
from imgbuild.plan.cachekey import VERSION, base_key, chain, mount_fields, step_fields, step_kind
from imgbuild.plan.model import (
    CacheKey,
    ContextSource,
    CopyStep,
    Document,
    ImageSource,
    MetaStep,
    PlannedBind,
    PlannedCache,
    PlannedMount,
    PlannedSecret,
    PlannedSsh,
    PlannedTmpfs,
    RunStep,
    ScratchBase,
    StageSource,
    UrlSource,
    WorkdirStep,
)
from tests.unit.plan.planning import HOST, image, target

SPAN = Span("Dockerfile", 1, 1)
RUN = RunStep(
    SPAN, "[1/1] RUN x", "RUN x", ("sh", "x"), (("A", "1"), ("B", "2")), (), "/", "", "default"
)
COPY = CopyStep(
    SPAN, "[1/1] COPY a b", "COPY a b", ContextSource(), ("a",), "/b", None, None, unpack=False
)
DOCUMENT = Document("EOF", "text")
BIND = PlannedBind(ContextSource(), "a", "/t")
CACHE = PlannedCache("c", "/t")
SECRET = PlannedSecret("s", "/t")
SSH = PlannedSsh("a", "/t")
MOUNTS = (BIND, CACHE, PlannedTmpfs("/t"), SECRET, SSH)
FULL_RUN = replace(RUN, script=DOCUMENT, security="insecure", devices=("d",), mounts=MOUNTS)
FULL_COPY = replace(
    COPY, documents=(DOCUMENT,), exclude=("x",), link=True, pivots=("a",), unpack_fetched=True
)
URL = UrlSource("https://h/a", "sha256:" + "0" * 64)
MKDIR = WorkdirStep(SPAN, "[1/1] WORKDIR /w", "WORKDIR /w", "/w", "")
Step = RunStep | CopyStep | WorkdirStep


def key(step: Step) -> CacheKey:
    return chain(CacheKey("parent"), step_kind(step), step_fields(step), {"a": "sha256:1"})[0]


@pytest.mark.parametrize("step", [RUN, COPY, MKDIR])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"span": Span("Other", 7, 9)}, "where it stands says nothing of what it makes"),
        ({"name": "[a 2/9] x"}, "numbers change when other lines are added"),
        ({"created_by": "x"}, "history is not part of a layer"),
    ],
)
def test_same_key(step: Step, change: dict[str, Any], why: str) -> None:
    assert key(replace(step, **change)) == key(step), why


def test_what_few_steps_have_counts_one_by_one() -> None:
    changed = [
        replace(COPY, documents=(DOCUMENT,)),
        replace(COPY, documents=(Document("EOF", "other"),)),
        replace(COPY, documents=(Document("E", "OFtext"),)),
        replace(COPY, exclude=("x",)),
        replace(COPY, exclude=("x", "y")),
        replace(COPY, link=True),
        replace(COPY, pivots=("a",)),
        replace(COPY, pivots=()),
        replace(COPY, chmod="u+x"),
    ]
    assert len({key(COPY), *map(key, changed)}) == 10
    assert key(FULL_RUN) not in {key(RUN), key(replace(RUN, script=Document("EOF", "")))}


def test_proxies_are_in_no_key() -> None:
    assert key(replace(RUN, hidden_env=(("HTTP_PROXY", "p"),))) == key(RUN)


def test_which_stage_or_image_files_come_from_shows_in_their_digests_alone() -> None:
    one = key(replace(COPY, source=StageSource(1)))
    assert one == key(replace(COPY, source=StageSource(2)))
    assert one == key(replace(COPY, source=ImageSource(image("debian"))))
    assert key(COPY) == key(replace(COPY, source=ContextSource("named")))


@pytest.mark.parametrize(
    ("step", "change", "why"),
    [
        (RUN, {"argv": ("sh x",)}, "another argument list"),
        (RUN, {"env": (("A", "1"),)}, "a variable less"),
        (RUN, {"env": (("A", "1"), ("B", "3"))}, "another value"),
        (RUN, {"env": (("B", "2"), ("A", "1"))}, "another order can show in the result of env"),
        (RUN, {"env": (("A", "1,B=2"),)}, "framing"),
        (RUN, {"cwd": "/w"}, "another directory"),
        (RUN, {"user": "1"}, "another user"),
        (RUN, {"network": "none"}, "another network"),
        (COPY, {"dest": "/b/"}, "into a directory, not onto a name"),
        (COPY, {"sources": ("a", "a")}, "other sources"),
        (COPY, {"chown": "1"}, "another owner"),
        (COPY, {"chmod": 0}, "a mode of 0 is not no mode"),
        (COPY, {"unpack": True}, "archives are unpacked"),
        (COPY, {"unpack_fetched": True}, "fetched archives are unpacked"),
        (COPY, {"sources": (URL,)}, "what is fetched is no path"),
        (COPY, {"sources": ("url",)}, "a path may be called like a kind"),
        (COPY, {"source": StageSource(0)}, "a context has no owners"),
        (MKDIR, {"path": "/v"}, "another path"),
        (MKDIR, {"user": "1"}, "another owner"),
    ],
)
def test_other_key(step: Step, change: dict[str, Any], why: str) -> None:
    assert key(replace(step, **change)) != key(step), why


def test_where_a_file_is_fetched_from_is_not_in_the_key() -> None:
    one = replace(COPY, sources=(URL,))
    assert key(replace(one, sources=(UrlSource("http://mirror/other"),))) == key(one)


def test_every_field_of_a_step_is_either_in_the_key_or_known_not_to_be() -> None:
    outside = {"span", "name", "created_by", "hidden_env"}
    assert {*step_fields(FULL_RUN), *outside} >= set(RunStep.__slots__)
    assert {*step_fields(FULL_COPY), *outside, "source"} >= set(CopyStep.__slots__)
    assert {*step_fields(MKDIR), *outside} >= set(WorkdirStep.__slots__)


@pytest.mark.parametrize(
    ("mount", "change"),
    [
        (BIND, {"target": "/u"}),
        (BIND, {"readonly": False}),
        (BIND, {"source": StageSource(0)}),
        (CACHE, {"id": "d"}),
        (CACHE, {"target": "/u"}),
        (CACHE, {"sharing": "locked"}),
        (CACHE, {"source": StageSource(0)}),
        (CACHE, {"path": "p"}),
        (CACHE, {"mode": 0o700}),
        (CACHE, {"uid": 1}),
        (CACHE, {"gid": 1}),
        (CACHE, {"readonly": True}),
        (MOUNTS[2], {"target": "/u"}),
        (MOUNTS[2], {"size": 1}),
        (MOUNTS[2], {"readonly": True}),
        (SECRET, {"id": "t"}),
        (SECRET, {"target": None}),
        (SECRET, {"env": "E"}),
        (SECRET, {"mode": 0}),
        (SECRET, {"uid": 1}),
        (SECRET, {"gid": 1}),
        (SSH, {"id": "b"}),
        (SSH, {"target": "/u"}),
        (SSH, {"mode": 0}),
        (SSH, {"uid": 1}),
        (SSH, {"gid": 1}),
    ],
)
def test_what_a_mount_brings_into_a_result_counts(
    mount: PlannedMount, change: dict[str, Any]
) -> None:
    other: PlannedMount = replace(mount, **change)
    assert key(replace(RUN, mounts=(other,))) != key(replace(RUN, mounts=(mount,)))


def test_every_field_of_a_mount_is_either_in_the_key_or_known_not_to_be() -> None:
    known = {"source": "from", "readonly": "ro"}
    outside = {PlannedBind: {"path"}, PlannedSecret: {"required"}, PlannedSsh: {"required"}}
    for mount in MOUNTS:
        fields = {known.get(name, name) for name in type(mount).__slots__}
        assert set(mount_fields(mount)) >= fields - outside.get(type(mount), set())


def test_mounts_of_several_kinds_and_orders_have_keys_of_their_own() -> None:
    chosen = [(), *((mount,) for mount in MOUNTS), MOUNTS[:2], MOUNTS[1::-1], (BIND, BIND)]
    assert len({key(replace(RUN, mounts=mounts)) for mounts in chosen}) == len(chosen)


def test_where_a_bind_comes_from_shows_in_its_digest_alone() -> None:
    one = replace(RUN, mounts=(BIND,))
    assert key(replace(one, mounts=(replace(BIND, path="b"),))) == key(one)
    assert key(replace(one, mounts=(replace(BIND, source=ContextSource("n")),))) == key(one)


def test_keys_of_plain_commands_stay_what_they_were() -> None:
    assert set(step_fields(RUN)) == {"argv", "env", "cwd", "user", "network"}


def test_parent_kind_inputs_and_version_count() -> None:
    parent = CacheKey("p")
    keys = {
        chain(parent, "run", {}, {})[0],
        chain(CacheKey("q"), "run", {}, {})[0],
        chain(parent, "copy", {}, {})[0],
        chain(parent, "run", {"a": 1}, {})[0],
        chain(parent, "run", {}, {"a": "1"})[0],
        chain(parent, "run", {"a": {"b": 1}}, {})[0],
    }
    assert len(keys) == 6


def test_the_document_is_canonical_and_explains_the_key() -> None:
    first, document = chain(CacheKey("p"), "run", {"b": 1, "a": "é\udcff"}, {"y": "2", "x": "1"})
    assert chain(CacheKey("p"), "run", {"a": "é\udcff", "b": 1}, {"x": "1", "y": "2"}) == (
        first,
        document,
    )
    assert json.loads(document) == [
        VERSION,
        "p",
        "run",
        {"a": "é\udcff", "b": 1},
        {"x": "1", "y": "2"},
    ]


def test_a_base_is_its_layers_and_platform() -> None:
    debian = image("debian")
    same = replace(debian, name="other", digest=None, config=image("x").config)
    assert base_key(debian, HOST) == base_key(same, HOST)
    assert base_key(debian, HOST) != base_key(image("alpine"), HOST)
    assert base_key(debian, HOST) != base_key(debian, Platform("linux", "arm64"))
    assert base_key(ScratchBase(), HOST) == base_key(replace(debian, layers=()), HOST)


def test_indenting_and_comments_keep_the_keys_of_a_dockerfile() -> None:
    one = target("FROM debian\nARG A=1\nRUN a && b\n")
    other = target("# hello\nFROM debian\n\nARG A=1\n  # why\n  run a && b\n")
    keys = [
        [key(step) for step in stage.steps if not isinstance(step, MetaStep)]
        for stage in (one, other)
    ]
    assert keys[0] == keys[1]
