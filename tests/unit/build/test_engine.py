"""Builds without RUN: layers, cache, times, errors. Nothing here makes a namespace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgbuild.errors import ContextError, ImgbuildError
from imgbuild.events import BuildStarted, Event, StepFinished, StepStarted
from imgbuild.store.store import Store
from tests.support import validate
from tests.unit.build.building import build, config, content, manifest, members, names

DOCKERFILE = """\
FROM scratch AS one
COPY d /d
WORKDIR /w/x
ENV A=1
FROM scratch
COPY --from=one /d/f /
COPY --chown=5 d/g .
LABEL l=1
"""


@pytest.fixture
def files(context: Path) -> Path:
    (context / "d").mkdir()
    (context / "d/f").write_text("F")
    (context / "d/g").write_text("G")
    return context


def verdicts(events: list[Event]) -> list[str]:
    return [event.verdict for event in events if isinstance(event, StepFinished)]


def test_the_image_is_valid_and_its_history_complete(store: Store, files: Path) -> None:
    built = build(store, files, DOCKERFILE)
    store.names.tag("docker.io/library/x:latest", built.descriptor)
    assert validate.image(store.paths.root, "docker.io/library/x:latest") == []
    found = config(store, built)
    assert [h["created_by"] for h in found["history"]] == [
        "COPY /d/f / # buildkit",
        "COPY --chown=5 d/g . # buildkit",
        "LABEL l=1",
    ]
    assert found["created"] == found["history"][-1]["created"] == found["history"][1]["created"]
    assert names(store, built, 0) == ["f"]
    assert [(m.name, m.uid, m.gid) for m in members(store, built, 1)] == [("g", 5, 5)]


def test_a_second_build_is_cached_and_the_same(store: Store, files: Path) -> None:
    first = build(store, files, DOCKERFILE)
    events: list[Event] = []
    second = build(store, files, DOCKERFILE, events=events.append)
    assert verdicts(events) == ["cached"] * 4
    assert second.descriptor == first.descriptor
    assert isinstance(events[0], BuildStarted)
    assert events[0].total == 4
    assert [e.number for e in events if isinstance(e, StepStarted)] == [1, 2, 3, 4]


def test_a_cached_build_looks_into_no_layer(
    store: Store, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(store, files, DOCKERFILE)

    def refuse(*_: object) -> None:
        raise AssertionError("a layer was read")

    monkeypatch.setattr(store.blobs, "open", refuse)
    monkeypatch.setattr(store.blobs, "open_index", refuse)
    assert build(store, files, DOCKERFILE).descriptor == first.descriptor


def test_a_changed_file_misses_only_where_it_is_used(store: Store, files: Path) -> None:
    build(store, files, DOCKERFILE)
    (files / "d/g").write_text("other")
    events: list[Event] = []
    build(store, files, DOCKERFILE, events=events.append)
    # COPY --from=one takes a file that did not change.
    assert verdicts(events) == ["done", "done", "cached", "done"]


def test_no_cache_makes_everything_anew(store: Store, files: Path) -> None:
    first = build(store, files, DOCKERFILE, clamp=7)
    events: list[Event] = []
    again = build(store, files, DOCKERFILE, clamp=7, no_cache=True, events=events.append)
    assert verdicts(events) == ["done"] * 4
    assert again.descriptor == first.descriptor


def test_a_lost_layer_is_made_again(store: Store, files: Path) -> None:
    built = build(store, files, DOCKERFILE, clamp=7)
    store.blobs.flush()
    store.paths.blob(built.layers[0].descriptor.digest).unlink()
    events: list[Event] = []
    again = build(store, files, DOCKERFILE, clamp=7, events=events.append)
    assert verdicts(events) == ["cached", "cached", "done", "cached"]
    assert again.descriptor == built.descriptor
    assert store.blobs.exists(built.layers[0].descriptor)


def test_a_lost_index_is_made_again(store: Store, files: Path) -> None:
    built = build(store, files, "FROM scratch\nCOPY d /d\n")
    store.blobs.flush()
    index = store.paths.index(built.layers[0].diff_id)
    for number, damage in enumerate((index.unlink, lambda: index.write_bytes(b"{}\n"))):
        damage()
        again = build(store, files, f"FROM scratch\nCOPY d /d\nCOPY d/f /d/new{number}\n")
        assert names(store, again) == ["d", f"d/new{number}"]


def test_times_newer_than_the_clamp_become_the_clamp(store: Store, files: Path) -> None:
    os.utime(files / "d/f", (50, 50))
    os.utime(files / "d/g", (5000, 5000))
    built = build(store, files, "FROM scratch\nCOPY d /d\nWORKDIR /w\n", clamp=1000)
    assert {m.name: m.mtime for m in members(store, built, 0)} == {
        "d": 1000,
        "d/f": 50,
        "d/g": 1000,
    }
    assert [m.mtime for m in members(store, built, 1)] == [1000]
    found = config(store, built)
    assert {h["created"] for h in found["history"]} == {"1970-01-01T00:16:40Z"}


def test_another_clamp_or_platform_is_another_key(store: Store, files: Path) -> None:
    from imgbuild.oci.platform import Platform

    text = "FROM scratch\nCOPY d /d\n"
    build(store, files, text, clamp=1)
    for options in ({"clamp": 2}, {"platform": Platform("linux", "s390x"), "clamp": 1}, {}):
        events: list[Event] = []
        build(store, files, text, events=events.append, **options)  # type: ignore[arg-type]
        assert verdicts(events) == ["done"]


def test_the_same_build_elsewhere_has_the_same_digest(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    other = tmp_path / "elsewhere"
    shutil.copytree(files, other)
    digests = set()
    for number, place in enumerate((files, other)):
        monkeypatch.setenv("TZ", f"UTC+{number * 5}")
        old = os.umask(0o077 * number)
        try:
            with Store.open(tmp_path / f"store{number}") as store, store.build_lock():
                digests.add(build(store, place, DOCKERFILE, clamp=0).descriptor.digest)
        finally:
            os.umask(old)
    assert len(digests) == 1


def test_without_a_clamp_layers_are_still_the_same(files: Path, tmp_path: Path) -> None:
    found = set()
    for number in range(2):
        with Store.open(tmp_path / f"store{number}") as store, store.build_lock():
            built = build(store, files, "FROM scratch\nWORKDIR /w\nCOPY d /new/d\n")
            found.add(tuple(layer.diff_id for layer in built.layers))
    assert len(found) == 1


def test_from_a_stage_brings_its_layers_and_history(store: Store, files: Path) -> None:
    text = "FROM scratch AS a\nCOPY d /d\nENV X=1\nFROM a\nCOPY d/f /\n"
    built = build(store, files, text)
    assert [h["created_by"] for h in config(store, built)["history"]] == [
        "COPY d /d # buildkit",
        "ENV X=1",
        "COPY d/f / # buildkit",
    ]
    assert len(manifest(store, built)["layers"]) == 2


def test_named_directories_have_their_own_ignore_file(
    store: Store, files: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "yes").write_text("1")
    (other / "no").write_text("2")
    (other / ".dockerignore").write_text("no\n.dockerignore\n")
    built = build(
        store, files, "FROM scratch\nCOPY --from=extra . /x/\n", contexts={"extra": str(other)}
    )
    assert names(store, built) == ["x", "x/yes"]


def test_errors_carry_the_place_and_leave_nothing(store: Store, files: Path) -> None:
    text = "FROM scratch\nCOPY d /d\nCOPY nope /x\n"
    events: list[Event] = []
    with pytest.raises(ContextError, match='"/nope": not found') as caught:
        build(store, files, text, events=events.append)
    assert caught.value.span is not None
    assert caught.value.span.first == 3
    assert caught.value.source == text
    assert verdicts(events) == ["done", "failed"]
    with pytest.raises(ContextError, match="invalid user index: -1"):
        build(store, files, "FROM scratch\nCOPY --chown=bob d /x\n")
    store.blobs.flush()
    assert list(store.paths.staging.iterdir()) == []


def test_a_file_that_changes_while_its_layer_is_written(
    store: Store, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imgbuild.build import copystep

    real = copystep.place

    def change(*arguments: object) -> object:
        (files / "d/g").write_text("changed meanwhile")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(copystep, "place", change)
    with pytest.raises(ContextError, match="/d/g in the build context changed"):
        build(store, files, "FROM scratch\nCOPY d /d\n")
    monkeypatch.undo()
    built = build(store, files, "FROM scratch\nCOPY d /d\n")
    assert content(store, built, "d/g") == b"changed meanwhile"


def test_names_and_contents_that_are_no_text(store: Store, context: Path) -> None:
    raw = os.fsencode(context) + b"/\xff \\"
    Path(os.fsdecode(raw)).write_bytes(b"\0\xff")
    built = build(store, context, "FROM scratch\nCOPY . /\n")
    assert [name.encode("utf-8", "surrogateescape") for name in names(store, built)] == [b"\xff \\"]


def test_a_cached_build_loads_nothing_heavy(tmp_path: Path, files: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from imgbuild.store.store import Store
from tests.unit.build.building import build
with Store.open(Path({str(tmp_path / "s")!r})) as store, store.build_lock():
    steps = build(store, Path({str(files)!r}), {DOCKERFILE!r}).steps
print([s.verdict for s in steps])
names = "ctypes ssl requests cryptography rich isal zstandard elftools subprocess imgbuild.layer.tarwrite imgbuild.sandbox.session"
print([n for n in names.split() if n in sys.modules])
"""
    root = Path(__file__).parents[3]
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert runs[0][0] == str(["done"] * 4)
    assert runs[1] == [str(["cached"] * 4), "[]"]


def test_every_deliberate_failure_is_ours(store: Store, files: Path) -> None:
    (files / "d/f").chmod(0)
    if os.getuid() == 0:
        pytest.skip("as root everything can be read")
    with pytest.raises(ImgbuildError, match="cannot read /d/f"):
        build(store, files, DOCKERFILE)


def test_the_recorded_document_explains_the_key(store: Store, files: Path) -> None:
    build(store, files, "FROM scratch\nCOPY d /d\n", clamp=3)
    import sqlite3

    connection = sqlite3.connect(store.paths.cache)
    try:
        rows = connection.execute("SELECT document FROM steps").fetchall()
    finally:
        connection.close()
    text = json.dumps(json.loads(rows[0][0]))
    assert '"clamp": 3' in text
    assert "linux/" in text
