from pathlib import Path

import pytest

from imgbuild.build.context import open_context
from imgbuild.build.ignorefile import read_ignore_file
from imgbuild.errors import ContextError


@pytest.fixture
def files(context: Path) -> Path:
    context.mkdir(exist_ok=True)
    for name in ("a.txt", "d"):
        (context / name).write_text("")
    return context


def test_the_ignore_file_beside_the_dockerfile_comes_first(files: Path, tmp_path: Path) -> None:
    assert read_ignore_file(files) is None
    (files / ".dockerignore").write_text("a.txt\n")
    dockerfile = tmp_path / "My.Dockerfile"
    assert read_ignore_file(files, dockerfile) == ("a.txt\n", ".dockerignore")
    (tmp_path / "My.Dockerfile.dockerignore").write_text("d\n")
    assert read_ignore_file(files, dockerfile) == ("d\n", "My.Dockerfile.dockerignore")
    with open_context(files, dockerfile) as tree:
        assert [item.rel for item in tree.walk(b"")] == [b".dockerignore", b"a.txt"]


def test_an_ignore_file_that_is_something_else(files: Path) -> None:
    (files / ".dockerignore").mkdir()
    with pytest.raises(ContextError, match="Is a directory") as caught:
        read_ignore_file(files)
    assert caught.value.hint == "make it a file that this user can read, or remove it"
    (files / ".dockerignore").rmdir()
    with (files / ".dockerignore").open("wb") as out:
        out.truncate(2 << 20)
    with pytest.raises(ContextError, match="larger"):
        read_ignore_file(files)
