"""Contexts and Dockerfiles that cannot be used are errors that say what to do."""

import os
from pathlib import Path

import pytest

from imgbuild.build.places import check_context
from imgbuild.build.prepare import read_dockerfile
from imgbuild.errors import ContextError, UsageError
from imgbuild.options import BuildOptions


@pytest.mark.parametrize(
    "text",
    ["-", "https://example.com/app.git", "http://x/y.tar", "git@example.com:app", "git://x/y",
     "ssh://git@x/y", "github.com/team/app"],
)  # fmt: skip
def test_remote_contexts_are_told_apart(text: str) -> None:
    # A Path drops one of the slashes.
    with pytest.raises(UsageError, match="not supported yet") as caught:
        check_context(Path(text))
    assert caught.value.hint


def test_a_context_is_a_directory(tmp_path: Path) -> None:
    check_context(tmp_path)
    for path in (tmp_path / "absent", Path(__file__)):
        with pytest.raises(UsageError, match="is not a directory"):
            check_context(path)


def failure(context: Path, dockerfile: Path | None = None) -> ContextError:
    with pytest.raises(ContextError) as caught:
        read_dockerfile(BuildOptions(context=context, dockerfile=dockerfile))
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
