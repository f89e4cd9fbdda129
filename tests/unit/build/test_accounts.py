import io
import os
from pathlib import Path

import pytest

from imgbuild.build.accounts import Accounts
from imgbuild.errors import ImageError
from imgbuild.layer.entry import Entry


class Root:
    """A workspace whose files are those of a directory, which stands for the root."""

    def __init__(self, files: dict[bytes, bytes], folder: Path) -> None:
        self.files = files
        self.folder = folder
        self.asked: list[bytes] = []

    def open(self, path: bytes) -> io.BufferedReader:
        self.asked.append(path)
        if path not in self.files:
            raise ImageError("not there")
        place = self.folder / os.fsdecode(path.replace(b"/", b"-"))
        place.write_bytes(self.files[path])
        return place.open("rb")


@pytest.mark.parametrize(
    ("entry", "again"),
    [
        (Entry(b"etc", "dir"), False),
        (Entry(b"etc/shadow", "file"), False),
        (Entry(b"etc/passwd-", "file"), False),
        (Entry(b"etc/passwd", "file"), True),
        (Entry(b"etc/passwd", "whiteout"), True),
        (Entry(b"etc", "symlink", linkname=b"usr/etc"), True),
        (Entry(b"etc", "whiteout"), True),
        (Entry(b"etc", "opaque"), True),
    ],
)
def test_a_layer_that_touches_the_file_has_it_read_again(
    entry: Entry, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "readlink", lambda _path: b"/etc/passwd")
    root, accounts = Root({b"etc/passwd": b"one"}, tmp_path), Accounts()
    read = accounts.reader(root)  # type: ignore[arg-type]  # it has all that is asked
    assert [read(b"etc/passwd", 10), read(b"etc/passwd", 10)] == [b"one", b"one"]
    assert len(root.asked) == 1
    accounts.note(entry)
    read(b"etc/passwd", 10)
    assert len(root.asked) == 1 + again


def test_what_a_link_leads_to_is_read_each_time(tmp_path: Path) -> None:
    root = Root({b"etc/passwd": b"one"}, tmp_path)
    read = Accounts().reader(root)  # type: ignore[arg-type]  # it has all that is asked
    assert read(b"etc/passwd", 10) == b"one"
    root.files[b"etc/passwd"] = b"two"
    assert read(b"etc/passwd", 10) == b"two"
    assert read(b"etc/group", 10) is None
