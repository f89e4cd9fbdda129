"""Copies of what stacked layers show."""

import os
from pathlib import Path

import pytest

from imgbuild.snapshot.gather import gather


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("upper", "lower")]
    for layer in made:
        (layer / "d").mkdir(parents=True)
        (layer / "d" / layer.name).write_text(layer.name)
    (made[1] / "l").symlink_to("/../d")
    (made[1] / "loop").symlink_to("loop")
    (made[1] / "out").symlink_to("../../../etc")
    return made


def copy(layers: list[Path], path: str, target: Path) -> Path:
    fds = [os.open(layer, os.O_RDONLY) for layer in layers]
    before = len(os.listdir("/proc/self/fd"))
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        gather(fds, os.fsencode(path), folder, os.fsencode(target.name))
    finally:
        os.close(folder)
        assert len(os.listdir("/proc/self/fd")) == before
        for fd in fds:
            os.close(fd)
    return target


@pytest.mark.parametrize("path", ["d", "/d/", "l", "l/../d/."])
def test_directories_are_merged_and_links_followed(
    layers: list[Path], tmp_path: Path, path: str
) -> None:
    os.utime(layers[0] / "d", (5, 5))
    copied = copy(layers, path, tmp_path / "copy")
    assert sorted(os.listdir(copied)) == ["lower", "upper"]
    assert copied.stat().st_mtime == 5


def test_everything(layers: list[Path], tmp_path: Path) -> None:
    copied = copy(layers, "", tmp_path / "copy")
    assert sorted(os.listdir(copied)) == ["d", "l", "loop", "out"]
    assert os.readlink(copied / "out") == "../../../etc"


def test_a_file(layers: list[Path], tmp_path: Path) -> None:
    (layers[0] / "d/upper").chmod(0o4750)
    copied = copy(layers, "l/upper", tmp_path / "copy")
    assert (copied.read_text(), copied.stat().st_mode & 0o7777) == ("upper", 0o4750)


@pytest.mark.parametrize("path", ["missing", "d/missing/x", "loop", "out/passwd"])
def test_nothing_to_copy(layers: list[Path], tmp_path: Path, path: str) -> None:
    with pytest.raises(OSError):
        copy(layers, path, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
