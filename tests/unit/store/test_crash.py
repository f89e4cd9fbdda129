"""kill -9 at every point where a writer talks to the kernel: what was promised before has to be there."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from imgbuild.errors import NameNotFoundError
from imgbuild.oci import media_types
from imgbuild.store.store import Store
from imgbuild.transfer import copy_image
from tests.support import validate
from tests.support.command import PROJECT, environment
from tests.support.memory import MemoryStore, add_image

# The calls that change the disk. Each is a point to die before; dying halfway through a write too.
CALLS = ("open", "write", "fsync", "rename", "unlink", "mkdir", "ftruncate", "pwrite")


def write_images(root: Path, promised: int) -> None:
    """Make a few images with steps; after each, tell `promised` that it is named."""
    with Store.open(root) as store, store.build_lock():
        for number in range(4):
            source = MemoryStore()
            image = add_image(source, (b"shared", b"%d" % number))
            copy_image(source, store.blobs, image, jobs=2)
            with store.blobs.index_writer() as out:
                out.write(b"entries")
                out.commit(image.digest)
            store.cache.set_memo(f"step-{number}", image.digest)
            store.names.tag(f"docker.io/library/app{number}:latest", image)
            if number == 3:
                with suppress(NameNotFoundError):
                    store.names.untag("docker.io/library/app0:latest")
            OS["pwrite"](promised, b"%d" % number, number)


OS = {name: getattr(os, name) for name in (*CALLS, "kill")}


def die_at(count: int) -> None:
    """Kill this process at the `count`-th call that changes the disk, from whatever thread."""
    left = [count]

    def doomed(name: str) -> object:
        def call(*arguments: object, **named: object) -> object:
            left[0] -= 1
            if left[0] <= 0:
                if name == "write":
                    handle, data = arguments
                    OS["write"](handle, bytes(data)[: len(bytes(data)) // 2])  # type: ignore[call-overload]
                OS["kill"](os.getpid(), signal.SIGKILL)
                signal.pause()
            return OS[name](*arguments, **named)

        return call

    for name in CALLS:
        setattr(os, name, doomed(name))


def run_and_die(root: Path, promised: Path, count: int) -> bool:
    """Write images in a child process that dies; tell whether it came to its end instead."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    status = 1
    try:
        handle = OS["open"](promised, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        die_at(count)
        write_images(root, handle)
        status = 0
    finally:
        os._exit(status)


def check(root: Path, promised: str) -> None:
    with Store.open(root) as store:
        names = set(store.names.list())
        for number in promised:
            assert f"docker.io/library/app{number}:latest" in names or number == "0"
            assert store.cache.memo(f"step-{number}") is not None
        assert os.listdir(store.paths.staging) == []
        assert os.listdir(store.paths.sessions) == []
        with store.exclusive_lock():
            pass
    assert validate.layout(root) == []
    for index in (root / "indexes/sha256").iterdir():
        assert index.read_bytes() == b"entries"


def test_a_writer_killed_at_every_call(tmp_path: Path) -> None:
    count, finished = 0, False
    while not finished:
        count += 1
        root, promised = tmp_path / f"store{count}", tmp_path / f"promised{count}"
        finished = run_and_die(root, promised, count)
        check(root, promised.read_text())
        # What is left can be used: another one dies in it, a little later, and so on.
        if count % 10 == 0:
            run_and_die(root, promised, count)
            check(root, promised.read_text())
    assert count > 70


@pytest.mark.parametrize("seed", range(3))
def test_writers_killed_at_random_while_others_go_on(tmp_path: Path, seed: int) -> None:
    import random
    import time

    chance = random.Random(seed)
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.unit.store.test_crash import write_images\n"
        f"write_images(Path({str(tmp_path / 'store')!r}), sys.stdout.fileno())\n"
    )

    def start(number: int) -> "subprocess.Popen[bytes]":
        with (tmp_path / f"out{number}").open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-c", code], stdout=out, env=environment(), cwd=PROJECT
            )

    for number in range(6):
        running = [start(number), start(number + 100)]
        time.sleep(chance.uniform(0.1, 0.5))
        running[0].kill()
        assert [process.wait(60) for process in running][1] == 0
        check(tmp_path / "store", (tmp_path / f"out{number}").read_text())
        check(tmp_path / "store", "123")


def test_a_process_that_just_ends_leaves_a_valid_store(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        store = Store.open(tmp_path / "store")
        for number in range(50):
            store.blobs.add(media_types.OCI_CONFIG, b"%d" % number)
        os._exit(0)
    os.waitpid(pid, 0)
    check(tmp_path / "store", "")
