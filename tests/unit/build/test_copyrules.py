"""Where COPY puts things: the cases are data (`testdata/copyrules`), one file for each rule."""

import json
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.build.copyrules import (
    Source,
    Target,
    clean,
    make_path,
    place,
    resolve,
    select,
)
from imgbuild.build.gathered import Gathered, Part
from imgbuild.build.sources import Filters, from_image
from imgbuild.errors import ContextError
from imgbuild.layer.entry import sort_key
from imgbuild.plan.chmod import parse_changes
from imgbuild.plan.copying import parse_mode, split_parents
from tests.unit.build.trees import shown, view

SCRATCH = Path(gettempdir())
CASES = sorted((Path(__file__).parents[3] / "testdata" / "copyrules").glob("*.json"))


def outcome(case: dict[str, Any]) -> list[str]:
    """Run the COPYs of a case, one layer each; errors are a line."""
    layers = [case.get("image", {})]
    source = view(case["source"])
    lines: list[str] = []
    for step in case["copy"]:
        *patterns, dest = step["args"]
        owner = tuple(step["chown"]) if "chown" in step else None
        mode = parse_mode(step["chmod"]) if "chmod" in step else None
        chmod, changes = (None, parse_changes(mode)) if isinstance(mode, str) else (mode, ())
        pivots = None
        if step.get("parents"):
            patterns, pivots = split_parents(tuple(patterns))
        filters = Filters(tuple(step.get("exclude", ())), pivots)
        target = Target(dest.encode(), owner, chmod, 0, changes)
        try:
            found = from_image(source, patterns, SCRATCH, filters)
            placed = list(place(view(*layers), found, target))
        except ContextError as error:
            return [*lines, f"error: {error.message}"]
        entries = [item.entry for item in placed]
        lines += ["--", *shown(entries)]
        layers.append(
            {
                e.path.decode(): (
                    {"dir": 1, "mode": f"{e.mode:o}", "uid": e.uid, "gid": e.gid}
                    if e.type == "dir"
                    else {"link": e.linkname.decode()}
                    if e.type == "symlink"
                    else {"data": "", "mode": f"{e.mode:o}", "uid": e.uid, "gid": e.gid}
                )
                for e in entries
            }
        )
    return lines[1:]


def numbered(sources: list[Source]) -> list[Source]:
    return Gathered([Part(view({}), sources)], 0).sources


def test_there_are_cases() -> None:
    assert len(CASES) > 15


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path, request: pytest.FixtureRequest) -> None:
    case = json.loads(path.read_text())
    lines = outcome(case)
    if request.config.getoption("--regold"):
        case["layers"] = lines
        path.write_text(json.dumps(case, indent=1, ensure_ascii=False) + "\n")
    assert lines == case["layers"], case["rule"]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (b"/a/../b", b"b"),
        (b"../../a.txt", b"a.txt"),
        (b"a//b/./c/", b"a/b/c"),
        (b"/", b""),
        (b"..", b""),
        (b"...", b"..."),
    ],
)
def test_sources_are_cleaned_inside_the_root(path: bytes, wanted: bytes) -> None:
    assert clean(path) == wanted


def test_links_are_followed_inside_the_root() -> None:
    tree = view(
        {
            "d/e/f": "x",
            "abs": {"link": "/d/e"},
            "up": {"link": "../../../d"},
            "d/back": {"link": ".."},
            "dangling": {"link": "no/where"},
        }
    )
    assert resolve(tree.lstat, b"/abs/f") == b"d/e/f"
    assert resolve(tree.lstat, b"/up/e") == b"d/e"
    assert resolve(tree.lstat, b"d/back/abs/f") == b"d/e/f"
    assert resolve(tree.lstat, b"dangling/x") == b"no/where/x"
    assert resolve(tree.lstat, b"abs", follow_last=False) == b"abs"


def test_a_loop_of_links_ends() -> None:
    tree = view({"a": {"link": "b"}, "b": {"link": "a"}})
    with pytest.raises(ContextError, match="too many levels"):
        resolve(tree.lstat, b"a")
    with pytest.raises(ContextError, match="too many levels"):
        select(tree, b"a/x")


def test_a_path_through_a_file_is_not_found() -> None:
    with pytest.raises(ContextError, match='"/f/x": not found'):
        select(view({"f": "x"}), b"f/x")


def test_hard_links_of_one_directory_stay_together_and_survive_overwriting() -> None:
    source = view({"d/b": "1", "d/a": {"hard": "d/b"}, "d/c": {"hard": "d/b"}, "e/a": "2"})
    found = numbered(from_image(source, ["d"], SCRATCH))
    placed = [item.entry for item in place(view({}), found, Target(b"/x/"))]
    assert shown(placed) == ["x/ 0755", "x/a 0644", "x/b => x/a", "x/c => x/a"]
    # The second source replaces one name; the others keep what they had.
    found = numbered(from_image(source, ["d", "e"], SCRATCH))
    items = list(place(view({}), found, Target(b"/x/")))
    assert shown([item.entry for item in items]) == [
        "x/ 0755",
        "x/a 0644",
        "x/b 0644",
        "x/c => x/b",
    ]
    # Numbers: the first directory, its a, b and c, then the second and its a.
    assert [(item.source, item.number) for item in items[1:3]] == [(1, 5), (0, 2)]


def test_links_named_one_by_one_are_files() -> None:
    source = view({"d/b": "1", "d/a": {"hard": "d/b"}})
    found = from_image(source, ["d/a", "d/b"], SCRATCH)
    placed = [item.entry for item in place(view({}), found, Target(b"/x/"))]
    assert shown(placed) == ["x/ 0755", "x/a 0644", "x/b 0644"]


def test_parents_that_exist_are_repeated_as_they_are() -> None:
    image = view({"srv": {"dir": 1, "mode": "0700", "uid": 3, "gid": 4, "mtime": 77}})
    found = from_image(view({"f": "x"}), ["f"], SCRATCH)
    placed = list(place(image, found, Target(b"/srv/new/", made_time=5)))
    assert [(i.entry.path, i.entry.mtime) for i in placed] == [
        (b"srv", 77),
        (b"srv/new", 5),
        (b"srv/new/f", 0),
    ]
    assert placed[0].entry.uid == 3


def test_workdir_makes_only_what_is_missing() -> None:
    image = view({"home": {"dir": 1, "uid": 9}, "lnk": {"link": "/home"}})
    assert shown([p.entry for p in make_path(image, b"/lnk/a/b", (1, 2), 0)]) == [
        "home/ 0755 9:0",
        "home/a/ 0755 1:2",
        "home/a/b/ 0755 1:2",
    ]
    assert make_path(image, b"/home", (1, 2), 0) == []
    with pytest.raises(ContextError, match="non-directory"):
        make_path(view({"f": "x"}), b"/f/a", (0, 0), 0)


NAMES = st.sampled_from(["a", "b", "c", "a.b", "é"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@given(
    st.dictionaries(PATHS, st.text("xy", max_size=3), max_size=6),
    st.dictionaries(PATHS, st.just("z"), max_size=4),
    PATHS,
    st.booleans(),
)
def test_layers_are_always_sorted_with_their_parents(
    source: dict[str, str], image: dict[str, str], dest: str, slash: bool
) -> None:
    source = {p: d for p, d in source.items() if not any(q.startswith(p + "/") for q in source)}
    image = {p: d for p, d in image.items() if not any(q.startswith(p + "/") for q in image)}
    below = view(image)
    try:
        found = from_image(view(source), ["."], SCRATCH)
        placed = list(place(below, found, Target(f"/{dest}{'/' * slash}".encode())))
    except ContextError:
        return
    paths = [item.entry.path for item in placed]
    assert paths == sorted(set(paths), key=sort_key)
    for path in paths:
        parent = path.rpartition(b"/")[0]
        assert not parent or parent in paths
    contents = {p.removeprefix(dest.encode() + b"/") for p in paths}
    assert {p.encode() for p in source} <= contents


def test_sources_that_hold_nothing_place_nothing() -> None:
    assert list(place(view({}), (), Target(b"/x/"))) == []
