"""However large a layer, no process of a build holds it in memory."""

import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.support.command import environment, imgbuild

pytestmark = [pytest.mark.rootless, pytest.mark.system]

LIMIT_KIB = 150 * 1024
SIZE = 2 << 30
BASE = ("--build-context", "base=host://sh,cat,dd,truncate")


def _descendants(root: int) -> set[int]:
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text()
        except OSError:
            continue
        parents[int(process.name)] = int(stat.rpartition(")")[2].split()[1])
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _peak(pid: int) -> int:
    """Return the largest resident set of `pid` so far, in KiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def measured(store: Path, *arguments: str, stdin: Path = Path("/dev/null")) -> dict[int, int]:
    """Run a build; return the largest resident set of each of its processes, in KiB."""
    with stdin.open("rb") as stream:
        return _measured(store, arguments, stream)


def _measured(store: Path, arguments: Sequence[str], stdin: BinaryIO) -> dict[int, int]:
    build = subprocess.Popen(
        [sys.executable, "-m", "imgbuild", "--progress=plain", *arguments],
        env=environment({"IMGBUILD_STORE": str(store)}),
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peaks: dict[int, int] = {}
    while build.poll() is None:
        for pid in _descendants(build.pid):
            peaks[pid] = max(peaks.get(pid, 0), _peak(pid))
        time.sleep(0.02)
    assert build.stderr is not None
    text = build.stderr.read().decode()
    build.stderr.close()
    assert build.returncode == 0, text
    return peaks


@pytest.mark.parametrize(
    "instruction",
    [
        "COPY big /big",
        f"RUN truncate -s {SIZE} /big && dd if=/dev/urandom of=/big bs=1M count=64 conv=notrunc",
    ],
    ids=["copy", "run"],
)
def test_two_gigabytes_in_a_layer(tmp_path: Path, instruction: str) -> None:
    store = tmp_path / "store"
    (tmp_path / "Dockerfile").write_text(f"FROM base\n{instruction}\nRUN cat /big > /dev/null\n")
    with (tmp_path / "big").open("wb") as big:
        big.write(os.urandom(64 << 20))
        big.truncate(SIZE)
    peaks = measured(store, *BASE, str(tmp_path))
    assert len(peaks) > 2, "the worker was never seen"
    assert max(peaks.values()) < LIMIT_KIB, peaks
    imgbuild("reset", "--yes", store=store)


def test_ten_gigabytes_of_a_sparse_file(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY big /big\n")
    with (tmp_path / "big").open("wb") as big:
        big.truncate(10 << 30)
    peaks = measured(tmp_path / "store", str(tmp_path))
    assert max(peaks.values()) < LIMIT_KIB, peaks


def test_half_a_million_files(tmp_path: Path) -> None:
    for number in range(500):
        folder = tmp_path / f"context/src/directory-{number:03}"
        folder.mkdir(parents=True)
        at = os.open(folder, os.O_RDONLY)
        for name in range(1000):
            os.mknod(f"file-{name:03}.js", dir_fd=at)
        os.close(at)
    # The second and third look into the index of the first layer, the last reads all of it.
    (tmp_path / "context/Dockerfile").write_text(
        "FROM scratch AS one\nCOPY src /src\nCOPY Dockerfile /src/directory-250/\n"
        "WORKDIR /src/directory-499/new\nFROM scratch\nCOPY --from=one /src /dest\n"
    )
    peaks = measured(tmp_path / "store", str(tmp_path / "context"))
    assert max(peaks.values()) < LIMIT_KIB, peaks
    again = measured(tmp_path / "store", str(tmp_path / "context"))
    assert max(again.values()) < LIMIT_KIB, again


def test_half_a_million_files_in_archives(tmp_path: Path) -> None:
    archive = tmp_path / "context.tar"
    with tarfile.open(archive, "w") as out:
        add = tmp_path / "Dockerfile"
        add.write_text("FROM scratch\nCOPY src /src\n")
        out.add(add, "Dockerfile")
        # Not in the order of their names, as directories list their files.
        header = tarfile.TarInfo("name")
        for number in range(500_000):
            header.name = f"src/{number % 500:03}/{number * 7919 % 500_009:06}.js"
            out.addfile(header)
    peaks = measured(tmp_path / "store", "-", stdin=archive)
    assert max(peaks.values()) < LIMIT_KIB, peaks
    add.write_text("FROM scratch\nADD context.tar /\n")
    peaks = measured(tmp_path / "store", str(tmp_path))
    assert max(peaks.values()) < LIMIT_KIB, peaks
