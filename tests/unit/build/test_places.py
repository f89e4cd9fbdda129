"""Contexts and Dockerfiles that cannot be used are errors that say what to do."""

import os
from pathlib import Path

import pytest

from imgbuild.build.definition import read_local
from imgbuild.build.places import find_place, main_place, tree_places
from imgbuild.errors import ContextError, UsageError
from imgbuild.plan.model import GitSource, UrlSource

HUB = "https://github.com/team/app"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://example.com/app.git#v1:sub", ("https://example.com/app.git", "v1", "sub")),
        ("git@example.com:app", ("git@example.com:app", "", "")),
        ("git://x/y", ("git://x/y", "", "")),
        ("ssh://git@x/y", ("ssh://git@x/y", "", "")),
        ("github.com/team/app#main", ("github.com/team/app", "main", "")),
        (f"{HUB}.git?branch=x&subdir=y", (f"{HUB}.git", "refs/heads/x", "y")),
    ],
)
def test_repositories_are_told_apart(text: str, found: tuple[str, ...]) -> None:
    place = find_place(text)
    assert isinstance(place, GitSource)
    assert place.repository[:1] + place.repository[2:3] + place.repository[4:5] == found


def test_urls_are_told_apart() -> None:
    assert find_place("http://x/y.tar") == UrlSource("http://x/y.tar")
    assert find_place(HUB) == UrlSource(HUB)


def test_a_folder_comes_before_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "github.com/a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_place("github.com/a/b") == Path("github.com/a/b")


def test_a_wrong_query_is_told() -> None:
    with pytest.raises(UsageError, match='unexpected query "x"'):
        find_place(f"{HUB}.git?x=y")


def test_a_context_has_to_be_there(tmp_path: Path) -> None:
    assert main_place(str(tmp_path)) == tmp_path
    with pytest.raises(UsageError, match="is not a directory"):
        main_place(str(tmp_path / "absent"))
    with pytest.raises(UsageError, match="is a file, not a directory") as file:
        main_place(__file__)
    assert f"- < {__file__}" in str(file.value.hint)
    with pytest.raises(UsageError, match="URL that became a path"):
        main_place(str(Path("https://example.com/x")))
    with pytest.raises(UsageError) as caught:
        main_place("-")
    assert "sys.stdin.buffer" in str(caught.value.hint)


def test_named_contexts(tmp_path: Path) -> None:
    contexts = {"d": str(tmp_path), "i": "docker-image://x", "h": "host://sh", "u": "http://x/y"}
    assert tree_places(contexts) == {"d": tmp_path, "u": UrlSource("http://x/y")}
    for value, words in (
        (str(tmp_path / "none"), "no such directory"),
        (__file__, "not a directory"),
        ("ftp://x/y", "unknown kind of source"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            tree_places({"d": value})
        assert caught.value.hint


def failure(context: Path, dockerfile: Path | None = None) -> ContextError:
    with pytest.raises(ContextError) as caught:
        read_local(context, dockerfile)
    return caught.value


def test_the_only_other_dockerfile_is_named(tmp_path: Path) -> None:
    (tmp_path / "app.py").touch()
    (tmp_path / "Dockerfile.dev.dockerignore").touch()
    error = failure(tmp_path)
    assert error.message == f"there is no Dockerfile in {tmp_path}"
    assert error.hint == "name it with -f PATH, or give the folder that has it"
    (tmp_path / "Dockerfile.dev").touch()
    assert failure(tmp_path).hint == f"did you mean -f {tmp_path}/Dockerfile.dev?"
    error = failure(tmp_path, Path("Dockerfil.dev"))
    assert error.message == "there is no Dockerfile at Dockerfil.dev"
    assert error.hint == f"did you mean -f {tmp_path}/Dockerfile.dev?"
    (tmp_path / "prod.Dockerfile").touch()
    assert failure(tmp_path).hint == "name it with -f PATH, or give the folder that has it"


def test_a_directory_is_no_dockerfile(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").mkdir()
    error = failure(tmp_path)
    assert error.message.endswith(": Is a directory")
    assert error.hint == f"name the file itself: -f {tmp_path}/Dockerfile/Dockerfile"


@pytest.mark.skipif(os.getuid() == 0, reason="as root everything can be opened")
def test_an_unreadable_dockerfile_has_a_hint(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").touch(0o000)
    assert "readable" in str(failure(tmp_path).hint)
