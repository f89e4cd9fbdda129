"""Sources that are not there: the error says what may have been meant."""

import os
from pathlib import Path

import pytest

from imgbuild.build.context import ContextTree
from imgbuild.build.sources import from_context, from_image
from imgbuild.dockerfile.ignore import IgnoreMatcher
from imgbuild.errors import ContextError
from imgbuild.store.store import Store
from tests.unit.build.trees import view


@pytest.fixture
def files(context: Path) -> Path:
    (context / "src").mkdir()
    for name in ("requirements.txt", "README.md", "src/main.py"):
        (context / name).touch()
    return context


def hint(store: Store, files: Path, pattern: str, *ignored: str) -> str:
    ignore = IgnoreMatcher(ignored) if ignored else None
    with (
        ContextTree(files, ignore) as tree,
        pytest.raises(ContextError, match="not found") as caught,
    ):
        from_context(tree, [pattern], store.paths.staging)
    return str(caught.value.hint).replace(str(files), "CONTEXT")


@pytest.mark.parametrize("pattern", ["../x", "./../x", "src/../../x", "/../x"])
def test_paths_cannot_leave_the_context(store: Store, files: Path, pattern: str) -> None:
    assert hint(store, files, pattern).startswith("paths cannot leave the build context, CONTEXT: ")


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("requirments.txt", "/requirements.txt"),
        ("readme.MD", "/README.md"),
        ("scr/main.py", "/src/main.py"),
        ("src/mian.py", "/src/main.py"),
        ("src/../requirement.txt", "/requirements.txt"),
    ],
)
def test_a_near_name_is_suggested(store: Store, files: Path, pattern: str, meant: str) -> None:
    relative = "paths are relative to the build context, CONTEXT"
    assert hint(store, files, pattern) == f"{relative}; did you mean {meant}?"


@pytest.mark.parametrize("pattern", ["something-else", "README.md/x", "src/x/y"])
def test_nothing_near_is_not_guessed(store: Store, files: Path, pattern: str) -> None:
    assert hint(store, files, pattern) == "paths are relative to the build context, CONTEXT"


def test_a_symlink_that_leads_nowhere_is_named(store: Store, files: Path) -> None:
    (files / "secret").symlink_to("/etc/shadow")
    expected = (
        "/secret is a symlink to /etc/shadow, which is looked for in the build context, CONTEXT"
    )
    assert hint(store, files, "secret") == expected


def test_what_only_looks_like_a_url_is_a_path(store: Store, files: Path) -> None:
    assert hint(store, files, "ftp:/example.com/x").startswith("ADD fetches http(s) URLs")


def test_names_of_any_bytes_are_compared(store: Store, files: Path) -> None:
    (files / os.fsdecode(b"caf\xe9-menu")).touch()
    assert hint(store, files, os.fsdecode(b"cafe-menu")).endswith(r"did you mean /caf\xe9-menu?")


def test_what_is_ignored_is_not_suggested(store: Store, files: Path) -> None:
    assert "did you mean" not in hint(store, files, "requirments.txt", "requirements.txt")
    assert "excludes it" in hint(store, files, "requirements.txt", "requirements.txt")


def test_what_a_stage_lacks_may_be_a_near_name() -> None:
    stage = view({"srv": {"dir": 1}, "srv/app.py": "x", "l": {"link": "/nowhere"}})
    for pattern, words in [
        ("srv/ap.py", "at its root, whatever its WORKDIR; did you mean /srv/app.py?"),
        ("l", "/l is a symlink to /nowhere, which is not there"),
    ]:
        with pytest.raises(ContextError, match="not found") as caught:
            from_image(stage, [pattern], Path("unused"))
        assert str(caught.value.hint).endswith(words)
