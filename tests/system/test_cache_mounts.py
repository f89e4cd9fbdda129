"""Builds at the same time that share a store and a cache mount: none loses what another one wrote."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.support.command import imgbuild

pytestmark = pytest.mark.rootless
BUILDS = 10
# Reads, waits and writes: without a lock, builds would overwrite each other's numbers.
COUNT = "n=$(cat /c/count 2>/dev/null || echo 0); sleep 0.05; echo $((n + 1)) > /c/count"
TEXT = """\
FROM base
ARG N
RUN --mount=type=cache,target=/c,sharing={sharing} {command}
RUN --mount=type=cache,id=/c,target=/c,sharing={sharing} {command} && echo $N > /result
"""
BASE = ("--build-context", "base=host://sh,cat,sleep,ls,touch")


def start(folder: Path, store: Path, number: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "imgbuild", "build", "--progress=plain", "--store", str(store)]
    output = folder / f"image{number}.tar"
    command += [*BASE, "--build-arg", f"N={number}", "--output", f"type=oci,dest={output}"]
    command += ["--iidfile", str(folder / f"id{number}"), "--timestamp", "0", str(folder)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def count(store: Path, folder: Path) -> str:
    (folder / "shown").mkdir(exist_ok=True)
    (folder / "shown/Dockerfile").write_text(
        "FROM base\nRUN --mount=type=cache,id=/c,target=/c cat /c/count > /count && cat /count\n"
    )
    done = imgbuild(
        "build", "--progress=plain", "--no-cache", *BASE, "shown", cwd=folder, store=store
    )
    return done.stderr.decode()


def test_a_locked_cache_loses_nothing_among_many_builds(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(TEXT.format(sharing="locked", command=COUNT))
    store = tmp_path / "store"
    running = [start(tmp_path, store, number) for number in range(BUILDS)]
    for process in running:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
    serial = tmp_path / "serial"
    serial.mkdir()
    (serial / "Dockerfile").write_text((tmp_path / "Dockerfile").read_text())
    for number in range(BUILDS):
        process = start(serial, serial / "store", number)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
        assert (serial / f"id{number}").read_text() == (tmp_path / f"id{number}").read_text()
    exported = tmp_path / "count.tar"
    for place in (store, serial / "store"):
        imgbuild("cache", "mount", "export", "/c", str(exported), store=place)
        shown = subprocess.run(["tar", "xOf", exported, "count"], check=True, capture_output=True)
        assert int(shown.stdout) == 2 * BUILDS


def test_who_waits_tells_for_whom_and_a_killed_holder_lets_go(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        TEXT.format(sharing="locked", command="touch /c/begun; test $N = 2 || sleep 1000")
    )
    store = tmp_path / "store"
    with start(tmp_path, store, 1) as holder:
        deadline = time.monotonic() + 60
        while not list(store.glob("mounts/*/*/*/begun")) and time.monotonic() < deadline:
            time.sleep(0.05)
        with start(tmp_path, store, 2) as waiting:
            assert waiting.stderr is not None
            said = b""
            while b"waiting for the cache mount /c" not in said:
                line = waiting.stderr.readline()
                assert line, said.decode()
                said += line
            assert f"process {holder.pid} has it".encode() in said
            busy = imgbuild("cache", "mount", "rm", "/c", store=store, check=False)
            assert busy.returncode == 4
            assert f"is in use by process {holder.pid}".encode() in busy.stderr
            holder.send_signal(signal.SIGKILL)
            rest = waiting.stderr.read()
            assert waiting.wait(60) == 0, rest.decode()


def test_private_caches_are_for_one_at_a_time(tmp_path: Path) -> None:
    command = "test ! -e /c/busy && touch /c/busy && sleep 1 && rm /c/busy"
    base = ("--build-context", "base=host://sh,cat,sleep,ls,touch,rm")
    (tmp_path / "Dockerfile").write_text(
        f"FROM base\nARG N\nRUN --mount=type=cache,target=/c,sharing=private {command}\n"
    )
    arguments = [
        sys.executable,
        "-m",
        "imgbuild",
        "build",
        "--store",
        str(tmp_path / "store"),
        *base,
    ]
    running = [
        subprocess.Popen(
            [*arguments, "--build-arg", f"N={number}", str(tmp_path)], stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for number in range(4)
    ]  # fmt: skip
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()
    listed = imgbuild("cache", "mount", "ls", "--json", store=tmp_path / "store")
    (one,) = json.loads(listed.stdout)
    assert (one["id"], one["in_use"]) == ("/c", False)


def test_a_hostile_archive_cannot_leave_its_cache(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for number, names in enumerate((["../up"], ["link", "link/f"], [f"{outside}/f"])):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                if name == "link":
                    member.type, member.linkname = tarfile.SYMTYPE, str(outside)
                archive.addfile(member, io.BytesIO())
        store = tmp_path / f"store{number}"
        imgbuild(
            "cache", "mount", "import", "x", "-", stdin=buffer.getvalue(), store=store, check=False
        )
        assert not list(outside.iterdir())
        left = [path for path in store.rglob("*") if path.name in {"up", "f"}]
        assert all("mounts" in path.parts for path in left)
    refused = imgbuild(
        "cache", "mount", "import", "y", "-", stdin=b"no tar" * 200, store=store, check=False
    )
    assert refused.returncode == 1
    assert imgbuild("cache", "mount", "ls", "--json", store=store).stdout.count(b'"y"') == 0
    assert imgbuild("cache", "mount", "export", "y", "-", store=store, check=False).returncode == 4
    assert imgbuild("cache", "mount", "rm", store=store, check=False).returncode == 2
