import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbuild.build.context import ContextTree, wanted
from imgbuild.build.filereader import CONTENT
from imgbuild.dockerfile.ignore import IgnoreMatcher
from imgbuild.errors import ContextError, UsageError
from imgbuild.snapshot.remove import remove_tree
from tests.unit.build.trees import line


def lines(tree: ContextTree, path: bytes = b"") -> list[str]:
    return [line(item.entry(item.rel)) for item in tree.walk(path)]


@pytest.fixture
def files(context: Path) -> Path:
    (context / "d/sub").mkdir(parents=True)
    (context / "a.txt").write_text("A")
    (context / "d/x").write_text("X")
    (context / "d/sub/y").write_text("Y")
    for path in context.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return context


def test_everything_belongs_to_root_and_comes_in_layer_order(files: Path) -> None:
    (files / "d-e").write_text("")
    (files / "d-e").chmod(0o4750)
    (files / "d/link").symlink_to("/etc/passwd")
    os.mkfifo(files / "pipe", 0o600)
    with ContextTree(files) as tree:
        assert lines(tree) == [
            "a.txt 0644",
            "d/ 0755",
            "d/link -> /etc/passwd",
            "d/sub/ 0755",
            "d/sub/y 0644",
            "d/x 0644",
            "d-e 4750",
            "pipe 0600",
        ]
        assert [item.rel for item in tree.walk(b"d")] == [b"link", b"sub", b"sub/y", b"x"]


def test_a_socket_is_an_empty_file(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("s")
        (files / "s").chmod(0o600)
        with ContextTree(files) as tree:
            entry = tree.lstat(b"s")
    assert entry is not None
    assert (entry.type, entry.size, entry.mode) == ("file", 0, 0o600)


def test_names_that_are_no_text_survive(files: Path) -> None:
    Path(os.fsdecode(os.fsencode(files) + b"/d/\xff\xfe")).write_text("raw")
    with ContextTree(files) as tree:
        assert b"d/\xff\xfe" in [item.rel for item in tree.walk(b"")]
        assert b"\xff\xfe" in tree.listdir(b"d")
        with tree.open(b"d/\xff\xfe") as stream:
            assert stream.read() == b"raw"


def test_names_of_one_file_share_a_group(files: Path) -> None:
    (files / "d/again").hardlink_to(files / "d/x")
    with ContextTree(files) as tree:
        groups = {item.rel: item.group for item in tree.walk(b"")}
    assert groups[b"d/x"] == groups[b"d/again"] != b""
    assert groups[b"a.txt"] == b""


def test_symlinks_do_not_lead_out(files: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    (files / "out").symlink_to(secret)
    (files / "updir").symlink_to("..")
    with ContextTree(files) as tree:
        entry = tree.lstat(b"out")
        assert entry is not None
        assert entry.type == "symlink"
        assert tree.lstat(b"updir/secret") is None
        assert tree.lstat(os.fsencode(secret).strip(b"/")) is None


def test_a_file_swapped_for_a_link_is_not_followed(files: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    with ContextTree(files) as tree:
        assert tree.lstat(b"d/x") is not None
        (files / "d/x").unlink()
        (files / "d/x").symlink_to(tmp_path / "secret")
        with pytest.raises(ContextError, match="cannot read /d/x"):
            tree.open(b"d/x")


def test_a_directory_swapped_for_a_link_is_not_followed(files: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "y").write_text("s3cret")
    with ContextTree(files) as tree:
        assert tree.lstat(b"d/sub/y") is not None
        (files / "d/sub/y").unlink()
        (files / "d/sub").rmdir()
        (files / "d/sub").symlink_to(outside)
        with pytest.raises(ContextError):
            tree.open(b"d/sub/y")


def read(tree: ContextTree, path: bytes) -> bytes:
    item = tree.item(path)
    assert item is not None
    [(_, batch)] = tree.read([(0, [wanted(path, item)])], CONTENT, 1)
    return batch.contents[0]


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def rewrite(path: Path) -> None:
    path.write_text("longer")


def replace(path: Path) -> None:
    times = path.stat()
    path.unlink()
    path.write_text("Z")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [rewrite, replace, pipe, touch], ids=lambda c: c.__name__)
def test_a_file_that_changed_since_it_was_listed_is_refused(
    files: Path, change: Callable[[Path], None]
) -> None:
    with ContextTree(files) as tree:
        assert read(tree, b"d/x") == b"X"
        item = tree.item(b"d/x")
        assert item is not None
        change(files / "d/x")
        with pytest.raises(ContextError, match="/d/x .*changed while it was read"):
            read(tree, b"d/x")
        # A pipe is not even opened for reading: it may have no end.
        with pytest.raises(ContextError, match="changed"), tree.open(b"d/x") as stream:
            tree.check(stream, b"d/x", item)


def test_what_is_ignored_is_not_there(files: Path) -> None:
    (files / "d/sub/deep").mkdir()
    (files / "d/sub/deep/z").write_text("Z")
    (files / "e").mkdir()
    (files / "e/f").write_text("")
    matcher = IgnoreMatcher(("d", "e", "!d/sub/deep/z", "!nothing/here", "a.*"))
    with ContextTree(files, matcher) as tree:
        assert [item.rel for item in tree.walk(b"")] == [
            b"d",
            b"d/sub",
            b"d/sub/deep",
            b"d/sub/deep/z",
        ]
        assert tree.listdir(b"") == [b"d"]
        assert tree.lstat(b"a.txt") is None
        assert tree.lstat(b"d/x") is None
        assert tree.lstat(b"d/sub/deep/z") is not None
        assert tree.is_ignored(b"a.txt")
        assert not tree.is_ignored(b"missing")


def test_ignored_directories_are_never_opened(files: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("as root everything can be opened")
    (files / "d").chmod(0)
    try:
        with ContextTree(files, IgnoreMatcher(("d",))) as tree:
            assert [item.rel for item in tree.walk(b"")] == [b"a.txt"]
    finally:
        (files / "d").chmod(0o755)


def test_ignored_directories_are_pruned(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    real = os.listdir

    def listdir(path: int) -> list[str]:
        listed.append(os.readlink(f"/proc/self/fd/{path}"))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    with ContextTree(files, IgnoreMatcher(("d",))) as tree:
        list(tree.walk(b""))
    assert listed == [str(files)]


def test_a_context_that_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot use .*missing as a build context"):
        ContextTree(tmp_path / "missing")


def test_a_context_without_a_bottom_is_refused(tmp_path: Path) -> None:
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    try:
        with ContextTree(tmp_path) as tree, pytest.raises(ContextError, match="directories deep"):
            list(tree.walk(b""))
    finally:
        remove_tree(os.fsencode(tmp_path / "d"))
