"""Builds on hosts that allow more or less: the same image, and what is said about the way there."""

import functools
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgbuild.build.rootfs import Rootfs
from imgbuild.errors import UsageError
from imgbuild.events import Event, Notice, StepOutput
from imgbuild.options import RunOptions
from imgbuild.sandbox import candidates
from imgbuild.store.store import Store
from tests.support.users import Who, folder_of, python_as
from tests.unit.build.building import build

pytestmark = pytest.mark.rootless

BASE = {"base": "host://sh,ls,cat,mkdir,rm,mv,chmod,chown,ln,touch"}

_BUILD = """
import json, os, sys
from pathlib import Path
import imgbuild
from imgbuild.events import Notice, StepOutput
place, isolation = Path(sys.argv[1]), sys.argv[2]
(place / "context").mkdir()
(place / "context/f").write_text("f")
(place / "context/Dockerfile").write_text('''
FROM base
COPY f /d/kept
RUN mkdir -m 750 /d/sub /e && echo x > /d/sub/x && echo y > /e/y && touch /gone && chown 5:6 /e/y
RUN rm /gone && mv /d/sub /d/moved && rm -r /e && mkdir /e && ln -s ../d /e/link && chmod 600 /d/kept
COPY f /e/
RUN ls -a / /d /e && test ! -e /gone && rm /e/f && cat /d/moved/x
''')
events = []
built = imgbuild.build(
    place / "context", store=place / "store", source_date_epoch=1, events=events.append,
    build_contexts={"base": sys.argv[3]}, run=imgbuild.RunOptions(isolation=isolation),
)
said = b"".join(e.data for e in events if isinstance(e, StepOutput)).decode()
notices = [e.message for e in events if isinstance(e, Notice) and "RUN steps" in e.message]
imgbuild.reset(store=place / "store")
print(json.dumps([[layer.diff_id for layer in built.layers[1:]], said, notices]))
"""

# who, on which host, with which isolation, and the words that a notice must have
_WAYS: dict[str, tuple[Who, str, str, str]] = {
    "root": ("self", "", "auto", ""),
    "user with ids": ("subids", "", "auto", "tier A"),
    "user with one id": ("single", "", "auto", "give imgbuild-test-one no ids"),
    "masked proc": ("self", "masked proc", "A", "/proc shows the processes around"),
    "no pivot_root": ("self", "no pivot_root", "A", "pivot_root is refused"),
    "memory": ("self", "store on overlay", "A", "kept in memory"),
    "one level": ("self", "one more user namespace", "A", "no user namespace of their own"),
    "no level": ("self", "no more user namespaces", "A", "does not allow user namespaces"),
    "no mounts": ("self", "no mounts", "auto", "does not allow mounts"),
    "chroot": ("self", "chroot", "auto", "tier D"),
}


@functools.cache
def _built(way: str) -> Any:
    who, host, isolation, _ = _WAYS[way]
    with (
        tempfile.TemporaryDirectory(prefix="imgbuild-tiers-") as spare,
        folder_of(who, Path(spare)) as top,
    ):
        place = top / "place"
        place.mkdir()
        owner = top.stat()

        os.chown(place, owner.st_uid, owner.st_gid)
        done = python_as(who, _BUILD, place, isolation, BASE["base"], host=host)
        return json.loads(done.stdout)


@pytest.mark.parametrize("way", _WAYS)
def test_the_image_is_the_same_wherever_it_is_built(way: str) -> None:
    layers, said, notices = _built(way)
    expected, output, _ = _built("root")
    assert said == output
    assert layers == expected
    assert len(notices) == 1
    assert _WAYS[way][3] in notices[0]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened, opened.build_lock():
        yield opened


def _doubting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the best way look as if it would not work."""
    choose = candidates.choose_idmap
    monkeypatch.setattr(
        candidates, "choose_idmap", lambda path: replace(choose(path), doubt="it looks bad")
    )


def test_a_better_way_than_expected_has_its_own_key(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Rootfs(store, "/usr/bin:/bin").single_id:
        pytest.skip("cannot apply: only one id is mapped")
    text = "FROM base\nRUN echo 1 > /one\n"
    first = build(store, tmp_path, text, contexts=BASE)
    with monkeypatch.context() as patch:
        _doubting(patch)
        second = build(store, tmp_path, text, contexts=BASE)
    assert [step.verdict for step in second.steps] == ["cached"] * 2
    assert second.descriptor == first.descriptor
    # What is made with one id is another matter.
    third = build(store, tmp_path, text, contexts=BASE, run=RunOptions(isolation="C"))
    assert [step.verdict for step in third.steps] == ["cached", "done"]


def test_the_way_is_told_once_and_only_when_something_runs(store: Store, tmp_path: Path) -> None:
    text = "FROM base\nRUN echo 1 > /one\nRUN echo 2\n"

    def notices() -> list[Notice]:
        events: list[Event] = []
        build(store, tmp_path, text, contexts=BASE, events=events.append)
        ways = [e for e in events if isinstance(e, Notice) and "RUN steps run in" in e.message]
        outputs = [number for number, e in enumerate(events) if isinstance(e, StepOutput)]
        assert not (ways and outputs) or events.index(ways[0]) < outputs[0]
        return ways

    found = notices()
    assert len(found) == 1
    best = not Rootfs(store, "/usr/bin:/bin").single_id
    assert found[0].detail == best
    assert ("Not possible here" in found[0].message) != best
    assert notices() == []


def test_an_isolation_that_does_not_exist_is_refused_without_any_run(tmp_path: Path) -> None:
    import imgbuild

    (tmp_path / "Dockerfile").write_text("FROM scratch\nENV A=1\n")
    with pytest.raises(UsageError, match="unknown isolation: vm"):
        imgbuild.build(tmp_path, store=tmp_path / "store", run=RunOptions(isolation="vm"))
