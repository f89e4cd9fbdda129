"""ADD of URLs and the flags that lend secrets, by the command line."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import imgbuild
from tests.support.registry import Handler
from tests.support.web import MODIFIED, FakeWeb

TOKEN = "t0p-s3cret"
BODY = b"behind a token\n"


@pytest.fixture
def web() -> Iterator[FakeWeb]:
    """A server that gives its files to those alone who have the token."""

    def guard(handler: Handler) -> bool:
        if handler.headers.get("Authorization") == f"Bearer {TOKEN}":
            return False
        handler.reply(401, b"who are you?")
        return True

    with FakeWeb() as server:
        server.on("GET", "/private", guard, times=1000)
        server.put("/private/f.txt", BODY, ETag='"1"', Last_Modified=MODIFIED)
        yield server


@pytest.fixture
def project(tmp_path: Path, web: FakeWeb) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        f"FROM scratch\nARG NAME=f.txt\nADD {web.url}/private/$NAME /srv/\n"
    )
    return folder


def build(project: Path, *flags: str, status: int = 0) -> str:
    done = imgbuild(
        "build",
        *flags,
        "--progress=plain",
        project,
        cwd=project.parent,
        store=project.parent / "store",
        env={"TOKEN": TOKEN},
        check=False,
    )
    output = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == status, output
    assert TOKEN not in output
    return output


def test_a_file_behind_a_token(project: Path, web: FakeWeb) -> None:
    flags = ("--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=TOKEN")
    refused = build(project, status=3)
    assert "invalid response status 401" in refused
    assert "--secret id=HTTP_AUTH_TOKEN_127.0.0.1" in refused
    assert ">>> 3 | ADD" in refused or "ADD http" in refused
    assert "DONE" in build(project, *flags, "-o", "type=oci,dest=image.tar")
    assert "CACHED" in build(project, *flags)
    asked = [request.headers.get("if-none-match") for request in web.requests]
    assert asked == [None, None, '"1"']
    with tarfile.open(project.parent / "image.tar") as archive:
        for name in archive.getnames():
            found = archive.extractfile(name)
            assert found is None or TOKEN.encode() not in found.read()


def test_no_secret_is_kept_in_the_store(project: Path) -> None:
    secret = project.parent / "token"
    secret.write_text(TOKEN)
    build(project, "--secret", f"id=HTTP_AUTH_TOKEN_127.0.0.1,src={secret}")
    for folder, _, names in os.walk(project.parent / "store"):
        for name in names:
            assert TOKEN.encode() not in Path(folder, name).read_bytes(), name


def test_flags_that_cannot_be_used_stop_the_build_at_once(project: Path, web: FakeWeb) -> None:
    for flags, words in (
        (("--secret", "id=x,src=none"), "failed to stat none: No such file or directory"),
        (("--secret", "x"), "invalid field 'x' must be a key=value pair"),
        (("--ssh", "default=none"), "--ssh default: cannot read none"),
        (("--ssh", "a=/x", "--ssh", "a=/x"), 'duplicate agent ID: "a"'),
        (("--download-limit", "much"), "invalid --download-limit"),
    ):
        assert words in build(project, *flags, status=2)
    assert not web.requests


def test_a_file_above_the_limit(project: Path) -> None:
    token = ("--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=TOKEN")
    assert "has more than 10 bytes" in build(project, *token, "--download-limit=10", status=3)
    build(project, *token, "--download-limit=1k")


def test_a_plan_fetches_nothing(project: Path, web: FakeWeb) -> None:
    done = imgbuild("plan", project, store=project.parent / "store")
    assert f"fetched {web.url}/private/f.txt" in done.stdout.decode()
    assert not web.requests


def test_the_history_names_the_url_without_its_user(project: Path, web: FakeWeb) -> None:
    web.put("/open", BODY)
    url = f"{web.url}/open"
    dockerfile = f"FROM scratch\nADD {url.replace('http://', 'http://bob:hidden@')} /\n"
    (project / "Dockerfile").write_text(dockerfile)
    output = build(project, "-t", "app", "-o", "type=oci,tar=false,dest=image")
    assert "hidden" not in output
    store = project.parent / "store"
    config = json.loads(imgbuild("inspect", "app", store=store).stdout.decode() or "{}")
    text = json.dumps(config)
    assert "hidden" not in text
    assert f"ADD {url.replace('http://', 'http://xxxxx:xxxxx@')} / # buildkit" in text
