"""What a build can read of its context: listed, and explained line by line."""

import io
import os
from pathlib import Path

import pytest

import imgbuild
from imgbuild.errors import ContextError, UsageError

IGNORE = """# a comment

node_modules
!node_modules/keep/**
**/*.log
  !x.log
"""


@pytest.fixture
def files(context: Path) -> Path:
    for folder in ("node_modules/keep", "node_modules/other", "src"):
        (context / folder).mkdir(parents=True)
    for name in ("node_modules/keep/a", "node_modules/other/b", "src/main", "x.log", "y.log"):
        (context / name).write_text("12")
    (context / "link").symlink_to("node_modules")
    (context / ".dockerignore").write_text(IGNORE)
    return context


def test_all_that_is_not_ignored_is_listed(files: Path) -> None:
    found = [(entry.path, entry.type, entry.size) for entry in imgbuild.list_context(files)]
    assert found == [
        (".dockerignore", "file", len(IGNORE)),
        ("link", "symlink", 0),
        ("node_modules", "dir", 0),
        ("node_modules/keep", "dir", 0),
        ("node_modules/keep/a", "file", 2),
        ("src", "dir", 0),
        ("src/main", "file", 2),
        ("x.log", "file", 2),
    ]


def test_the_ignore_file_beside_the_dockerfile_counts(files: Path, tmp_path: Path) -> None:
    (tmp_path / "Other.dockerignore").write_text("*\n!src\n")
    (tmp_path / "Other").write_text("FROM scratch\n")
    found = imgbuild.list_context(files, dockerfile=tmp_path / "Other")
    assert [entry.path for entry in found] == ["src", "src/main"]
    verdict = imgbuild.explain_context("link", files, dockerfile=tmp_path / "Other")
    assert (verdict.ignore_file, verdict.line) == ("Other.dockerignore", 1)
    # The one in the context counts for standard input, and where there is no Dockerfile.
    assert len(list(imgbuild.list_context(files, dockerfile=io.BytesIO()))) == 8
    for context in (io.BytesIO(), "https://example.com/x.git"):
        with pytest.raises(UsageError, match="only a folder has an ignore file"):
            list(imgbuild.list_context(context))
    with pytest.raises(ContextError, match="there is no Dockerfile at missing"):
        list(imgbuild.list_context(files, dockerfile=Path("missing")))


@pytest.mark.parametrize(
    ("path", "sent", "line", "at", "reason"),
    [
        ("src/main", True, None, "", "/src/main is sent: no pattern excludes it"),
        (
            "y.log",
            False,
            5,
            "y.log",
            "/y.log is not sent: .dockerignore excludes it (line 5: **/*.log)",
        ),
        (
            "./x.log/",
            True,
            6,
            "x.log",
            "/x.log is sent: .dockerignore brings it back (line 6: !x.log)",
        ),
        (
            "node_modules/other/b",
            False,
            3,
            "node_modules",
            (
                "/node_modules/other/b is not sent: .dockerignore excludes /node_modules above it "
                "(line 3: node_modules), and nothing brings it back"
            ),
        ),
        (
            "/node_modules",
            True,
            3,
            "node_modules",
            (
                "/node_modules is sent for what is below it, although .dockerignore excludes it "
                "(line 3: node_modules)"
            ),
        ),
        (
            "src/z.log",
            False,
            5,
            "src/z.log",
            "/src/z.log is not there, and .dockerignore excludes it (line 5: **/*.log)",
        ),
        (
            "node_modules/keep/a",
            True,
            4,
            "node_modules/keep/a",
            (
                "/node_modules/keep/a is sent: .dockerignore brings it back "
                "(line 4: !node_modules/keep/**)"
            ),
        ),
        ("../..", True, None, "", "/ is sent: no pattern excludes it"),
    ],
)
def test_what_decided_is_told(
    path: str, sent: bool, line: int | None, at: str, reason: str, files: Path
) -> None:
    verdict = imgbuild.explain_context(path, files)
    assert (verdict.sent, verdict.line, verdict.at, verdict.reason) == (sent, line, at, reason)
    assert verdict.pattern == (IGNORE.splitlines()[line - 1].strip() if line else "")


def test_links_above_are_followed_inside(files: Path) -> None:
    assert imgbuild.explain_context("link/keep/a", files).path == "node_modules/keep/a"
    (files / "out").symlink_to("/etc")
    verdict = imgbuild.explain_context("out/passwd", files)
    assert (verdict.exists, verdict.sent, verdict.path) == (False, False, "etc/passwd")


def test_without_an_ignore_file(context: Path) -> None:
    (context / "a").touch()
    verdict = imgbuild.explain_context("a", context)
    assert (verdict.sent, verdict.ignore_file, verdict.line) == (True, None, None)
    missing = imgbuild.explain_context("b", context)
    assert (missing.exists, missing.sent) == (False, False)
    assert missing.reason.startswith("/b is not there: paths are relative to the build context")


def test_names_that_are_no_text_survive(context: Path) -> None:
    (context / os.fsdecode(b"\xff")).touch()
    (entry,) = imgbuild.list_context(context)
    assert os.fsencode(entry.path) == b"\xff"
    assert imgbuild.explain_context(os.fsdecode(b"\xff"), context).sent


def test_a_context_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a directory"):
        next(imgbuild.list_context(tmp_path / "missing"))
