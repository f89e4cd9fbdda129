"""Paths inside a root never lead out of it, whichever of the two ways resolves them."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuild import inroot


@pytest.fixture(params=["walk", "openat2"])
def _resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inroot, "_kernel_open", None)
    if request.param == "openat2" and not inroot.use_openat2():
        pytest.skip("this kernel has no openat2")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "outside").mkdir()
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("inside")
    (root / "secret").write_text("inside")
    for link, target in {
        "abs": "/etc/passwd",
        "up": "../../../../secret",
        "etc/updir": "../..",
        "etcdir": "etc",
        "absdir": "/etc",
        "escape": str(tmp_path / "outside"),
        "loop": "loop",
        "dangling": "/made/here",
        "chain": "etcdir/updir/abs",
    }.items():
        (root / link).symlink_to(target)
    return root


@pytest.fixture
def root(tree: Path, _resolver: None) -> Iterator[int]:
    fd = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    yield fd
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was leaked"
    os.close(fd)


def content(root: int, path: bytes, flags: int = os.O_RDONLY) -> bytes:
    with os.fdopen(inroot.open_in_root(root, path, flags), "rb") as file:
        return file.read()


@pytest.mark.parametrize(
    "path",
    [
        b"etc/passwd",
        b"/etc/passwd",
        b"./etc//passwd",
        b"abs",
        b"up",
        b"../../../../../secret",
        b"etc/../../secret",
        b"etc/updir/secret",
        b"etcdir/passwd",
        b"absdir/passwd",
        b"chain",
    ],
)
def test_every_path_stays_inside(root: int, path: bytes) -> None:
    assert content(root, path) == b"inside"


@pytest.mark.parametrize(
    ("path", "flags", "code"),
    [
        (b"absent", os.O_RDONLY, errno.ENOENT),
        (b"escape", os.O_RDONLY, errno.ENOENT),
        (b"escape/x", os.O_RDONLY, errno.ENOENT),
        (b"loop", os.O_RDONLY, errno.ELOOP),
        (b"loop/x", os.O_RDONLY, errno.ELOOP),
        (b"abs", os.O_RDONLY | os.O_NOFOLLOW, errno.ELOOP),
        (b"etc/passwd/x", os.O_RDONLY, errno.ENOTDIR),
        (b"etc/passwd", os.O_RDONLY | os.O_DIRECTORY, errno.ENOTDIR),
        (b"secret", os.O_WRONLY | os.O_CREAT | os.O_EXCL, errno.EEXIST),
    ],
)
def test_failures_are_the_kernels(root: int, path: bytes, flags: int, code: int) -> None:
    with pytest.raises(OSError) as caught:
        inroot.open_in_root(root, path, flags)
    assert caught.value.errno == code


def test_nul_is_refused_not_cut(root: int) -> None:
    with pytest.raises(ValueError):
        inroot.open_in_root(root, b"secret\0x", os.O_RDONLY)
    with pytest.raises(ValueError):
        inroot.make_dirs(root, b"a\0b")
    with pytest.raises(OSError):
        inroot.open_parent(root, b"a\0b")


def test_empty_path_is_the_root(root: int, tree: Path) -> None:
    for path in (b"", b"/", b".", b"..", b"etc/.."):
        assert inroot.lstat_in_root(root, path).st_ino == tree.stat().st_ino


def test_lstat_describes_the_link_itself(root: int, tree: Path) -> None:
    assert inroot.lstat_in_root(root, b"abs").st_ino == (tree / "abs").lstat().st_ino


def test_creating_through_a_link_creates_inside(root: int, tree: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT
    os.close(inroot.open_in_root(root, b"absdir/new", flags, 0o600))
    assert (tree / "etc/new").stat().st_mode & 0o777 == 0o600
    (tree / "todangle").symlink_to("../../fresh")
    os.close(inroot.open_in_root(root, b"todangle", flags, 0o600))
    assert (tree / "fresh").exists()
    assert not (tree.parent / "fresh").exists()


@pytest.mark.parametrize("path", [b"", b".", b"..", b"etc/.", b"etc/..", b"etc/", b"/"])
def test_parent_needs_a_name(root: int, path: bytes) -> None:
    with pytest.raises(OSError) as caught:
        inroot.open_parent(root, path)
    assert caught.value.errno == errno.EINVAL


def test_parent_of_a_link_is_where_the_link_is(root: int) -> None:
    fd, name = inroot.open_parent(root, b"absdir/passwd")
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=fd), "rb") as file:
        assert file.read() == b"inside"
    assert b"passwd" in map(os.fsencode, os.listdir(fd))
    os.close(fd)


def test_parent_without_follow_refuses_links(root: int) -> None:
    fd, _ = inroot.open_parent(root, b"etc/passwd", follow=False)
    os.close(fd)
    for path in (b"absdir/passwd", b"etcdir/x", b"etc/updir/x"):
        with pytest.raises(NotADirectoryError):
            inroot.open_parent(root, path, follow=False)
        with pytest.raises(NotADirectoryError):
            inroot.open_parent(root, path, follow=False, create=True)


def test_parents_are_made(root: int, tree: Path) -> None:
    fd, name = inroot.open_parent(root, b"new/deep/file", create=True, dir_mode=0o711)
    assert name == b"file"
    assert (tree / "new").stat().st_mode & 0o777 == 0o711
    assert os.fstat(fd).st_ino == (tree / "new/deep").stat().st_ino
    os.close(fd)


def test_make_dirs_is_exact_about_modes_and_leaves_what_is_there(root: int, tree: Path) -> None:
    (tree / "etc").chmod(0o700)
    old = os.umask(0o077)
    try:
        os.close(inroot.make_dirs(root, b"etc/a/b", 0o1777, (os.getuid(), os.getgid())))
    finally:
        os.umask(old)
    assert (tree / "etc").stat().st_mode & 0o7777 == 0o700
    assert (tree / "etc/a").stat().st_mode & 0o7777 == 0o1777
    assert (tree / "etc/a/b").stat().st_mode & 0o7777 == 0o1777


def test_make_dirs_follows_links_inside(root: int, tree: Path) -> None:
    os.close(inroot.make_dirs(root, b"dangling/x"))
    assert (tree / "made/here/x").is_dir()
    os.close(inroot.make_dirs(root, b"escape/x"))
    assert not (tree.parent / "outside/x").exists()
    with pytest.raises(OSError) as caught:
        inroot.make_dirs(root, b"loop/x")
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError):
        inroot.make_dirs(root, b"etc/passwd/x")
    with pytest.raises(OSError):
        inroot.make_dirs(root, b"etc/passwd")


def test_descriptors_are_not_inherited(root: int) -> None:
    for fd in (
        inroot.open_in_root(root, b"etc", os.O_RDONLY),
        inroot.open_parent(root, b"etc/x")[0],
        inroot.make_dirs(root, b"etc"),
    ):
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_straight_paths_lead_over_no_link_and_never_up(root: int, tree: Path) -> None:
    (tree / "straight").mkdir()
    (tree / "straight/f").touch()
    (tree / "straight/link").symlink_to("f")
    (tree / "crooked").symlink_to("straight")
    at = os.open(tree / "straight", os.O_PATH)
    found = inroot.open_straight(root, b"straight/./f", os.O_PATH)
    assert os.path.samestat(os.fstat(found), (tree / "straight/f").stat())
    assert not os.get_inheritable(found)
    itself = inroot.open_straight(at, b"link", os.O_PATH | os.O_NOFOLLOW)
    assert os.readlink("", dir_fd=itself) == "f"
    cases = {b"link": errno.ELOOP, b"../straight/f": errno.EXDEV, b"/straight/f": errno.EXDEV}
    for path, code in cases.items():
        with pytest.raises(OSError) as caught:
            inroot.open_straight(at, path, os.O_PATH)
        assert caught.value.errno == code
    with pytest.raises(OSError) as caught:
        inroot.open_straight(root, b"crooked/f", os.O_PATH)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(ValueError):
        inroot.open_straight(at, b"f\0", os.O_PATH)
    for fd in (at, found, itself):
        os.close(fd)
