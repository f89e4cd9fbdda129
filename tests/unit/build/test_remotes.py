"""ADD of git repositories, alone and beside other sources."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbuild.build.engine import Built
from imgbuild.build.fetch import UrlFetcher
from imgbuild.build.git import GitFetcher
from imgbuild.build.remotes import Remotes
from imgbuild.build.secrets import Secrets
from imgbuild.errors import ContextError, Span
from imgbuild.options import RegistryOptions
from imgbuild.registry.urls import UrlClient
from imgbuild.store.cache import StepCache
from imgbuild.store.store import Store
from tests.support.git_server import WHEN, GitServer, Repository
from tests.support.web import FakeWeb
from tests.unit.build.building import build, content, members, names

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")

Add = Callable[..., Built]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "served") as running:
        yield running


@pytest.fixture
def app(server: GitServer) -> Repository:
    made = server.repository("app")
    made.commit({"file": "one\n", "folder/inner": "inner\n", "folder/x.md": "x\n"})
    return made


@pytest.fixture
def add(store: Store, tmp_path: Path) -> Add:
    context = tmp_path / "context"
    context.mkdir()

    def urls() -> UrlFetcher:
        def client() -> UrlClient:
            return UrlClient(RegistryOptions(), lambda _event: None, lambda _seconds: None)

        return UrlFetcher(store, client, Secrets(), 1 << 20)

    def add(line: str, **given: Any) -> Built:
        def remotes() -> Remotes:
            return Remotes(urls, lambda: GitFetcher(store, Secrets()))

        return build(store, context, f"FROM scratch\n{line}\n", open_remotes=remotes, **given)

    return add


def verdicts(built: Built) -> list[str]:
    return [step.verdict for step in built.steps]


@pytest.mark.usefixtures("app")
def test_the_files_of_a_repository_go_into_the_destination(
    add: Add, store: Store, server: GitServer
) -> None:
    built = add(f"ADD {server.address('app')} /src")
    assert [(m.name, m.mode, m.uid, m.gid, m.mtime) for m in members(store, built)] == [
        ("src", 0o755, 0, 0, WHEN),
        ("src/file", 0o644, 0, 0, WHEN),
        ("src/folder", 0o755, 0, 0, WHEN),
        ("src/folder/inner", 0o644, 0, 0, WHEN),
        ("src/folder/x.md", 0o644, 0, 0, WHEN),
    ]


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("flags", "query", "found"),
    [
        ("", "#main:folder", ["s", "s/inner", "s/x.md"]),
        ("", "?subdir=folder", ["s", "s/inner", "s/x.md"]),
        ("--exclude=**/*.md", "", ["s", "s/file", "s/folder", "s/folder/inner"]),
        ("--chown=3:4 --link", "#main:folder", ["s", "s/inner", "s/x.md"]),
    ],
)
def test_what_is_taken_of_it(
    flags: str, query: str, found: list[str], add: Add, store: Store, server: GitServer
) -> None:
    built = add(f"ADD {flags} {server.address('app')}{query} /s")
    assert names(store, built) == found
    owner = (3, 4) if "chown" in flags else (0, 0)
    assert {(m.uid, m.gid) for m in members(store, built)} == {owner}


@pytest.mark.usefixtures("app")
def test_the_repository_itself_is_kept_when_asked(
    add: Add, store: Store, server: GitServer
) -> None:
    line = f"ADD --keep-git-dir {server.address('app')} /s"
    first = add(line)
    assert "s/.git/HEAD" in names(store, first)
    assert verdicts(add(line)) == ["cached"]
    assert "s/.git" not in names(store, add(f"ADD {server.address('app')} /s"))


def test_the_cache_is_by_what_the_commit_holds(
    add: Add, app: Repository, server: GitServer
) -> None:
    line = f"ADD {server.address('app')} /s"
    assert verdicts(add(line)) == ["done"]
    assert verdicts(add(line)) == ["cached"]
    app.git("commit", "--allow-empty", "-m", "nothing new")
    assert verdicts(add(line)) == ["cached"]
    app.commit({"file": "two\n"})
    assert verdicts(add(line)) == ["done"]


@pytest.mark.usefixtures("app")
def test_a_commit_that_was_read_once_is_not_read_again(
    add: Add, server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"ADD {server.address('app')} /s"
    add(line)
    add(line)

    def unread(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(StepCache, "get_many", unread)
    assert verdicts(add(line)) == ["cached"]


@pytest.mark.usefixtures("app")
def test_sources_of_all_kinds_keep_their_order(
    add: Add, store: Store, server: GitServer, tmp_path: Path
) -> None:
    (tmp_path / "context" / "file").write_bytes(b"local")
    git = server.address("app")
    with FakeWeb() as web:
        url = web.put("/file", b"url", ETag='"1"')
        for sources, last in (
            (f"file {url} {git}", b"one\n"),
            (f"{git} file {url}", b"url"),
            (f"{url} {git} file", b"local"),
        ):
            built = add(f"ADD {sources} /")
            assert content(store, built, "file") == last
            assert content(store, built, "folder/inner") == b"inner\n"
            assert verdicts(add(f"ADD {sources} /")) == ["cached"]
        (tmp_path / "context" / "file").write_bytes(b"other")
        assert verdicts(add(f"ADD {url} {git} file /")) == ["done"]


def test_a_checksum_is_the_start_of_the_commit(
    add: Add, app: Repository, server: GitServer
) -> None:
    commit = app.git("rev-parse", "HEAD")
    add(f"ADD --checksum={commit[:10]} {server.address('app')} /s")
    with pytest.raises(ContextError) as caught:
        add(f"ADD --checksum={'0' * 40} {server.address('app')} /s")
    assert caught.value.span == Span("Dockerfile", 2, 2)


@pytest.mark.usefixtures("app")
def test_nothing_of_a_check_out_stays(add: Add, store: Store, server: GitServer) -> None:
    add(f"ADD {server.address('app')} /s")
    store.blobs.flush()  # what the build made is written beside it
    assert list(store.paths.staging.iterdir()) == []
