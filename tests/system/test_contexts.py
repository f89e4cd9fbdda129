"""Contexts that are no folder, by the command line."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.archives import archive, member
from tests.support.command import environment, imgbuild
from tests.support.git_server import WHEN, GitServer
from tests.support.web import MODIFIED, MODIFIED_SECONDS, FakeWeb

TEXT = b"FROM scratch\nCOPY . /\n"
TAR = archive(
    member(b"Dockerfile", content=TEXT),
    member(b"sub/Other", content=TEXT + b"LABEL which=other\n"),
    member(b"app", content=b"app", mode=0o755, uid=5, mtime=60),
)


@pytest.fixture
def web() -> Iterator[FakeWeb]:
    with FakeWeb() as server:
        yield server


def build(
    folder: Path, *flags: str | Path, stdin: bytes | None = None, status: int = 0
) -> tuple[list[str], str]:
    """Build, and return the names in the layers and what was printed."""
    layout = folder / "layout"
    shutil.rmtree(layout, ignore_errors=True)
    done = imgbuild(
        "build", "-t", "it", "--progress=plain", "-o", f"type=oci,tar=false,dest={layout}", *flags,
        store=folder / "store", cwd=folder, stdin=stdin, check=False,
    )  # fmt: skip
    output = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == status, output
    assert os.listdir(folder / "store/tmp/files") == []
    return ([] if status else _names(layout)), output


def _names(layout: Path) -> list[str]:
    found: list[str] = []
    for layer in _document(layout, _manifest(layout)["digest"])["layers"]:
        path = layout / "blobs" / layer["digest"].replace(":", "/")
        with tarfile.open(path) as tar:
            found += tar.getnames()
    return found


def _manifest(layout: Path) -> dict[str, str]:
    entries: list[dict[str, str]] = json.loads((layout / "index.json").read_text())["manifests"]
    return entries[0]


def _document(layout: Path, digest: str) -> dict[str, list[dict[str, str]]]:
    path = layout / "blobs" / digest.replace(":", "/")
    found: dict[str, list[dict[str, str]]] = json.loads(path.read_text())
    return found


def inspect(folder: Path) -> dict[str, dict[str, object]]:
    done = imgbuild("inspect", "it", store=folder / "store")
    found: dict[str, dict[str, object]] = json.loads(done.stdout)["config"]
    return found


def test_a_tar_on_standard_input(tmp_path: Path) -> None:
    names, output = build(tmp_path, "-", stdin=TAR)
    assert names == ["Dockerfile", "app", "sub", "sub/Other"]
    assert "DONE" in output
    names, output = build(tmp_path, "-", stdin=gzip.compress(TAR))
    assert "CACHED" in output
    build(tmp_path, "-f", "sub/Other", "-", stdin=TAR)
    assert inspect(tmp_path)["config"]["Labels"] == {"which": "other"}


def test_a_dockerfile_on_standard_input(tmp_path: Path) -> None:
    assert build(tmp_path, "-", stdin=b"FROM scratch\nLABEL a=b\n")[0] == []
    _, output = build(tmp_path, "-", stdin=TEXT.replace(b".", b"app"), status=1)
    assert ">>> COPY app /" in output
    assert "the build context, which is empty: standard input is a Dockerfile" in output
    context = tmp_path / "context"
    context.mkdir()
    (context / "x").write_text("x")
    assert build(tmp_path, "-f", "-", context, stdin=TEXT)[0] == ["x"]
    (context / ".dockerignore").write_text("x\n")
    assert build(tmp_path, "-f", "-", context, stdin=TEXT)[0] == [".dockerignore"]


@pytest.mark.parametrize(
    ("flags", "stdin", "status", "words"),
    [
        (["-f", "-", "-"], TAR, 2, "can't use stdin for both build context and dockerfile"),
        (["-f", "x", "-"], TEXT, 2, "ambiguous Dockerfile source"),
        (["-f", "x", "-"], TAR, 1, "there is no x in standard input"),
        (["-"], b"", 1, "standard input is empty"),
        (["-"], bytes(1 << 20), 1, "nothing but zeros"),
        (["-"], TAR[:2000], 1, "the archive is truncated"),
        (["-"], gzip.compress(TAR)[:-20], 1, "it is truncated"),
        (["-"], gzip.compress(TEXT), 1, "no tar"),
        (["-"], archive(member(b"../x")), 1, "leads out of it"),
    ],
    ids=["twice", "with -f", "lacks it", "empty", "zeros", "cut", "cut gzip", "text", "hostile"],
)
def test_what_standard_input_cannot_be(
    flags: list[str], stdin: bytes, status: int, words: str, tmp_path: Path
) -> None:
    _, output = build(tmp_path, *flags, stdin=stdin, status=status)
    assert words in output
    assert "hint: " in output


def test_other_commands_take_the_same_contexts(tmp_path: Path) -> None:
    for arguments, words in (
        (["check", "-"], b"no warnings"),
        (["plan", "-"], b"from context: ."),
        (["build", "--call=targets", "-"], b"(default)"),
    ):
        done = imgbuild(*arguments, store=tmp_path / "store", stdin=gzip.compress(TAR))
        assert words in done.stdout.replace(b"from the context", b"from context")


def test_a_url(tmp_path: Path, web: FakeWeb) -> None:
    url = web.put("/context.tar.gz", gzip.compress(TAR), Last_Modified=MODIFIED)
    names, _ = build(tmp_path, "--build-arg", "SOURCE_DATE_EPOCH=context", url)
    assert names == ["Dockerfile", "app", "sub", "sub/Other"]
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(MODIFIED_SECONDS))
    assert str(inspect(tmp_path)["created"]) == created
    dockerfile = web.put("/Dockerfile", TEXT)
    assert build(tmp_path, dockerfile)[0] == ["context"]
    assert build(tmp_path, "-f", dockerfile, "-", stdin=TAR)[0] == names
    _, output = build(tmp_path, f"{web.url}/absent", status=3)
    assert "404" in output


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_repository(tmp_path: Path) -> None:
    with GitServer(tmp_path / "served") as server:
        files = {"Dockerfile": TEXT.decode(), "sub/Dockerfile": TEXT.decode(), "sub/x": "x"}
        server.repository("app").commit(files)
        address = server.address("app")
        names, _ = build(tmp_path, "--build-arg", "SOURCE_DATE_EPOCH=context", address)
        assert names == ["Dockerfile", "sub", "sub/Dockerfile", "sub/x"]
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(WHEN))
        assert str(inspect(tmp_path)["created"]) == created
        assert build(tmp_path, f"{address}#main:sub")[0] == ["Dockerfile", "x"]
        kept, _ = build(tmp_path, "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", address)
        assert ".git/HEAD" in kept
        text = b"FROM app\nCOPY --from=app sub/x /y\n"
        flags = ("--build-context", f"app={address}", "-")
        assert build(tmp_path, *flags, stdin=text)[0] == [*names, "y"]
        _, output = build(tmp_path, f"{address}#nope", status=1)
        assert "repository does not contain ref nope" in output


def test_a_build_that_is_killed_while_it_reads_leaves_nothing(tmp_path: Path) -> None:
    noise = archive(member(b"Dockerfile", content=TEXT), member(b"x", content=os.urandom(4 << 20)))
    build_ = subprocess.Popen(
        [sys.executable, "-m", "imgbuild", "-"],
        stdin=subprocess.PIPE,
        env=environment({"IMGBUILD_STORE": str(tmp_path / "store")}),
        cwd=tmp_path,
    )
    assert build_.stdin is not None
    build_.stdin.write(noise[:-100_000])
    build_.stdin.flush()
    time.sleep(0.5)
    assert build_.poll() is None, "it waits for the rest"
    build_.kill()
    build_.wait()
    build_.stdin.close()
    assert os.listdir(tmp_path) == ["store"]
    assert os.listdir(tmp_path / "store/tmp/files") == []


def test_memory_stays_flat(tmp_path: Path) -> None:
    script = (
        "import sys, imgbuild\n"
        "imgbuild.build(sys.stdin.buffer, store=sys.argv[1])\n"
        "with open('/proc/self/status') as status:\n"
        "    print(status.read().partition('VmHWM:')[2].split()[0])\n"
    )
    size = 300 << 20
    head = tarfile.TarInfo("big")
    head.size = size
    running = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "store")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert running.stdin is not None
    running.stdin.write(member(b"Dockerfile", content=TEXT) + head.tobuf())
    for _ in range(size >> 20):
        running.stdin.write(bytes(1 << 20))
    out, _ = running.communicate(bytes(1024))
    assert running.returncode == 0
    assert int(out) < 120 << 10, "KiB"
