import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from imgbuild.build.context import ContextTree
from imgbuild.build.hashing import FileKey, read_xattrs
from imgbuild.build.sources import from_context, from_image
from imgbuild.errors import ContextError
from imgbuild.oci.digest import Digest, digest_bytes
from tests.unit.build.trees import view


class Memo:
    """A memo that believes everything at once, and counts."""

    def __init__(self) -> None:
        self.known: dict[FileKey, Digest] = {}
        self.put = 0

    def get_many(self, keys: Sequence[FileKey]) -> Mapping[FileKey, Digest]:
        return {key: self.known[key] for key in keys if key in self.known}

    def put_many(self, digests: Mapping[FileKey, Digest]) -> None:
        self.put += len(digests)
        self.known.update(digests)


def digest(context: Path, *patterns: str, memo: Memo | None = None) -> str:
    with ContextTree(context) as tree:
        return from_context(tree, patterns or (".",), memo or Memo()).digest


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

    monkeypatch.setattr(ContextTree, "open", refuse)
    assert digest(files, memo=memo) == before


def test_a_file_that_changes_while_it_is_read(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imgbuild.build import hashing

    real = hashing._digest

    def slow(fd: int) -> Digest:
        (files / "d/a").write_text("other and longer")
        return real(fd)

    monkeypatch.setattr(hashing, "_digest", slow)
    with pytest.raises(ContextError, match="changed while it was read") as caught:
        digest(files, "d/a")
    assert "ignore" in (caught.value.hint or "")


def test_large_files_are_hashed_whole(context: Path) -> None:
    data = os.urandom(1 << 20) * 3 + b"end"
    (context / "big").write_bytes(data)
    with ContextTree(context) as tree:
        found = from_context(tree, ["big"], Memo())
    assert found.facts[b"big"].digest == digest_bytes(data)


def test_attributes_count_and_are_not_remembered(files: Path) -> None:
    before = digest(files, "d")
    try:
        os.setxattr(files / "d/a", "user.kept", b"1")
    except OSError:
        pytest.skip("cannot apply: no attributes on this file system")
    os.setxattr(files / "d/a", "user.overlay.opaque", b"y")
    memo = Memo()
    assert digest(files, "d", memo=memo) != before
    assert memo.put == 1
    with (files / "d/a").open() as stream:
        assert read_xattrs(stream.fileno()) == {"user.kept": b"1"}


def test_an_image_and_a_context_are_different_sources(files: Path) -> None:
    one = from_image(view({"d/a": {"data": "A", "uid": 1}}), ["d"]).digest
    two = from_image(view({"d/a": {"data": "A", "uid": 2}}), ["d"]).digest
    assert one != two
    again = from_image(view({"d/a": {"data": "A", "uid": 1, "mtime": 9}}), ["d"]).digest
    assert one == again


def test_an_excluded_source_says_why(files: Path) -> None:
    from imgbuild.build.context import open_context

    (files / ".dockerignore").write_text("f\n")
    with (
        open_context(files) as tree,
        pytest.raises(ContextError, match='"/f": not found') as caught,
    ):
        from_context(tree, ["f"], Memo())
    assert caught.value.hint == "/f is there, but .dockerignore excludes it"
    with open_context(files) as tree, pytest.raises(ContextError) as caught:
        from_context(tree, ["nope"], Memo())
    assert str(files) in (caught.value.hint or "")
