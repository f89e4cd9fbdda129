"""A walk that passes hidden directories by finds what asking about every single path finds."""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuild.build.context import ContextTree
from imgbuild.dockerfile.globs import glob_expression
from imgbuild.dockerfile.ignore import IgnoreMatcher, parse_ignore
from imgbuild.errors import ContextError

NAMES = st.sampled_from(["a", "b", "ab", "ba", ".a", "a\n"])
PATTERN = st.builds(
    lambda sign, parts: sign + "/".join(parts),
    st.sampled_from(["", "", "!"]),
    st.lists(
        st.sampled_from(["a", "b", "ab", "*", "**", "a*", "*b", "?", "[ab]", "**a", "..", "\\a"]),
        min_size=1,
        max_size=4,
    ),
)
# A leaf is a file; a dictionary is a directory.
TREE: st.SearchStrategy[Any] = st.recursive(
    st.none(), lambda below: st.dictionaries(NAMES, below, max_size=4), max_leaves=14
)


def paths(tree: Any, prefix: str = "") -> Iterator[str]:
    for name, below in (tree or {}).items():
        yield prefix + name
        yield from paths(below, f"{prefix}{name}/")


def make(root: Path, tree: Any) -> None:
    for name, below in (tree or {}).items():
        if below is None:
            (root / name).touch()
        else:
            (root / name).mkdir()
            make(root / name, below)


def excluded(patterns: Sequence[str], path: str) -> bool:
    """Go through all patterns for a path and everything above it, as the rules are told."""
    above = [False] * len(patterns)
    hidden = False
    names = path.split("/")
    for depth in range(1, len(names) + 1):
        at, hidden, now = "/".join(names[:depth]), False, []
        for pattern, before in zip(patterns, above, strict=True):
            negated = pattern.startswith("!")
            hit = before or (
                negated == hidden
                and re.fullmatch(glob_expression(pattern.removeprefix("!")), at) is not None
            )
            now.append(hit)
            hidden = not negated if hit else hidden
        above = now
    return hidden


def as_matched(patterns: Iterable[str]) -> list[str]:
    """Clean patterns with their `!`, as moby does once more: `!../../a` becomes `a`."""
    return [os.path.normpath(pattern) for pattern in patterns]


@settings(max_examples=300, deadline=None)
@given(st.lists(PATTERN, max_size=6), TREE)
def test_a_walk_finds_what_single_questions_find(texts: list[str], tree: Any) -> None:
    patterns = parse_ignore("\n".join(texts))
    try:
        matcher = IgnoreMatcher(patterns)
    except ContextError:
        return
    everything = list(paths(tree))
    kept = {path for path in everything if not excluded(as_matched(patterns), path)}
    folders = {path for path in everything if any(one.startswith(f"{path}/") for one in kept)}
    with tempfile.TemporaryDirectory() as root:
        make(Path(root), tree)
        with ContextTree(Path(root), matcher) as context:
            found = [os.fsdecode(item.rel) for item in context.walk(b"")]
            single = {path for path in everything if context.lstat(os.fsencode(path))}
            below = {
                f"a/{os.fsdecode(item.rel)}"
                for item in (context.walk(b"a") if isinstance((tree or {}).get("a"), dict) else ())
            }
    assert set(found) == single == kept | folders
    assert len(found) == len(set(found))
    assert below == {path for path in kept | folders if path.startswith("a/")}


@settings(max_examples=300)
@given(st.lists(PATTERN, max_size=6), st.lists(st.lists(NAMES, min_size=1, max_size=5), max_size=8))
def test_decisions_agree_and_name_a_pattern(texts: list[str], tree: list[list[str]]) -> None:
    patterns = parse_ignore("\n".join(texts))
    try:
        matcher = IgnoreMatcher(patterns)
    except ContextError:
        return
    for names in tree:
        path = "/".join(names)
        decision = matcher.decide(path)
        assert matcher.matches(path) == decision.excluded == excluded(as_matched(patterns), path)
        assert path == decision.at or path.startswith(f"{decision.at}/") or not decision.at
        if decision.line is not None:
            (pattern,) = as_matched([decision.line.pattern])
            assert decision.excluded != pattern.startswith("!")
            pattern = pattern.removeprefix("!")
            assert re.fullmatch(glob_expression(pattern), decision.at)
        else:
            assert not decision.excluded


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, root: Path) -> Iterator[dict[str, list[str]]]:
    """Record which directories are listed, and what is looked at, by paths below `root`."""
    seen: dict[str, list[str]] = {"listed": [], "looked at": []}

    def path(fd: int, name: object = "") -> str:
        return os.path.relpath(f"{os.readlink(f'/proc/self/fd/{fd}')}/{os.fsdecode(name)}", root)  # type: ignore[arg-type]

    def recorded(function: Any) -> Any:
        def call(fd: int) -> Any:
            seen["listed"].append(path(fd))
            return function(fd)

        return call

    real = os.stat

    def stat(name: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> Any:
        if dir_fd is not None:
            seen["looked at"].append(path(dir_fd, name))
        return real(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", recorded(os.listdir))
        patch.setattr(os, "scandir", recorded(os.scandir))
        patch.setattr(os, "stat", stat)
        yield seen


@pytest.fixture
def packages(context: Path) -> Path:
    for number in range(50):
        folder = context / f"node_modules/p{number}/lib"
        folder.mkdir(parents=True)
        (folder / "x.js").touch()
    (context / "node_modules/keep").mkdir()
    for name in ("node_modules/keep/x.js", "node_modules/keep/x.log", "x.log", "y.js"):
        (context / name).touch()
    return context


def test_where_nothing_can_be_brought_back_nothing_is_opened(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = IgnoreMatcher(["node_modules", "!node_modules/keep/**", "**/*.log"])
    with ContextTree(packages, matcher) as tree, watched(monkeypatch, packages) as seen:
        found = [item.rel for item in tree.walk(b"")]
    assert found == [b"node_modules", b"node_modules/keep", b"node_modules/keep/x.js", b"y.js"]
    assert seen["listed"] == [".", "node_modules", "node_modules/keep"]
    # Whatever is hidden costs no look, files and directories alike.
    assert seen["looked at"] == [
        "node_modules",
        "node_modules/keep",
        "node_modules/keep/x.js",
        "y.js",
    ]


def test_what_can_be_brought_back_anywhere_is_looked_for(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (packages / "node_modules/p7/important.log").touch()
    matcher = IgnoreMatcher(["node_modules", "**/*.log", "!**/important.log"])
    with ContextTree(packages, matcher) as tree, watched(monkeypatch, packages) as seen:
        found = [item.rel for item in tree.walk(b"")]
    assert found == [
        b"node_modules",
        b"node_modules/p7",
        b"node_modules/p7/important.log",
        b"y.js",
    ]
    assert len(seen["listed"]) == 1 + 1 + 50 * 2 + 1
    assert not [path for path in seen["looked at"] if path.endswith(("x.js", "x.log"))]


def test_where_no_pattern_matches_none_is_asked(packages: Path) -> None:
    matcher = IgnoreMatcher(["build/*.o", "node_modules/[a]*", "docs"])
    root = matcher.scope(b"")
    assert not root.silent
    for name in (b"src", b"y.js", b"doc"):
        assert not root.hides(name)
        assert root.below(name).silent
    assert not root.below(b"node_modules").silent
    assert root.below(b"docs").prunes


def test_a_walk_remembers_nothing_of_the_directories_it_left(context: Path) -> None:
    for number in range(300):
        (context / f"d{number}/e").mkdir(parents=True)
    matcher = IgnoreMatcher(["**/*.o", "d*/x", "!d1*/x/**/y"])
    with ContextTree(context, matcher) as tree:
        assert len(list(tree.walk(b""))) == 600
        for number in range(300):
            assert not matcher.matches(f"d{number}/e/f")
    # As many levels as there are kinds of directories, and the way to the last question.
    assert len(matcher._levels._known) < 10
    assert len(matcher._way) == 3
