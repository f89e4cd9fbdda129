"""kill -9 at random moments: the store stays valid, the next build succeeds, nothing keeps running."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import validate
from tests.support.command import environment, imgbuild

pytestmark = [pytest.mark.rootless, pytest.mark.system]

KILLS = 100
BASE = ("--build-context", "base=host://sh,cat,mkdir,rm")
DOCKERFILE = """\
FROM base
RUN mkdir -p /data && for i in 1 2 3 4 5 6 7 8 9; do echo $i > /data/$i; done
COPY . /context/
WORKDIR /work/{number}
RUN rm /data/1 && echo {number} > /data/number
"""


def _processes_about(path: Path) -> list[str]:
    """Return the command lines and mount tables of processes that still name `path`."""
    found = []
    needle = os.fsencode(path)
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            command = (process / "cmdline").read_bytes()
            mounts = (process / "mountinfo").read_bytes()
        except OSError:
            continue
        if needle in command or needle in mounts:
            found.append(f"{process.name}: {command!r}")
    return found


def _wait_for_the_end(path: Path) -> list[str]:
    deadline = time.monotonic() + 5
    while (left := _processes_about(path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _names(store: Path) -> list[str]:
    listed = json.loads(imgbuild("images", "--json", store=store).stdout)
    return [image["name"] for image in listed]


def test_killed_at_random_moments(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    store, context = tmp_path / "store", tmp_path / "context"
    context.mkdir()
    (context / "file").write_bytes(os.urandom(100_000))
    (context / "Dockerfile").write_text(DOCKERFILE.format(number=0))
    start = time.monotonic()
    imgbuild("-t", "survivor", *BASE, context, store=store)
    usual = time.monotonic() - start
    killed = 0
    for number in range(1, KILLS + 1):
        (context / "Dockerfile").write_text(DOCKERFILE.format(number=number))
        (context / "file").write_bytes(os.urandom(100_000))
        fresh = number % 10 == 0
        where = tmp_path / "fresh" if fresh else store
        build = subprocess.Popen(
            [sys.executable, "-m", "imgbuild", "-t", f"victim:{number}", *BASE, str(context)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment({"IMGBUILD_STORE": str(where)}),
        )
        time.sleep(chance.uniform(0, usual * 1.2))
        build.send_signal(signal.SIGKILL)
        killed += build.wait() == -signal.SIGKILL
        assert _wait_for_the_end(tmp_path) == [], f"seed {seed}, kill {number}"
        if number % 10 == 5 or fresh:
            imgbuild("-t", "survivor", *BASE, context, store=where)
            for name in _names(where):
                assert validate.image(where, name) == [], f"seed {seed}, kill {number}"
        if fresh:
            imgbuild("reset", "--yes", store=where)
            shutil.rmtree(where)
    assert killed > KILLS // 3, "the kills came too late to mean anything"
    (context / "Dockerfile").write_text(DOCKERFILE.format(number="last"))
    imgbuild("-t", "survivor", *BASE, context, store=store)
    assert not list((store / "layers/steps").iterdir()), "trees of dead builds were not removed"
    assert not list((store / "tmp/files").iterdir()), "files of dead builds were not removed"
    imgbuild("reset", "--yes", store=store)


def test_a_terminated_build_leaves_nothing_running(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (tmp_path / "Dockerfile").write_text("FROM base\nRUN cat /dev/zero > /dev/null\n")
    build = subprocess.Popen(
        [sys.executable, "-m", "imgbuild", *BASE, str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment({"IMGBUILD_STORE": str(store)}),
    )
    deadline = time.monotonic() + 30
    while not any("cat" in line for line in _processes_about(store)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    build.send_signal(signal.SIGTERM)
    assert build.wait(timeout=10) == 143
    assert _wait_for_the_end(tmp_path) == []
    imgbuild("reset", "--yes", store=store)
