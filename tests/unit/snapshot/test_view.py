"""Look-ups over layer indexes."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from imgbuild.errors import DiskFullError, ImageError, StoreError
from imgbuild.layer.entry import Entry
from imgbuild.snapshot.view import LayerFiles, RootView


class FakeLayer:
    """Entries over a made-up tar: contents one after the other, with a gap before each."""

    def __init__(self, *entries: Entry, contents: dict[bytes, bytes] | None = None) -> None:
        self.raw = b""
        self.opened = 0
        self.read_indexes = 0
        placed = []
        for entry in entries:
            content = (contents or {}).get(entry.path)
            if content is None:
                placed.append(entry)
                continue
            self.raw += b"#" * 512
            placed.append(file(entry.path, offset=len(self.raw), size=len(content)))
            self.raw += content
        self.placed: Sequence[Entry] = placed

    def files(self) -> LayerFiles:
        return LayerFiles(self._entries, self._open)

    def _entries(self) -> Sequence[Entry]:
        self.read_indexes += 1
        return self.placed

    def _open(self) -> BinaryIO:
        self.opened += 1
        return io.BytesIO(self.raw)


def file(path: bytes, offset: int = 0, size: int = 0, mode: int = 0o644) -> Entry:
    return Entry(path, "file", mode, offset=offset, size=size)


def directory(path: bytes, mode: int = 0o755) -> Entry:
    return Entry(path, "dir", mode)


def symlink(path: bytes, target: bytes) -> Entry:
    return Entry(path, "symlink", 0o777, linkname=target)


def hardlink(path: bytes, target: bytes) -> Entry:
    return Entry(path, "hardlink", linkname=target)


def whiteout(path: bytes) -> Entry:
    return Entry(path, "whiteout")


def view(*layers: Sequence[Entry]) -> RootView:
    return RootView([FakeLayer(*entries).files() for entries in layers])


def test_nothing_is_read_before_the_first_look_up() -> None:
    layer = FakeLayer(file(b"a"))
    root = RootView([layer.files()])
    assert layer.read_indexes == 0
    root.lstat(b"a")
    root.listdir(b"")
    assert layer.read_indexes == 1
    assert layer.opened == 0


def test_the_root_exists_without_any_layer() -> None:
    root = view()
    entry = root.lstat(b"")
    assert entry is not None
    assert (entry.type, entry.mode, entry.uid, entry.gid) == ("dir", 0o755, 0, 0)
    assert root.listdir(b"") == []
    assert root.lstat(b"etc") is None


def test_a_root_entry_of_a_layer_counts() -> None:
    root = view([Entry(b"", "dir", 0o700), file(b"a")])
    entry = root.lstat(b"")
    assert entry is not None
    assert entry.mode == 0o700
    assert root.listdir(b"") == [b"a"]


def test_upper_layers_win_and_directories_merge() -> None:
    root = view(
        [directory(b"d"), file(b"d/low"), file(b"d/both", mode=0o600)],
        [directory(b"d", 0o700), file(b"d/both"), file(b"d/top")],
    )
    assert root.listdir(b"d") == [b"both", b"low", b"top"]
    both, merged = root.lstat(b"d/both"), root.lstat(b"d")
    assert both is not None
    assert both.mode == 0o644
    assert merged is not None
    assert merged.mode == 0o700


def test_a_whiteout_hides_a_tree_of_lower_layers() -> None:
    root = view([directory(b"d"), file(b"d/a"), file(b"x")], [whiteout(b"d")])
    assert root.lstat(b"d") is None
    assert root.lstat(b"d/a") is None
    assert root.listdir(b"") == [b"x"]
    assert root.listdir(b"d") == []


def test_a_whiteout_does_not_hide_what_its_own_layer_brings() -> None:
    root = view(
        [directory(b"d"), file(b"d/old")],
        [whiteout(b"d"), directory(b"d"), file(b"d/new")],
    )
    assert root.listdir(b"d") == [b"new"]
    assert root.lstat(b"d/old") is None
    assert root.lstat(b"d/new") is not None


def test_an_opaque_marker_empties_a_directory_of_lower_layers() -> None:
    root = view(
        [directory(b"d"), directory(b"d/sub"), file(b"d/sub/a")],
        [directory(b"d"), Entry(b"d", "opaque"), file(b"d/new")],
        [file(b"d/top")],
    )
    assert root.listdir(b"d") == [b"new", b"top"]
    assert root.lstat(b"d/sub/a") is None


def test_a_file_over_a_directory_hides_it_for_good() -> None:
    root = view(
        [directory(b"d"), file(b"d/a")],
        [file(b"d")],
        [directory(b"d"), file(b"d/b")],
    )
    assert root.listdir(b"d") == [b"b"]
    assert root.lstat(b"d/a") is None


def test_a_directory_that_a_tar_left_out_is_there() -> None:
    root = view([file(b"usr/lib/x")])
    entry = root.lstat(b"usr/lib")
    assert entry is not None
    assert (entry.type, entry.mode) == ("dir", 0o755)
    assert root.listdir(b"usr") == [b"lib"]


def test_a_directory_that_a_tar_left_out_looks_as_it_does_below() -> None:
    base = [directory(b"tmp", 0o1777), file(b"f"), symlink(b"l", b"tmp"), directory(b"gone", 0o700)]
    root = view(
        base,
        [file(b"tmp/a"), file(b"f/x"), file(b"l/x"), whiteout(b"gone"), file(b"gone/x")],
        [file(b"tmp/b")],
    )
    modes = {}
    for path in (b"tmp", b"f", b"l", b"gone"):
        entry = root.lstat(path)
        assert entry is not None
        modes[path] = (entry.type, entry.mode)
    plain = ("dir", 0o755)
    assert modes == {b"tmp": ("dir", 0o1777), b"f": plain, b"l": plain, b"gone": plain}
    assert root.listdir(b"tmp") == [b"a", b"b"]


def test_entries_behind_a_link_of_their_own_layer_are_where_it_leads() -> None:
    layer = FakeLayer(
        symlink(b"lib", b"/usr/lib"),
        file(b"lib/x"),
        hardlink(b"y", b"lib/x"),
        contents={b"lib/x": b"content"},
    )
    root = RootView([layer.files()])
    assert root.readlink(b"lib") == b"/usr/lib"
    assert root.resolve(b"lib/x") == b"usr/lib/x"
    assert root.lstat(b"lib/x") is None
    assert root.open(b"usr/lib/x").read() == b"content"
    assert root.open(b"y").read() == b"content"
    root.close()


def test_a_later_entry_of_the_same_tar_replaces_a_directory() -> None:
    root = view([directory(b"d"), file(b"d/a"), file(b"d")])
    assert root.lstat(b"d/a") is None
    assert root.listdir(b"") == [b"d"]


def test_replacing_directories_over_and_over_costs_what_is_replaced() -> None:
    entries = [Entry(b"x/%d" % number, "file") for number in range(20_000)]
    for number in range(5_000):
        name = b"x/%d" % (number % 7)
        entries += [directory(name), file(name + b"/in/side"), file(name)]
    entries += [directory(b"x/3"), file(b"x/3/a/b"), Entry(b"y", "dir"), Entry(b"y/z", "symlink")]
    began = time.process_time()
    found = view([*entries, Entry(b"y", "file")])
    assert len(found.listdir(b"x")) == 20_000
    assert found.listdir(b"x/3") == [b"a"]
    assert found.listdir(b"x/3/a") == [b"b"]
    assert found.lstat(b"x/2/in") is None
    assert found.lstat(b"y/z") is None
    # Looking at all there is each time takes half a minute.
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"bin/sh", b"usr/bin/dash"),
        (b"/bin/./sh/", b"usr/bin/dash"),
        (b"abs/x", b"usr/bin/x"),
        (b"up/x", b"usr/x"),
        (b"../../etc/passwd", b"etc/passwd"),
        (b"bin/missing/../y", b"usr/bin/y"),
        (b"no/such/place", b"no/such/place"),
        (b"dangling", b"nowhere/at/all"),
        (b"", b""),
    ],
)
def test_resolve(path: bytes, expected: bytes) -> None:
    root = view(
        [
            symlink(b"abs", b"/usr/bin"),
            symlink(b"bin", b"usr/bin"),
            symlink(b"dangling", b"/nowhere/at/all"),
            directory(b"usr"),
            directory(b"usr/bin"),
            symlink(b"usr/bin/sh", b"dash"),
            file(b"usr/bin/dash"),
            symlink(b"up", b"../../../../usr"),
        ]
    )
    assert root.resolve(path) == expected


def test_resolve_can_leave_the_last_link_alone() -> None:
    root = view([symlink(b"bin", b"usr/bin"), symlink(b"usr/bin/sh", b"dash")])
    assert root.resolve(b"bin/sh", follow_last=False) == b"usr/bin/sh"
    assert root.resolve(b"bin", follow_last=False) == b"bin"


def test_circular_links_are_an_error() -> None:
    root = view([symlink(b"a", b"b"), symlink(b"b", b"a")])
    with pytest.raises(ImageError, match="too many levels of symbolic links"):
        root.resolve(b"a/x")


def test_contents_in_order_need_one_pass_and_out_of_order_two(tmp_path: Path) -> None:
    contents = {b"a": b"first", b"b": b"", b"c": b"third" * 1000}
    layer = FakeLayer(*(file(path) for path in contents), contents=contents)
    root = RootView([layer.files()], tmp_path)
    for path, content in contents.items():
        assert root.open(path).read() == content
    assert layer.opened == 1
    for path in (b"a", b"c", b"b", b"a"):
        assert root.open(path).read() == contents[path]
    assert layer.opened == 2
    assert list(tmp_path.iterdir()) == []
    root.close()


def read_out_of_order(scratch: Path) -> None:
    contents = {b"a": b"first", b"c": b"third" * 1000}
    layer = FakeLayer(*(file(path) for path in contents), contents=contents)
    with RootView([layer.files()], scratch) as root:
        for path in (b"c", b"a", b"c"):
            root.open(path).read()


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        monkeypatch.context() as patch,
        open("/dev/full", "r+b", buffering=0) as full,
        pytest.raises(DiskFullError) as caught,
    ):
        # What cannot be sought is no matter: a spill starts empty.
        patch.setattr("imgbuild.snapshot.content._nameless", lambda _folder: full)
        read_out_of_order(tmp_path)
    assert caught.value.hint
    with pytest.raises(StoreError, match="cannot keep"):
        read_out_of_order(tmp_path / "absent")


def test_two_files_can_be_read_side_by_side(tmp_path: Path) -> None:
    contents = {b"a": bytes(range(256)) * 10, b"b": b"b" * 3000}
    layer = FakeLayer(file(b"a"), file(b"b"), contents=contents)
    root = RootView([layer.files()], tmp_path)
    one, two = root.open(b"a"), root.open(b"b")
    read = [b"", b""]
    for _ in range(30):
        read[0] += one.read(100)
        read[1] += two.read(101)
    assert read[0] == contents[b"a"]
    assert read[1] == contents[b"b"]
    root.close()


def test_a_layer_shorter_than_its_index_is_an_error() -> None:
    layer = FakeLayer(file(b"a", offset=512, size=10))
    layer.raw = b"x" * 515
    with pytest.raises(ImageError, match="layer ends within a file"):
        RootView([layer.files()]).open(b"a").read()
    layer.raw = b"x" * 100
    with pytest.raises(ImageError, match="layer ends before a file"):
        RootView([layer.files()]).open(b"a").read()


def test_open_refuses_what_is_no_file() -> None:
    root = view([directory(b"d"), symlink(b"l", b"d")])
    for path in (b"d", b"l", b"missing"):
        with pytest.raises(ImageError, match="not a regular file"):
            root.open(path)


def test_a_hard_link_is_its_target_under_another_name() -> None:
    low = FakeLayer(file(b"a"), hardlink(b"b", b"a"), contents={b"a": b"low"})
    top = FakeLayer(hardlink(b"c", b"b"), file(b"z"), contents={b"z": b"low"})
    root = RootView([low.files(), top.files()])
    for name in (b"b", b"c"):
        entry = root.lstat(name)
        assert entry is not None
        assert (entry.path, entry.type, entry.size) == (name, "file", 3)
        assert root.open(name).read() == b"low"
    assert root.inode(b"a") == root.inode(b"b") == root.inode(b"c") != root.inode(b"z")
    root.close()


def test_a_hard_link_keeps_its_target_when_an_upper_layer_replaces_that() -> None:
    low = FakeLayer(file(b"a"), hardlink(b"b", b"a"), contents={b"a": b"low"})
    top = FakeLayer(file(b"a"), contents={b"a": b"new content"})
    root = RootView([low.files(), top.files()])
    assert root.open(b"b").read() == b"low"


@pytest.mark.parametrize("target", [b"b", b"missing", b"d"])
def test_a_hard_link_to_no_file_is_an_error(target: bytes) -> None:
    root = view([directory(b"d"), hardlink(b"b", target)])
    with pytest.raises(ImageError, match="hard link /b"):
        root.lstat(b"b")


def test_readlink() -> None:
    root = view([symlink(b"l", b"some\xff/where"), file(b"f")])
    assert root.readlink(b"l") == b"some\xff/where"
    with pytest.raises(ImageError, match="not a symbolic link"):
        root.readlink(b"f")


def test_walk_is_ordered_by_components_and_skips_what_is_gone() -> None:
    root = view(
        [directory(b"a"), file(b"a/x"), file(b"a.b"), directory(b"a/sub"), file(b"a/sub/y")],
        [whiteout(b"a/x"), file(b"a/sub-z")],
    )
    assert [path for path, _ in root.walk(b"")] == [
        b"a",
        b"a/sub",
        b"a/sub/y",
        b"a/sub-z",
        b"a.b",
    ]
    assert [path for path, _ in root.walk(b"a")] == [b"a/sub", b"a/sub/y", b"a/sub-z"]


def test_a_nearly_full_disk_loses_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reluctant(io.FileIO):
        def write(self, data: Any, /) -> int:
            return super().write(memoryview(data)[:7])

    monkeypatch.setattr(
        "imgbuild.snapshot.content._nameless", lambda folder: Reluctant(folder / "spill", "w+b")
    )
    contents = {b"a": b"first", b"c": b"third" * 1000}
    layer = FakeLayer(*(file(path) for path in contents), contents=contents)
    with RootView([layer.files()], tmp_path) as root:
        for path in (b"c", b"a", b"c"):
            assert root.open(path).read() == contents[path]
