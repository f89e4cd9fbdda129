"""However large a layer, no process of a build holds it in memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

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
    build = subprocess.Popen(
        [sys.executable, "-m", "imgbuild", "--progress=plain", *BASE, str(tmp_path)],
        env=environment({"IMGBUILD_STORE": str(store)}),
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
    assert len(peaks) > 2, "the worker was never seen"
    assert max(peaks.values()) < LIMIT_KIB, peaks
    imgbuild("reset", "--yes", store=store)
