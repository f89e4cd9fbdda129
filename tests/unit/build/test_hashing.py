import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest

from imgbuild.build.context import ContextTree
from imgbuild.build.filereader import TreeReader, read_xattrs
from imgbuild.build.gathered import Gathered, Part
from imgbuild.build.sources import close, from_context, from_image
from imgbuild.errors import ContextError
from imgbuild.layer.xattrs import CAPABILITY
from imgbuild.store.filememo import FileKey
from tests.unit.build.trees import view

SCRATCH = Path(gettempdir())


class Memo:
    """A memo that believes everything at once, and counts."""

    def __init__(self) -> None:
        self.known: dict[FileKey, bytes] = {}
        self.put = 0

    def get_many(self, keys: Sequence[FileKey]) -> Mapping[FileKey, bytes]:
        return {key: self.known[key] for key in keys if key in self.known}

    def put_many(self, digests: Mapping[FileKey, bytes], before: int) -> None:
        self.put += len(digests)
        self.known.update(digests)


@contextmanager
def gathered(context: Path, *patterns: str) -> Iterator[Gathered]:
    with ContextTree(context) as tree:
        sources = from_context(tree, patterns or (".",), SCRATCH)
        try:
            yield Gathered([Part(tree, sources)], 0)
        finally:
            close(sources)


def digest(context: Path, *patterns: str, memo: Memo | None = None) -> str:
    with gathered(context, *patterns) as found:
        found.learn(memo or Memo())
        return found.digest()


def image_digest(spec: Mapping[str, Any]) -> str:
    tree = view(spec)
    return Gathered([Part(tree, from_image(tree, ["d"], SCRATCH))], 0).digest()


@pytest.fixture
def files(context: Path) -> Path:
    (context / "d").mkdir()
    (context / "d/a").write_text("A")
    (context / "d/b").write_text("B")
    (context / "d/l").symlink_to("a")
    (context / "d/sub").mkdir()
    (context / "f").write_text("F")
    return context


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


CHANGES: list[tuple[str, Callable[[Path], object], bool]] = [
    ("a time is no content", lambda c: touch(c / "d/a"), False),
    ("nor is the time of a directory", lambda c: touch(c / "d/sub"), False),
    ("what was not selected does not matter", lambda c: (c / "f").write_text("G"), False),
    ("the mode of the selected directory does not arrive", lambda c: (c / "d").chmod(0o700), False),
    ("content", lambda c: (c / "d/a").write_text("Z"), True),
    ("mode of a file", lambda c: (c / "d/a").chmod(0o755), True),
    ("mode of a directory below", lambda c: (c / "d/sub").chmod(0o700), True),
    ("a link's text", lambda c: relink(c / "d/l", "b"), True),
    ("a name", lambda c: (c / "d/a").rename(c / "d/c"), True),
    ("a new file", lambda c: (c / "d/sub/n").write_text(""), True),
    ("a file that became a directory", lambda c: ((c / "d/a").unlink(), (c / "d/a").mkdir()), True),
    (
        "two names of one file",
        lambda c: ((c / "d/b").unlink(), (c / "d/b").hardlink_to(c / "d/a")),
        True,
    ),
]


@pytest.mark.parametrize(("why", "change", "differs"), CHANGES, ids=[c[0] for c in CHANGES])
def test_what_changes_the_digest(
    files: Path, why: str, change: Callable[[Path], object], differs: bool
) -> None:
    before = digest(files, "d")
    change(files)
    assert (digest(files, "d") != before) is differs, why


def test_the_same_content_elsewhere_has_the_same_digest(files: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(files, tmp_path / "other", symlinks=True)
    assert digest(tmp_path / "other") == digest(files)


def test_the_name_of_a_single_file_counts_and_of_a_directory_not(files: Path) -> None:
    (files / "g").write_text("F")
    assert digest(files, "f") != digest(files, "g")
    before = digest(files, "d")
    (files / "d").rename(files / "e")
    assert digest(files, "e") == before


def test_sources_cannot_run_together(files: Path) -> None:
    (files / "ab").write_text("")
    (files / "abF").write_text("")
    seen = {
        digest(files, *p)
        for p in (["ab", "f"], ["f", "ab"], ["abF"], ["ab"], ["d", "f"], ["f", "d"])
    }
    assert len(seen) == 6


def test_files_in_the_memo_are_not_read(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memo = Memo()
    before = digest(files, memo=memo)
    assert memo.put == 3

    def refuse(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(TreeReader, "open", refuse)
    assert digest(files, memo=memo) == before


def test_one_changed_file_is_read_alone(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memo = Memo()
    before = digest(files, memo=memo)
    opened: list[bytes] = []
    real = TreeReader.open

    def noted(self: TreeReader, path: bytes) -> int:
        opened.append(path)
        return real(self, path)

    monkeypatch.setattr(TreeReader, "open", noted)
    (files / "d/b").write_text("changed")
    assert digest(files, memo=memo) != before
    assert opened == [b"d/b"]


def test_a_file_that_changes_while_it_is_read(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.read

    def slow(fd: int, size: int) -> bytes:
        (files / "d/a").write_text("other and longer")
        return real(fd, size)

    with gathered(files, "d/a") as found:
        monkeypatch.setattr(os, "read", slow)
        with pytest.raises(ContextError, match="changed while it was read") as caught:
            found.learn(Memo())
    assert "ignore" in (caught.value.hint or "")


def test_large_files_are_hashed_whole(context: Path) -> None:
    data = os.urandom(1 << 20) * 3 + b"end"
    (context / "big").write_bytes(data)
    with gathered(context, "big") as found:
        found.learn(Memo())
        assert found.facts.digest(0) == hashlib.sha256(data).digest()


def test_only_capabilities_among_the_attributes_count(files: Path) -> None:
    before = digest(files, "d")
    try:
        os.setxattr(files / "d/a", "user.left_out", b"1")
    except OSError:
        pytest.skip("cannot apply: no attributes on this file system")
    assert digest(files, "d") == before
    with (files / "d/a").open() as stream:
        assert read_xattrs(stream.fileno()) == {}


def test_capabilities_count_and_are_not_remembered(files: Path) -> None:
    before = digest(files, "d")
    try:
        os.setxattr(
            files / "d/a", CAPABILITY, bytes.fromhex("0100000200200000000000000000000000000000")
        )
    except OSError:
        pytest.skip("cannot apply: only root gives capabilities")
    memo = Memo()
    assert digest(files, "d", memo=memo) != before
    assert memo.put == 1
    with gathered(files, "d") as found:
        found.learn(memo)
        assert list(found.facts.xattrs) == [1]


def test_an_image_and_a_context_are_different_sources(files: Path) -> None:
    one = image_digest({"d/a": {"data": "A", "uid": 1}})
    two = image_digest({"d/a": {"data": "A", "uid": 2}})
    assert one != two
    again = image_digest({"d/a": {"data": "A", "uid": 1, "mtime": 9}})
    assert one == again


def test_an_excluded_source_says_why(files: Path) -> None:
    from imgbuild.build.context import open_context

    (files / ".dockerignore").write_text("f\n")
    with (
        open_context(files) as tree,
        pytest.raises(ContextError, match='"/f": not found') as caught,
    ):
        from_context(tree, ["f"], SCRATCH)
    assert caught.value.hint == "/f is there, but .dockerignore excludes it (line 1: f)"
    with open_context(files) as tree, pytest.raises(ContextError) as caught:
        from_context(tree, ["nope"], SCRATCH)
    assert str(files) in (caught.value.hint or "")
