"""The Dockerfile of a folder, wherever it is, with the ignore file that goes with it."""

import os
import threading
from pathlib import Path

import pytest

import imgbuild
from imgbuild.build.definition import local_place, read_local
from imgbuild.errors import ContextError
from tests.support.deadline import in_time

TEXT = "FROM scratch\nCOPY . /\n"


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "context"
    (folder / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        (folder / name).write_text(name)
    return folder


def sent(context: Path, dockerfile: str | None = None) -> list[str]:
    """Build, and return what of the context was left for COPY."""
    options = {"dockerfile": dockerfile} if dockerfile else {}
    result = imgbuild.build(context, store=context.parent / "store", **options)
    found = imgbuild.list_context(context, **options)
    assert len(result.layers) == 1
    return [entry.path for entry in found]


def test_the_usual_names(context: Path) -> None:
    (context / "dockerfile").write_text("small")
    assert read_local(context, None).data == b"small"
    (context / "Dockerfile").write_text("large")
    assert read_local(context, None) == ("Dockerfile", b"large", context / "Dockerfile")


def test_a_named_one_is_looked_for_here_then_in_the_context(context: Path) -> None:
    (context / "D").write_text("inside")
    assert read_local(context, Path("D")).data == b"inside"
    (context.parent / "D").write_text("here")
    assert read_local(context, Path("D")) == ("D", b"here", Path("D"))
    assert local_place(context, Path("D")) == Path("D")
    assert read_local(context, context / "D").data == b"inside"


def test_one_outside_of_the_context_has_its_own_ignore_file(context: Path) -> None:
    outside = context.parent / "outside"
    outside.mkdir()
    (outside / "My").write_text(TEXT)
    (context / ".dockerignore").write_text("a\n")
    assert sent(context, str(outside / "My")) == [".dockerignore", "b", "sub", "sub/c"]
    (outside / "My.dockerignore").write_text("*\n!sub\n")
    assert sent(context, str(outside / "My")) == ["sub", "sub/c"]


def test_a_link_to_a_dockerfile(context: Path) -> None:
    (context.parent / "Real").write_text(TEXT)
    (context / "Dockerfile").symlink_to("../Real")
    # The ignore file goes with the name that was asked for.
    (context / "Dockerfile.dockerignore").write_text("*\n!a\n")
    (context.parent / "Real.dockerignore").write_text("*\n!b\n")
    assert sent(context) == ["a"]
    assert sent(context, str(context.parent / "Real")) == ["b"]


def test_what_is_ignored_works_all_the_same(context: Path) -> None:
    (context / "Dockerfile").write_text(TEXT)
    (context / ".dockerignore").write_text("Dockerfile\n.dockerignore\nb\n")
    assert sent(context) == ["a", "sub", "sub/c"]
    (context / "Dockerfile.dockerignore").write_text("**\n!a\n")
    assert sent(context) == ["a"]


def test_a_link_that_leads_nowhere(context: Path) -> None:
    (context / "Dockerfile").symlink_to("absent")
    with pytest.raises(ContextError, match="there is no Dockerfile in") as caught:
        read_local(context, None)
    assert caught.value.hint == f"{context / 'Dockerfile'} is a symlink to what is not there"
    (context / "My").symlink_to("absent")
    for look in (read_local, local_place):
        with pytest.raises(ContextError, match="there is no Dockerfile at My") as caught:
            look(context, Path("My"))
        assert caught.value.hint == f"{context / 'My'} is a symlink to what is not there"


def test_a_pipe_in_the_context_is_not_waited_for(context: Path) -> None:
    os.mkfifo(context / "Dockerfile")
    with in_time(10), pytest.raises(ContextError, match="is not a regular file") as caught:
        read_local(context, None)
    assert caught.value.hint == f"to read it all the same: -f {context / 'Dockerfile'}"


def test_a_pipe_that_is_named_is_read(context: Path) -> None:
    os.mkfifo(context / "My")
    writer = threading.Thread(target=(context / "My").write_text, args=(TEXT,))
    writer.start()
    with in_time(10):
        assert read_local(context, context / "My").data == TEXT.encode()
    writer.join()
