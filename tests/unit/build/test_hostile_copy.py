"""Contexts and archives that attack, or change while they are copied."""

import errno
import io
import os
import re
import socket
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

import pytest

from imgbuild.build.context import ContextTree
from imgbuild.build.filereader import CHUNK
from imgbuild.errors import ContextError, ImgbuildError
from imgbuild.snapshot.remove import remove_tree
from imgbuild.store.store import Store
from tests.support.archives import archive, member
from tests.support.deadline import in_time
from tests.support.users import folder_of, python_as
from tests.unit.build.building import build, content, members, names, uncompressed

COPY = "FROM scratch\nCOPY . /\n"
ADD = "FROM scratch\nADD a.tar /x/\n"
SECRET = b"s3cret of somebody else"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "f").write_bytes(SECRET)
    (folder / "sub").mkdir()
    (folder / "sub/f").write_bytes(SECRET)
    return folder


def nothing_left(store: Store) -> None:
    store.blobs.flush()
    assert list((store.paths.blobs / "sha256").iterdir()) == []
    assert list(store.paths.staging.iterdir()) == []


def refused(store: Store, context: Path, text: str, words: str) -> ImgbuildError:
    """Build what must be refused; the error names the instruction, and nothing is left."""
    with pytest.raises(ImgbuildError, match=words) as caught:
        build(store, context, text)
    assert caught.value.exit_code == 1
    assert caught.value.span is not None
    nothing_left(store)
    return caught.value


@contextmanager
def before_opening(
    monkeypatch: pytest.MonkeyPatch, name: bytes, action: Callable[[], object]
) -> Iterator[None]:
    """Do something right before the first time that `name` is opened in a directory."""
    real, done = os.open, []

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is not None and path == name and not done:
            done.append(path)
            action()
        return real(path, flags, mode, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        yield
    assert done, "nothing was opened by that name"


def swap(path: Path, target: str | Path) -> None:
    """Put a symlink where something was."""
    path.rename(path.with_name("aside"))
    path.symlink_to(target)


# --- races with symlinks


@pytest.mark.parametrize("how", ["absolute", "relative"])
@pytest.mark.parametrize("name", ["d", "d/sub", "d/f"])
def test_what_is_swapped_for_a_link_before_it_is_opened(
    name: str,
    how: str,
    store: Store,
    context: Path,
    outside: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (context / "d/sub").mkdir(parents=True)
    (context / "d/sub/f").write_text("mine")
    (context / "d/f").write_text("mine")
    path = context / name
    there = outside / os.path.relpath(path, context / "d")
    target = there if how == "absolute" else os.path.relpath(there, path.parent)
    assert (path.parent / target).exists()
    with before_opening(monkeypatch, os.fsencode(path.name), lambda: swap(path, target)):
        refused(store, context, COPY, r"(cannot read|changed while it was read)")


@pytest.mark.parametrize("name", ["d", "d/sub"])
def test_directories_swapped_for_links_between_listing_and_reading(
    name: str, store: Store, context: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (context / "d/sub").mkdir(parents=True)
    (context / "d/sub/f").write_bytes(bytes(len(SECRET)))
    inside = context / "other/sub"
    inside.mkdir(parents=True)
    (inside / "f").write_bytes(bytes(len(SECRET)))
    real = ContextTree.read

    for target in (outside, "../outside", "other"):

        def read(self: ContextTree, *details: Any, to: Any = target) -> Any:
            swap(context / name, to)
            return real(self, *details)

        with monkeypatch.context() as patch:
            patch.setattr(ContextTree, "read", read)
            refused(store, context, "FROM scratch\nCOPY d /\n", r"cannot read|changed while")
        (context / name).unlink()
        (context / name).with_name("aside").rename(context / name)


def test_links_that_lead_out_are_followed_inside(
    store: Store, context: Path, outside: Path
) -> None:
    (context / "inside").write_text("mine")
    (context / "one").symlink_to("two")
    (context / "two").symlink_to("../../../../three")
    (context / "three").symlink_to("/inside")
    assert content(store, build(store, context, "FROM scratch\nCOPY one /x\n"), "x") == b"mine"
    (context / "up").symlink_to(os.path.relpath(outside, context))
    (context / "away").symlink_to(outside)
    for source in ("up/f", "away/f", "up", "away", f"../{outside.name}/f"):
        with pytest.raises(ContextError, match="not found"):
            build(store, context, f"FROM scratch\nCOPY {source} /x\n")


def test_links_of_the_destination_stay_in_the_image(store: Store, context: Path) -> None:
    (context / "root/usr").mkdir(parents=True)
    for number, target in enumerate(["../../../../usr", "/l0", "../l1/../l1"]):
        (context / f"root/l{number}").symlink_to(target)
    (context / "f").write_text("mine")
    built = build(store, context, "FROM scratch\nCOPY root /\nCOPY f /l2/f\nCOPY f /l2/../../g\n")
    assert names(store, built, -2) == ["usr", "usr/f"]
    assert names(store, built) == ["g"]


def test_loops_of_links(store: Store, context: Path) -> None:
    (context / "a").symlink_to("b")
    (context / "b").symlink_to("a")
    for source in ("a", "a/x", "b"):
        refused(store, context, f"FROM scratch\nCOPY {source} /x\n", "too many levels of symbolic")
    (context / "f").write_text("")
    with pytest.raises(ContextError, match="too many levels of symbolic links: /a"):
        build(store, context, "FROM scratch\nCOPY . /\nCOPY f /a/f\n")
    # In a directory they are copied as they are.
    assert names(store, build(store, context, COPY)) == ["a", "b", "f"]


# --- names


@pytest.mark.parametrize("name", [".wh.foo", ".wh..wh..opq", ".wh..wh.plnk", "d/.wh.x", ".wh.d/x"])
@pytest.mark.parametrize("how", ["all", "alone"])
def test_names_of_whiteouts(how: str, name: str, store: Store, context: Path) -> None:
    path = context / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    source = name if how == "alone" else "."
    shown = ".wh.d" if name == ".wh.d/x" else name
    error = refused(
        store, context, f"FROM scratch\nCOPY {source} /{source}\n", f" '{re.escape(shown)}'"
    )
    assert error.hint == "rename or remove it, or have an ignore file leave it out of COPY"


def test_names_of_whiteouts_that_are_ignored(store: Store, context: Path) -> None:
    (context / ".wh.foo").write_text("")
    (context / ".dockerignore").write_text("**/.wh.*\n.dockerignore\n")
    assert names(store, build(store, context, COPY)) == []


ODD = [
    b"new\nline",
    b"tab\tbell\a",
    b"\x1b[2J",
    b"\xff\xfe",
    b" ",
    b"a:b,c=d",
    b"*",
    b"\\",
    "é".encode(),
]


def test_odd_names_survive(store: Store, context: Path) -> None:
    root = os.fsencode(context)
    os.mkdir(root + b"/d\n\xff")
    for name in ODD:
        for place in (root + b"/", root + b"/d\n\xff/"):
            Path(os.fsdecode(place + name)).write_bytes(name)
    built = build(store, context, COPY)
    found = {os.fsencode(item.name): item for item in members(store, built)}
    assert set(found) == {b"d\n\xff", *ODD, *(b"d\n\xff/" + name for name in ODD)}
    with tarfile.open(fileobj=io.BytesIO(uncompressed(store, built))) as tar:
        for name, item in found.items():
            if item.isfile():
                stream = tar.extractfile(item)
                assert stream is not None
                assert stream.read() == name.rpartition(b"/")[2]


def test_the_longest_names(store: Store, context: Path) -> None:
    name = "n" * 255
    (context / name / name).mkdir(parents=True)
    (context / name / name / name).write_text("deep")
    built = build(store, context, COPY)
    assert content(store, built, f"{name}/{name}/{name}") == b"deep"


def test_paths_that_are_too_long(store: Store, context: Path) -> None:
    at = os.open(context, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=at)
        below = os.open("n" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    try:
        refused(store, context, COPY, "too long")
    finally:
        remove_tree(os.fsencode(context / ("n" * 250)))


# --- what changes while it is read


def grow(path: Path) -> None:
    with path.open("ab") as out:
        out.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def rewrite(path: Path) -> None:
    with path.open("r+b") as out:
        out.write(b"other")


def replace(path: Path) -> None:
    other = path.with_name("new")
    other.write_bytes(bytes(path.stat().st_size))
    os.utime(other, (1, 1))
    other.rename(path)


def remove(path: Path) -> None:
    path.unlink()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES = [grow, shrink, rewrite, replace, remove, pipe]


@pytest.fixture(params=[10, 3 * CHUNK], ids=["small", "large"])
def victim(request: pytest.FixtureRequest, context: Path) -> Path:
    path = context / "victim"
    path.write_bytes(bytes(request.param))
    os.utime(path, (1, 1))
    return path


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "text",
    [COPY, "FROM scratch\nCOPY victim /x\n", "FROM scratch\nADD victim /x\n"],
    ids=["all", "copy", "add"],
)
def test_a_file_that_changes_before_it_is_opened(
    text: str,
    change: Callable[[Path], None],
    victim: Path,
    store: Store,
    context: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with before_opening(monkeypatch, b"victim", lambda: change(victim)):
        refused(store, context, text, r"victim")


@pytest.mark.parametrize("change", [grow, shrink, rewrite], ids=lambda f: f.__name__)
def test_a_file_that_changes_while_it_is_read(
    change: Callable[[Path], None],
    victim: Path,
    store: Store,
    context: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real_open, real_read = ContextTree.open, os.read
    seen = []

    class Changing:
        def __init__(self, stream: BinaryIO) -> None:
            self._stream = stream

        def read(self, size: int = -1) -> bytes:
            data = self._stream.read(size)
            if not seen:
                seen.append(size)
                change(victim)
            return data

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._stream.close()

    def read(fd: int, size: int) -> bytes:
        data = real_read(fd, size)
        if not seen and os.readlink(f"/proc/self/fd/{fd}") == str(victim):
            seen.append(size)
            change(victim)
        return data

    monkeypatch.setattr(ContextTree, "open", lambda self, path: Changing(real_open(self, path)))
    monkeypatch.setattr(os, "read", read)
    refused(store, context, COPY, "victim")
    assert seen


def test_a_file_cannot_be_read(tmp_path: Path) -> None:
    code = """
        import os, sys
        from pathlib import Path
        from imgbuild import ImgbuildError, build

        root = Path(sys.argv[1])
        (root / "c/d").mkdir(parents=True)
        for number, name in enumerate(["f", "d"]):
            (root / "c/f").write_text("x")
            (root / "c/Dockerfile").write_text("FROM scratch\\nCOPY . /\\n")
            (root / "c" / name).chmod(0)
            try:
                build(root / "c", store=root / f"s{number}")
            except ImgbuildError as error:
                print(error.message, error.hint, error.span.first)
            (root / "c" / name).chmod(0o755)
            blobs = root / f"s{number}/blobs/sha256"
            print(sum(1 for _ in blobs.iterdir()) if blobs.exists() else 0)
    """
    who = "self" if os.getuid() else "single"
    with folder_of(who, tmp_path) as folder:
        lines = python_as(who, code, folder).stdout.splitlines()
    context = f"{folder}/c"
    hint = "make it readable, or add it to .dockerignore 2"
    assert lines == [
        f"cannot read /f in the build context {context}: Permission denied {hint}",
        "0",
        f"cannot read /d in the build context {context}: Permission denied {hint}",
        "0",
    ]


# --- what is no file


@pytest.mark.parametrize("text", [COPY, "FROM scratch\nCOPY p /\n", "FROM scratch\nADD p /\n"])
def test_a_pipe_is_copied_and_never_read(text: str, store: Store, context: Path) -> None:
    os.mkfifo(context / "p", 0o640)
    with in_time(20):
        for _ in range(2):
            built = build(store, context, text)
    (found,) = members(store, built)
    assert (found.name, found.isfifo(), found.mode) == ("p", True, 0o640)


def test_an_ignore_file_that_is_a_pipe(store: Store, context: Path) -> None:
    os.mkfifo(context / ".dockerignore")
    with in_time(20):
        refused(store, context, COPY, "not a regular file")


@pytest.mark.parametrize("name", [".dockerignore", "Dockerfile.dockerignore"])
def test_an_ignore_file_does_not_lead_out(
    name: str, store: Store, context: Path, outside: Path
) -> None:
    (outside / "f").write_text("[private\n")
    (context / "Dockerfile").write_text("FROM scratch\n")
    for target in (outside / "f", f"../{outside.name}/f"):
        (context / name).unlink(missing_ok=True)
        (context / name).symlink_to(target)
        with pytest.raises(ContextError, match="a symlink to what") as caught:
            build(store, context, COPY, dockerfile_path=context / "Dockerfile")
        assert "private" not in str(caught.value)
    # What is inside is followed.
    (context / name).unlink()
    (context / name).symlink_to("rules")
    (context / "rules").write_text("*\n!kept\n")
    (context / "kept").touch()
    built = build(store, context, COPY, dockerfile_path=context / "Dockerfile")
    assert names(store, built) == ["kept"]


def test_a_socket_becomes_an_empty_file(
    store: Store, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(context)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("s")
        built = build(store, context, COPY)
        alone = build(store, context, "FROM scratch\nADD s /x\n")
    (found,) = members(store, built)
    assert (found.name, found.isfile(), found.size) == ("s", True, 0)
    assert content(store, alone, "x") == b""


def test_devices_are_written_and_never_read(store: Store, context: Path) -> None:
    try:
        os.mknod(context / "zero", 0o20600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("not root: devices cannot be made")
    with in_time(20):
        built = build(store, context, COPY)
    (found,) = members(store, built)
    assert (found.ischr(), found.devmajor, found.devminor) == (True, 1, 5)


def test_a_sparse_file_larger_than_a_layer(store: Store, context: Path) -> None:
    (context / "small").write_text("")
    build(store, context, "FROM scratch\nCOPY small sparse* /x/\n")
    try:
        with (context / "sparse").open("wb") as out:
            out.truncate((1 << 40) + 1)
    except OSError as problem:
        if problem.errno != errno.EFBIG:
            raise
        pytest.skip("this file system has no files of 1 TiB")
    with in_time(20), pytest.raises(ImgbuildError, match="a layer cannot hold /sparse") as caught:
        build(store, context, "FROM scratch\nCOPY small sparse* /x/\n")
    assert caught.value.span is not None
    with in_time(20), pytest.raises(ImgbuildError, match="a layer cannot hold") as caught:
        build(store, context, "FROM scratch\nCOPY small sparse* /y/\n")
    assert "sparse" in (caught.value.hint or "")


def test_setuid_is_kept(store: Store, context: Path) -> None:
    (context / "su").write_text("")
    (context / "su").chmod(0o6755)
    (context / "tmp").mkdir()
    (context / "tmp").chmod(0o1777)
    found = {m.name: m.mode for m in members(store, build(store, context, COPY))}
    assert found == {"su": 0o6755, "tmp": 0o1777}


# --- archives


def test_members_with_absolute_names_stay_below_the_destination(
    store: Store, context: Path
) -> None:
    (context / "a.tar").write_bytes(archive(member(b"/etc/f", content=b"1"), member(b"//g")))
    assert names(store, build(store, context, ADD)) == ["x", "x/etc", "x/etc/f", "x/g"]


@pytest.mark.parametrize("target", [b"/", b"/../..", b"../../../..", b"..", b"/top", b"l2"])
def test_members_below_a_link_of_the_archive(target: bytes, store: Store, context: Path) -> None:
    data = archive(
        member(b"l2", b"2", link=b"../../.."),
        member(b"l", b"2", link=target),
        member(b"l/f", content=b"1"),
    )
    (context / "a.tar").write_bytes(data)
    found = set(names(store, build(store, context, ADD)))
    # As in a chroot: the destination is the root of what is unpacked there.
    below = {"x/top", "x/top/f"} if target == b"/top" else {"x/f"}
    assert found == {"x", "x/l", "x/l2", *below}


def test_a_loop_of_links_in_an_archive(store: Store, context: Path) -> None:
    data = archive(
        member(b"a", b"2", link=b"b"), member(b"b", b"2", link=b"a"), member(b"a/x", content=b"1")
    )
    (context / "a.tar").write_bytes(data)
    refused(store, context, ADD, "too many levels of symbolic links")


@pytest.mark.parametrize("link", [b"../../../etc/passwd", b"/etc/passwd", b"l/passwd", b"missing"])
def test_hard_links_to_what_the_archive_lacks(link: bytes, store: Store, context: Path) -> None:
    data = archive(member(b"l", b"2", link=b"/etc"), member(b"h", b"1", link=link))
    (context / "a.tar").write_bytes(data)
    refused(store, context, ADD, r"a\.tar|hard link")


def test_devices_and_setuid_of_archives(store: Store, context: Path) -> None:
    data = archive(
        member(b"null", b"3", rdev=(1, 3), mode=0o666),
        member(b"disk", b"4", rdev=(8, 0)),
        member(b"pipe", b"6"),
        member(b"su", mode=0o6755, uid=7),
    )
    (context / "a.tar").write_bytes(data)
    found = {m.name: m for m in members(store, build(store, context, ADD))}
    assert (found["x/null"].ischr(), found["x/null"].devminor) == (True, 3)
    assert (found["x/disk"].isblk(), found["x/disk"].devmajor) == (True, 8)
    assert found["x/pipe"].isfifo()
    assert (found["x/su"].mode, found["x/su"].uid) == (0o6755, 7)


@pytest.mark.parametrize("name", [b".wh.x", b"d/.wh..wh..opq", b".wh."])
def test_whiteouts_in_archives(name: bytes, store: Store, context: Path) -> None:
    (context / "a.tar").write_bytes(archive(member(name)))
    refused(store, context, ADD, r"a\.tar: .*whiteout")


def test_a_member_takes_the_place_of_a_directory_of_the_image(store: Store, context: Path) -> None:
    (context / "root/x/d/sub").mkdir(parents=True)
    data = archive(member(b"d/sub/new"), member(b"d", content=b"a file now"))
    (context / "a.tar").write_bytes(data)
    built = build(store, context, "FROM scratch\nCOPY root /\nADD a.tar /x/\n")
    assert names(store, built) == ["x", "x/d"]


def test_what_aufs_left_in_archives_is_left_out(store: Store, context: Path) -> None:
    (context / "a.tar").write_bytes(archive(member(b".wh..wh.plnk/1"), member(b"f")))
    assert names(store, build(store, context, ADD)) == ["x", "x/f"]


def test_odd_names_in_archives(store: Store, context: Path) -> None:
    (context / "a.tar").write_bytes(archive(*(member(name, content=name) for name in ODD)))
    built = build(store, context, ADD)
    assert {os.fsencode(m.name) for m in members(store, built)} == {
        b"x", *(b"x/" + name for name in ODD)
    }  # fmt: skip
