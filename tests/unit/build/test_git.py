"""Check-outs from real repositories, over HTTP on loopback."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from imgbuild.build import gitconnection, gittrees
from imgbuild.build.git import Checkout, GitFetcher
from imgbuild.build.gitrefs import Found
from imgbuild.errors import ImgbuildError
from imgbuild.options import ArchiveLimits, RegistryOptions
from imgbuild.plan.gitref import parse_git_ref
from imgbuild.plan.model import GitSource
from imgbuild.store.store import Store
from tests.support.certificates import make_certificates
from tests.support.command import environment
from tests.support.git_server import WHEN, GitServer, Repository

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")

TOKEN = "ghp_very-secret"


class Given:
    """Secrets as a build has them."""

    def __init__(self, secrets: Mapping[str, str] | None = None) -> None:
        self.secrets = dict(secrets or {})
        self.names: list[str] = []

    def get(self, name: str) -> bytes | None:
        self.names.append(name)
        value = self.secrets.get(name)
        return None if value is None else value.encode()

    def ssh(self, name: str = "default") -> Path | None:
        return None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "served") as running:
        yield running


@pytest.fixture
def fetcher(store: Store) -> Iterator[GitFetcher]:
    with fetching(store) as made:
        yield made


@pytest.fixture
def app(server: GitServer) -> Repository:
    made = server.repository("app")
    made.commit({"file": "one\n", "folder/inner": "inner\n"})
    return made


def fetching(store: Store, secrets: Mapping[str, str] | None = None) -> GitFetcher:
    return GitFetcher(store, Given(secrets), search_path=os.environ["PATH"])


def source(text: str, *, keep: bool = False, checksum: str = "") -> GitSource:
    found = parse_git_ref(text)
    assert found is not None
    return GitSource(found, keep, checksum)


def files(folder: Path) -> dict[str, str]:
    """Return the files below a folder; of links where they lead, of `.git` that it is there."""
    found = {}
    for parent, folders, names in os.walk(folder):
        if ".git" in folders:
            folders.remove(".git")
            found[".git"] = "a repository"
        for name in names + [n for n in folders if (Path(parent) / n).is_symlink()]:
            path = Path(parent) / name
            text = f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
            found[str(path.relative_to(folder))] = text
    return found


def refused(fetcher: GitFetcher, *args: str, **kwargs: str) -> ImgbuildError:
    with pytest.raises(ImgbuildError) as caught:
        fetcher.checkout(source(*args, **kwargs))  # type: ignore[arg-type]
    return caught.value


# --- what is meant ---


def test_without_a_reference_the_default_branch_is_taken(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    app.git("branch", "other")
    commit = app.commit({"file": "two\n"}, when=WHEN + 5)
    found = fetcher.checkout(source(server.address("app")))
    assert found == Checkout(found.folder, commit, WHEN + 5)
    assert files(found.folder) == {"file": "two\n", "folder/inner": "inner\n"}


@pytest.mark.parametrize(
    "name", ["topic/a", "heads/topic/a", "refs/heads/topic/a", "?branch=topic/a"]
)
def test_a_branch(app: Repository, server: GitServer, fetcher: GitFetcher, name: str) -> None:
    app.git("checkout", "-q", "-b", "topic/a")
    commit = app.commit({"file": "of the branch\n"})
    app.git("checkout", "-q", "main")
    query = name if name.startswith("?") else f"#{name}"
    found = fetcher.checkout(source(server.address("app") + query))
    assert (found.commit, files(found.folder)["file"]) == (commit, "of the branch\n")


@pytest.mark.parametrize("annotated", [False, True])
def test_a_tag(app: Repository, server: GitServer, fetcher: GitFetcher, annotated: bool) -> None:
    commit = app.git("rev-parse", "HEAD")
    app.git("tag", *(["-a", "-m", "v1"] if annotated else []), "v1")
    app.commit({"file": "later\n"})
    for text in ("#v1", "#refs/tags/v1", "?tag=v1"):
        found = fetcher.checkout(source(server.address("app") + text))
        assert (found.commit, files(found.folder)["file"]) == (commit, "one\n")


def test_of_a_branch_and_a_tag_with_one_name_the_branch_is_meant(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    app.git("tag", "same")
    app.git("checkout", "-q", "-b", "same")
    commit = app.commit({"file": "branch\n"})
    assert fetcher.checkout(source(server.address("app") + "#same")).commit == commit


def test_a_reference_that_is_neither_branch_nor_tag(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    commit = app.commit({"file": "proposed\n"})
    app.git("update-ref", "refs/pull/7/head", commit)
    app.git("reset", "-q", "--hard", "HEAD^")
    for text in ("#refs/pull/7/head", "#pull/7/head"):
        assert fetcher.checkout(source(server.address("app") + text)).commit == commit


@pytest.mark.parametrize("any_commit", [True, False], ids=["named", "only branches"])
def test_a_commit_that_nothing_points_at(
    app: Repository, server: GitServer, fetcher: GitFetcher, any_commit: bool
) -> None:
    server.any_commit = any_commit
    commit = app.git("rev-parse", "HEAD")
    app.commit({"file": "two\n"})
    app.commit({"file": "three\n"})
    fetcher.checkout(source(server.address("app")))
    found = fetcher.checkout(source(f"{server.address('app')}#{commit}"))
    assert (found.commit, files(found.folder)["file"]) == (commit, "one\n")
    # The server that gives out branches only is not asked for the history again.
    middle = app.git("rev-parse", "HEAD^")
    assert fetcher.checkout(source(f"{server.address('app')}#{middle}")).commit == middle


def test_only_one_commit_is_fetched(
    app: Repository, server: GitServer, fetcher: GitFetcher, store: Store
) -> None:
    app.commit({"file": "two\n"})
    fetcher.checkout(source(server.address("app")))
    (kept,) = [path for path in store.paths.mirrors.iterdir() if path.is_dir()]
    assert (kept / "shallow").exists()


@pytest.mark.parametrize("text", ["#absent", "#0123abc", "#bad..name", "#a*", "#-x", "#a:b c"])
def test_a_reference_that_is_not_there(
    app: Repository, server: GitServer, fetcher: GitFetcher, text: str
) -> None:
    ref = text[1:].partition(":")[0]
    if text == "#a:b c":
        ref = "a"
    error = refused(fetcher, server.address("app") + text)
    assert error.message == f"repository does not contain ref {ref}"
    assert error.hint is not None
    assert f"git ls-remote {server.address('app')}" in error.hint


def test_a_commit_that_is_not_there(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    error = refused(fetcher, f"{server.address('app')}#{'0123' * 10}")
    assert error.message == f"repository does not contain commit {'0123' * 10}"


def test_a_repository_that_is_not_there(server: GitServer, fetcher: GitFetcher) -> None:
    error = refused(fetcher, server.address("absent"))
    assert error.message == (
        f"failed to fetch remote {server.address('absent')}: "
        f"repository '{server.address('absent')}/' not found"
    )
    assert f"GIT_AUTH_TOKEN.{server.host}" in (error.hint or "")


def test_a_server_that_does_not_answer(tmp_path: Path, fetcher: GitFetcher) -> None:
    with GitServer(tmp_path / "gone") as gone:
        address = gone.address("app")
    error = refused(fetcher, address)
    assert "can be reached from here" in (error.hint or "")


def test_a_server_that_knows_nothing_of_git(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    server.dumb = True
    first = app.git("rev-parse", "HEAD")
    commit = app.commit({"file": "two\n"})
    app.git("gc", "-q")
    app.git("update-server-info")
    assert fetcher.checkout(source(f"{server.address('app')}#main")).commit == commit
    found = fetcher.checkout(source(f"{server.address('app')}#{first}"))
    assert (found.commit, files(found.folder)["file"]) == (first, "one\n")


def test_through_a_proxy(app: Repository, server: GitServer, store: Store) -> None:
    registry = RegistryOptions(proxies={"http": server.url, "no": "other.test"})
    path = os.environ["PATH"]
    with GitFetcher(store, Given(), registry=registry, search_path=path) as fetcher:
        found = fetcher.checkout(source("http://git.test/app.git"))
        assert files(found.folder)["file"] == "one\n"
        assert server.asked[0].path.startswith("http://git.test/app.git/info/refs")
        server.asked.clear()
        fetcher.checkout(source(server.address("app")))
        assert server.asked[0].path.startswith("/app.git/")


def test_an_empty_repository(server: GitServer, fetcher: GitFetcher) -> None:
    server.repository("empty")
    error = refused(fetcher, server.address("empty"))
    assert error.message.startswith("could not find default branch for repository: http://")


def test_repositories_with_sha256(server: GitServer, fetcher: GitFetcher) -> None:
    made = server.repository("long", "--object-format=sha256")
    commit = made.commit({"file": "long\n"})
    assert len(commit) == 64
    for text in ("", f"#{commit}", "?keep-git-dir=true"):
        found = fetcher.checkout(source(server.address("long") + text))
        assert (found.commit, files(found.folder)["file"]) == (commit, "long\n")


# --- checksums ---


def test_a_checksum_is_the_beginning_of_the_commit_or_of_the_tag(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    commit = app.git("rev-parse", "HEAD")
    app.git("tag", "-a", "-m", "v1", "v1")
    tag = app.git("rev-parse", "v1")
    for checksum in (commit, commit[:7], commit[:7].upper(), tag, tag[:9]):
        found = fetcher.checkout(source(f"{server.address('app')}#v1", checksum=checksum))
        assert found.commit == commit
    assert fetcher.checkout(source(f"{server.address('app')}?commit={commit[:8]}")).commit == commit


def test_a_checksum_that_does_not_match_is_told_before_anything_is_fetched(
    app: Repository, server: GitServer, fetcher: GitFetcher, store: Store
) -> None:
    commit = app.git("rev-parse", "HEAD")
    app.git("tag", "-a", "-m", "v1", "v1")
    tag = app.git("rev-parse", "v1")
    for text, names in (("#main", commit), ("#v1", f"{tag} or {commit}"), (f"#{commit}", commit)):
        error = refused(fetcher, server.address("app") + text, checksum="0000")
        assert error.message == f"expected checksum to match 0000, got {names}"
    assert list(store.paths.mirrors.iterdir()) == []


def test_what_a_server_says_of_a_tag_is_not_believed(
    app: Repository, server: GitServer, fetcher: GitFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = app.git("rev-parse", "HEAD")
    app.git("tag", "-a", "-m", "v1", "v1")
    tag = app.git("rev-parse", "v1")
    lie = Found(tag, "refs/tags/v1", "0123" * 10)
    monkeypatch.setattr(sys.modules[GitFetcher.__module__], "resolve", lambda *_: lie)
    error = refused(fetcher, f"{server.address('app')}#v1", checksum="0123")
    assert error.message == f"expected checksum to match 0123, got {tag} or {commit}"


def test_a_checksum_that_is_none(app: Repository, server: GitServer, fetcher: GitFetcher) -> None:
    error = refused(fetcher, server.address("app"), checksum="foobar")
    assert error.message == "invalid checksum foobar for Git URL, expected hex commit hash"
    assert server.asked == []


def test_fetch_by_commit_does_not_look_at_the_reference(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    commit = app.git("rev-parse", "HEAD")
    app.commit({"file": "two\n"})
    address = f"{server.address('app')}?fetch-by-commit=true&ref=main"
    found = fetcher.checkout(source(f"{address}&checksum={commit}"))
    assert (found.commit, files(found.folder)["file"]) == (commit, "one\n")
    error = refused(fetcher, f"{address}&checksum={commit[:8]}")
    assert error.message == "fetch-by-commit needs the full name of a commit"


# --- what is written ---


def test_modes_and_times_are_the_same_for_everyone(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    (app.path / "run").write_text("#!\n")
    (app.path / "run").chmod(0o700)
    (app.path / "link").symlink_to("file")
    app.commit({}, when=WHEN + 9)
    before = os.umask(0o077)
    try:
        folder = fetcher.checkout(source(server.address("app"))).folder
    finally:
        os.umask(before)
    modes = {name: oct((folder / name).lstat().st_mode & 0o7777) for name in ("run", "file")}
    assert modes == {"run": "0o755", "file": "0o644"}
    assert (folder / "folder").stat().st_mode & 0o7777 == folder.stat().st_mode & 0o7777 == 0o755
    times = {path.lstat().st_mtime for path in (folder, *folder.rglob("*"))}
    assert times == {WHEN + 9}


def test_times_can_be_those_of_the_checkout(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    found = fetcher.checkout(source(f"{server.address('app')}?mtime=checkout"))
    assert (found.folder / "file").stat().st_mtime > WHEN + 1000
    assert found.commit_time == WHEN


def test_attributes_change_ends_of_lines_and_nothing_else(
    server: GitServer, fetcher: GitFetcher, tmp_path: Path
) -> None:
    made = server.repository("attributes")
    made.commit(
        {
            ".gitattributes": "*.bat text eol=crlf\n*.bin filter=lfs\nhidden export-ignore\n",
            "a.bat": "dir\n",
            "a.bin": "pointer\n",
            "hidden": "there\n",
            "z/a.bat": "dir\n",
            "z/.gitattributes": "a.bat -text\n",
        }
    )
    for text in ("", "#:z"):
        folder = fetcher.checkout(source(server.address("attributes") + text)).folder
        assert (folder / "a.bat").read_bytes() == (b"dir\n" if text else b"dir\r\n")
        if not text:
            assert (folder / "z/a.bat").read_bytes() == b"dir\n"
            assert files(folder)["a.bin"], files(folder)["hidden"] == ("pointer\n", "there\n")


def test_attributes_of_the_top_hold_in_a_folder(server: GitServer, fetcher: GitFetcher) -> None:
    made = server.repository("attributes")
    made.commit({".gitattributes": "*.bat text eol=crlf\n", "z/a.bat": "dir\n"})
    folder = fetcher.checkout(source(f"{server.address('attributes')}#:z")).folder
    assert (folder / "a.bat").read_bytes() == b"dir\r\n"


def test_names_that_are_no_utf8(server: GitServer, fetcher: GitFetcher) -> None:
    made = server.repository("names")
    made.commit({os.fsdecode(b"\xff\n\t'\" name"): "odd\n"})
    folder = fetcher.checkout(source(server.address("names"))).folder
    assert os.listdir(os.fsencode(folder)) == [b"\xff\n\t'\" name"]


@pytest.mark.parametrize("subdir", ["folder", "/folder/", "./folder", "folder/."])
def test_a_folder_of_the_repository(
    app: Repository, server: GitServer, fetcher: GitFetcher, subdir: str
) -> None:
    found = fetcher.checkout(source(f"{server.address('app')}#main:{subdir}"))
    assert files(found.folder) == {"inner": "inner\n"}


def test_a_folder_with_signs_of_patterns(server: GitServer, fetcher: GitFetcher) -> None:
    made = server.repository("signs")
    made.commit({"a*/file": "star\n", "ab/file": "plain\n", ":(top)/file": "colon\n"})
    for subdir, text in (("a*", "star\n"), (":(top)", "colon\n")):
        found = fetcher.checkout(source(f"{server.address('signs')}#:{subdir}"))
        assert files(found.folder) == {"file": text}
        assert os.listdir(found.folder.parent) == [subdir], "the others were not written"


@pytest.mark.parametrize("subdir", ["absent", "file", "link", "link/folder", "folder/up/folder"])
def test_a_folder_that_is_none(
    app: Repository, server: GitServer, fetcher: GitFetcher, subdir: str
) -> None:
    (app.path / "link").symlink_to(".")
    (app.path / "folder/up").symlink_to("/etc")
    commit = app.commit({})
    error = refused(fetcher, f"{server.address('app')}#:{subdir}")
    why = "it is a link" if subdir == "link" else "there is no such folder"
    assert error.message == f"failed to open subdir {subdir}: {why} in commit {commit}"


@pytest.mark.parametrize("subdir", ["..", "folder/../..", ".git", "folder/.GIT"])
def test_a_folder_outside_the_repository(
    app: Repository, server: GitServer, fetcher: GitFetcher, subdir: str
) -> None:
    error = refused(fetcher, f"{server.address('app')}#:{subdir}")
    assert error.message == f"the folder {subdir} is not inside the repository"
    assert server.asked == []


def test_checkouts_are_gone_at_the_end(app: Repository, server: GitServer, store: Store) -> None:
    with fetching(store) as fetcher:
        folder = fetcher.checkout(source(server.address("app"))).folder
        assert folder.is_relative_to(store.paths.staging)
        assert fetcher.checkout(source(server.address("app"))).folder == folder
    assert list(store.paths.staging.iterdir()) == []


# --- with .git ---


def test_a_kept_repository_is_usable_and_has_no_more_than_it_should(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    commit = app.commit({"file": "two\n"})
    app.git("tag", "-a", "-m", "v1", "v1")
    app.git("tag", "other")
    address = server.address("app").replace("http://", "http://me:hidden@")
    for text, name in (("#main", "refs/heads/main"), ("#v1", "refs/tags/v1"), (f"#{commit}", "")):
        folder = fetcher.checkout(source(address + text, keep=True)).folder
        kept = Repository(folder)
        assert kept.git("status", "--porcelain") == ""
        assert kept.git("rev-parse", "HEAD") == commit
        assert kept.git("for-each-ref", "--format=%(refname)") == name
        assert kept.git("remote", "get-url", "origin") == server.address("app")
        assert kept.git("rev-list", "--count", "HEAD") == "1"
        assert kept.git("fsck", "--strict") == ""
        contents = [p.read_bytes() for p in (folder / ".git").rglob("*") if p.is_file()]
        assert not any(b"hidden" in content or b"/tmp/files" in content for content in contents)


def test_a_kept_repository_has_the_same_bytes_on_every_machine(
    app: Repository, server: GitServer, tmp_path: Path
) -> None:
    for number in range(40):
        app.commit({f"many/{number}": f"line {number}\n" * 50})
    kept = []
    for number in range(2):
        with Store.open(tmp_path / f"store{number}") as store, fetching(store) as fetcher:
            if number:
                # What was fetched before must not show.
                fetcher.checkout(
                    source(f"{server.address('app')}#{app.git('rev-parse', 'HEAD~9')}")
                )
            folder = fetcher.checkout(source(server.address("app"), keep=True)).folder
            paths = sorted(p for p in (folder / ".git").rglob("*") if p.is_file())
            kept.append({str(p.relative_to(folder)): p.read_bytes() for p in paths})
            assert {p.stat().st_mtime for p in paths} == {WHEN}
    assert kept[0] == kept[1]


def test_the_address_says_that_the_repository_is_kept(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    for text, there in (
        ("", False),
        ("?keep-git-dir=true", True),
        ("?keep-git-dir=false", False),
        ("?keep-git-dir=true&subdir=folder", False),
    ):
        folder = fetcher.checkout(source(server.address("app") + text)).folder
        assert (folder / ".git").exists() is there


# --- submodules ---


def with_submodule(server: GitServer, app: Repository, url: str = "../lib.git") -> str:
    """Give `app` the submodule `sub/lib`, which has one itself; return the commit of `app`."""
    deep = server.repository("deep")
    lib = server.repository("lib")
    lib.commit({"of-lib": "lib\n"})
    commit = lib.add_submodule("deep", "./../deep.git/", deep.commit({"of-deep": "deep\n"}))
    lib.commit({"of-lib": "too new\n"})
    return app.add_submodule("sub/lib", url, commit)


def test_submodules_are_checked_out_as_they_were_recorded(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    with_submodule(server, app)
    folder = fetcher.checkout(source(server.address("app"))).folder
    assert files(folder / "sub") == {
        "lib/of-lib": "lib\n",
        "lib/.gitmodules": (server.root / "lib/.gitmodules").read_text(),
        "lib/deep/of-deep": "deep\n",
    }
    assert not list(folder.rglob(".git"))
    assert {path.lstat().st_mtime for path in folder.rglob("*")} == {WHEN}


def test_folders_of_submodules(app: Repository, server: GitServer, fetcher: GitFetcher) -> None:
    with_submodule(server, app)
    for subdir, expected in (
        ("sub/lib/deep", {"of-deep": "deep\n"}),
        ("sub/lib", {"of-lib", "deep/of-deep", ".gitmodules"}),
        ("folder", {"inner"}),
    ):
        server.asked.clear()
        folder = fetcher.checkout(source(f"{server.address('app')}#:{subdir}")).folder
        assert set(files(folder)) == set(expected)
        if subdir == "folder":
            assert not any("lib" in asked.path for asked in server.asked)


def test_submodules_can_be_left_out(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    with_submodule(server, app)
    folder = fetcher.checkout(source(f"{server.address('app')}?submodules=false")).folder
    assert list((folder / "sub/lib").iterdir()) == []
    assert not any("lib.git" in asked.path for asked in server.asked)


def test_a_kept_repository_with_submodules(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    with_submodule(server, app)
    folder = fetcher.checkout(source(server.address("app"), keep=True)).folder
    assert Repository(folder).git("status", "--porcelain") == ""
    assert (folder / "sub/lib/of-lib").exists()


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% /tmp/harm",
        "file:///etc",
        "/etc",
        "../../../../../etc",
        "http://-oProxyCommand=harm/x",
        "ssh://-oProxyCommand=harm/x",
        "host:-x",
        "ftp://127.0.0.1/x",
        "git+ssh://host/x",
    ],
)
def test_addresses_of_submodules_that_could_do_harm(
    app: Repository, server: GitServer, fetcher: GitFetcher, url: str
) -> None:
    app.add_submodule("sub", url, app.git("rev-parse", "HEAD"))
    error = refused(fetcher, server.address("app"))
    assert error.message == f"not a git address that can be fetched: {url}"


@pytest.mark.parametrize("url", ["-u./payload", "-oProxyCommand=harm@host:x"])
def test_addresses_of_submodules_that_look_like_options(
    app: Repository, server: GitServer, fetcher: GitFetcher, url: str
) -> None:
    app.add_submodule("sub", url, app.git("rev-parse", "HEAD"))
    error = refused(fetcher, server.address("app"))
    assert "git refuses it everywhere" in (error.hint or ""), error.message


def test_a_submodule_without_an_address(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    commit = app.git("rev-parse", "HEAD")
    app.git("update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
    app.git("commit", "-q", "-m", "submodule")
    error = refused(fetcher, server.address("app"))
    assert error.message == "no url found for submodule path 'sub' in .gitmodules"
    assert "submodules=false" in (error.hint or "")


def test_a_submodule_that_is_not_to_be_updated(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    app.add_submodule("sub", "../absent.git", app.git("rev-parse", "HEAD"))
    text = (app.path / ".gitmodules").read_text()
    app.commit({".gitmodules": f"{text}\tupdate = none\n"})
    app.git("update-index", "--add", "--cacheinfo", f"160000,{app.git('rev-parse', 'HEAD')},sub")
    app.git("commit", "-q", "--amend", "-m", "submodule")
    folder = fetcher.checkout(source(server.address("app"))).folder
    assert list((folder / "sub").iterdir()) == []


def test_submodules_without_end(app: Repository, server: GitServer, fetcher: GitFetcher) -> None:
    commit = app.git("rev-parse", "HEAD")
    for _ in range(18):
        app.git("rm", "-q", "-r", "--cached", ".")
        (app.path / ".gitmodules").unlink(missing_ok=True)
        commit = app.add_submodule("s", "../app.git", commit)
    error = refused(fetcher, server.address("app"))
    assert error.message == "there are more than 16 submodules in each other"


def test_a_submodule_of_another_server_without_the_credentials_of_the_first(
    store: Store, tmp_path: Path
) -> None:
    with GitServer(tmp_path / "a", token=TOKEN) as one, GitServer(tmp_path / "b") as other:
        lib = other.repository("lib")
        commit = lib.commit({"of-lib": "lib\n"})
        one.repository("app").add_submodule("sub", other.address("lib"), commit)
        with fetching(store, {"GIT_AUTH_TOKEN": TOKEN}) as fetcher:
            folder = fetcher.checkout(source(one.address("app"))).folder
            assert files(folder / "sub") == {"of-lib": "lib\n"}
        assert other.asked
        assert {asked.authorization for asked in other.asked} == {None}


# --- what attacks ---


@pytest.mark.parametrize("name", [".git", ".GIT", ".gIt", "git~1", "..", "."])
def test_names_that_would_reach_a_repository(
    server: GitServer, fetcher: GitFetcher, name: str
) -> None:
    made = server.repository("forged")
    inner = made.blob(b"[core]\n\tfsmonitor = touch /tmp/harm\n")
    tree = made.git("mktree", stdin=f"100644 blob {inner}\tconfig\n".encode())
    made.forged({name: ("040000", tree)})
    error = refused(fetcher, server.address("forged"))
    assert "git refuses it everywhere" in (error.hint or ""), error.message


def test_a_link_and_a_folder_of_one_name(
    server: GitServer, fetcher: GitFetcher, tmp_path: Path
) -> None:
    made = server.repository("forged")
    link = made.blob(bytes(tmp_path / "outside"))
    (tmp_path / "outside").mkdir()
    tree = made.git("mktree", stdin=f"100644 blob {made.blob(b'x')}\tharm\n".encode())
    lines = b"".join(
        b"%s a\0%s" % (mode, bytes.fromhex(sha))
        for mode, sha in ((b"120000", link), (b"40000", tree))
    )
    top = made.git("hash-object", "-t", "tree", "--literally", "-w", "--stdin", stdin=lines)
    made.git("update-ref", "refs/heads/main", made.git("commit-tree", top, "-m", "forged"))
    refused(fetcher, server.address("forged"))
    assert list((tmp_path / "outside").iterdir()) == []


def test_links_out_of_the_repository_stay_links(
    app: Repository, server: GitServer, fetcher: GitFetcher, tmp_path: Path
) -> None:
    (app.path / "out").symlink_to(tmp_path)
    app.commit({})
    folder = fetcher.checkout(source(server.address("app"))).folder
    assert (folder / "out").readlink() == tmp_path
    assert tmp_path.stat().st_mtime != WHEN


def test_a_list_of_submodules_that_is_a_link(
    app: Repository, server: GitServer, fetcher: GitFetcher
) -> None:
    app.forged({".gitmodules": ("120000", app.blob(b"/etc/passwd"))})
    assert "gitmodules is a symbolic link" in refused(fetcher, server.address("app")).message


def test_too_many_folders_in_each_other(server: GitServer, fetcher: GitFetcher) -> None:
    made = server.repository("deep")
    tree = made.git("mktree", stdin=f"100644 blob {made.blob(b'x')}\tx\n".encode())
    for _ in range(400):
        tree = made.git("mktree", stdin=f"040000 tree {tree}\td\n".encode())
    made.git("update-ref", "refs/heads/main", made.git("commit-tree", tree, "-m", "deep"))
    error = refused(fetcher, server.address("deep"))
    assert error.message == "the repository has more than 250 folders in each other"


def test_configuration_and_hooks_of_the_machine_are_not_used(
    app: Repository,
    server: GitServer,
    fetcher: GitFetcher,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    harm = tmp_path / "harm"
    home = Path(os.environ["HOME"])
    (home / ".gitconfig").write_text(
        f'[url "http://127.0.0.1:1/"]\n\tinsteadOf = {server.url}\n[core]\n\tfsmonitor = touch {harm}\n'
    )
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", f"'core.fsmonitor=touch {harm}'")
    monkeypatch.setenv("GIT_DIR", str(app.path / ".git"))
    monkeypatch.setenv("GIT_TRACE", str(harm))
    try:
        fetcher.checkout(source(server.address("app")))
    finally:
        (home / ".gitconfig").unlink()
    assert not harm.exists()


# --- credentials ---


@pytest.mark.parametrize(
    ("names", "sent"),
    [
        (["GIT_AUTH_TOKEN"], "token"),
        (["GIT_AUTH_TOKEN.{host}"], "token"),
        (["GIT_AUTH_HEADER"], "header"),
        (["GIT_AUTH_HEADER.{host}", "GIT_AUTH_TOKEN.{host}"], "header"),
        (["GIT_AUTH_TOKEN.{host}", "GIT_AUTH_HEADER"], "token"),
    ],
)
def test_which_secret_is_sent(store: Store, tmp_path: Path, names: list[str], sent: str) -> None:
    with GitServer(tmp_path / "served", token=TOKEN, header="Bearer of-header") as server:
        commit = server.repository("app").commit({"file": "private\n"})
        values = {"TOKEN": TOKEN + "\n", "HEADER": "Bearer of-header"}
        secrets = {
            name.format(host=server.host): values[name.split("_")[2].partition(".")[0]]
            for name in names
        }
        with fetching(store, secrets) as fetcher:
            assert fetcher.checkout(source(server.address("app"))).commit == commit
        headers = {asked.authorization for asked in server.asked}
        assert headers == (
            {"Bearer of-header"} if sent == "header" else server.expected() & headers
        )
        assert len(headers) == 1


def test_user_and_password_in_the_address(store: Store, tmp_path: Path) -> None:
    with GitServer(tmp_path / "served", token=TOKEN) as server, fetching(store) as fetcher:
        commit = server.repository("app").commit({"file": "private\n"})
        address = server.address("app").replace("http://", f"http://user:{TOKEN}@")
        assert fetcher.checkout(source(address)).commit == commit
        assert_nowhere(store.paths.root, TOKEN)
        error = refused(fetcher, f"{address}#absent")
        assert TOKEN not in f"{error.message}{error.hint}"


def assert_nowhere(root: Path, text: str) -> None:
    for path in root.rglob("*"):
        assert text not in path.name
        if path.is_file():
            assert text.encode() not in path.read_bytes(), path


def test_secrets_are_in_no_file_no_argument_and_no_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: list[str] = []
    popen = subprocess.Popen

    def seen(words: list[str], **kwargs: object) -> object:
        arguments.extend(words)
        return popen(words, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", seen)
    with GitServer(tmp_path / "served", token=TOKEN) as server:
        server.repository("app").commit({"file": "private\n"})
        with fetching(store, {"GIT_AUTH_TOKEN": TOKEN}) as fetcher:
            fetcher.checkout(source(server.address("app"), keep=True))
            assert_nowhere(store.paths.root, TOKEN)
            encoded = server.expected() - {""}
            for text in encoded:
                assert_nowhere(store.paths.root, text.removeprefix("basic "))
        with fetching(store, {"GIT_AUTH_TOKEN": "wrong-secret"}) as fetcher:
            error = refused(fetcher, server.address("app"))
        assert "wrong-secret" not in f"{error.message}{error.hint}"
        assert "the secret is valid" in (error.hint or "")
        with fetching(store) as fetcher:
            error = refused(fetcher, server.address("app"))
        assert f"--secret id=GIT_AUTH_TOKEN.{server.host}" in (error.hint or "")
    assert arguments
    forbidden = (TOKEN, "wrong-secret", *(text.removeprefix("basic ") for text in encoded))
    assert not any(text in word for word in arguments for text in forbidden)


def test_credentials_do_not_follow_to_another_server(store: Store, tmp_path: Path) -> None:
    with GitServer(tmp_path / "a", token=TOKEN) as one, GitServer(tmp_path / "b") as other:
        other.repository("app").commit({"file": "x\n"})
        one.redirects["/app.git"] = other.address("app")
        with fetching(store, {"GIT_AUTH_TOKEN": TOKEN}) as fetcher:
            error = refused(fetcher, one.address("app"))
        assert "write the address that it sends to" in (error.hint or "")
        assert other.asked == []
        with fetching(store) as fetcher:
            assert files(fetcher.checkout(source(one.address("app"))).folder) == {"file": "x\n"}
        assert {asked.authorization for asked in other.asked} == {None}


def test_credentials_follow_on_one_server(store: Store, tmp_path: Path) -> None:
    with GitServer(tmp_path / "served", token=TOKEN) as server:
        lib = server.repository("lib")
        made = server.repository("new")
        commit = made.add_submodule("sub", "../lib.git", lib.commit({"of-lib": "lib\n"}))
        server.redirects |= {"/old.git": "/middle.git", "/middle.git": server.address("new")}
        with fetching(store, {"GIT_AUTH_TOKEN": TOKEN}) as fetcher:
            found = fetcher.checkout(source(server.address("old"), keep=True))
            assert found.commit == commit
            assert (found.folder / "sub/of-lib").exists()
            kept = Repository(found.folder)
            assert kept.git("remote", "get-url", "origin") == server.address("old")
            server.redirects["/round.git"] = "/round.git"
            refused(fetcher, server.address("round"))


def test_a_server_with_an_authority_of_its_own(store: Store, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    with GitServer(tmp_path / "served", tls=made.server_context()) as server:
        commit = server.repository("app").commit({"file": "x\n"})
        with fetching(store) as fetcher:
            assert "certificate" in (refused(fetcher, server.address("app")).hint or "")
        registry = RegistryOptions(ca_file=made.ca)
        path = os.environ["PATH"]
        with GitFetcher(store, Given(), registry=registry, search_path=path) as fetcher:
            assert fetcher.checkout(source(server.address("app"))).commit == commit


def test_an_encrypted_connection_stays_one(store: Store, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    registry, path = RegistryOptions(ca_file=made.ca), os.environ["PATH"]
    with (
        GitServer(tmp_path / "a", tls=made.server_context()) as one,
        GitServer(tmp_path / "b") as other,
        GitFetcher(store, Given(), registry=registry, search_path=path) as fetcher,
    ):
        other.repository("app").commit({"file": "x\n"})
        one.redirects["/app.git"] = other.address("app")
        error = refused(fetcher, one.address("app"))
        assert "write the one you trust" in (error.hint or ""), error.message
        assert other.asked == []


def test_ssh_needs_an_agent(fetcher: GitFetcher) -> None:
    error = refused(fetcher, "git@example.com:group/app.git")
    assert error.message == 'no SSH key "default" forwarded from the client'
    assert "--ssh default" in (error.hint or "")


# --- what is kept ---


def test_what_was_fetched_with_a_secret_is_for_those_the_server_lets_in(
    store: Store, tmp_path: Path
) -> None:
    with GitServer(tmp_path / "served", token=TOKEN) as server:
        commit = server.repository("app").commit({"file": "private\n"})
        address = f"{server.address('app')}#{commit}"
        with fetching(store, {"GIT_AUTH_TOKEN": TOKEN}) as fetcher:
            fetcher.checkout(source(address))
        asked = len(server.asked)
        with fetching(store, {"GIT_AUTH_TOKEN": TOKEN}) as fetcher:
            assert files(fetcher.checkout(source(address)).folder) == {"file": "private\n"}
        assert len(server.asked) == asked
        for secrets in ({}, {"GIT_AUTH_TOKEN": "wrong"}):
            with fetching(store, secrets) as fetcher:
                refused(fetcher, address)
        assert len(server.asked) > asked
        assert list(store.paths.staging.iterdir()) == []
        # Nor by way of somebody's submodule.
        with GitServer(tmp_path / "other") as other:
            other.repository("top").add_submodule("sub", server.address("app"), commit)
            with fetching(store) as fetcher:
                refused(fetcher, other.address("top"))
        server.token = ""
        with fetching(store) as fetcher:
            fetcher.checkout(source(address))
        server.token = TOKEN
        with fetching(store) as fetcher:
            fetcher.checkout(source(address))


def test_a_commit_that_is_there_needs_no_network(
    app: Repository, server: GitServer, store: Store
) -> None:
    commit = app.git("rev-parse", "HEAD")
    app.git("tag", "-a", "-m", "v1", "v1")
    with fetching(store) as fetcher:
        fetcher.checkout(source(f"{server.address('app')}#v1"))
    server.asked.clear()
    with fetching(store) as fetcher:
        found = fetcher.checkout(source(f"{server.address('app')}#{commit}"))
        assert files(found.folder)["file"] == "one\n"
        assert server.asked == []
        fetcher.checkout(source(server.address("app")))
    assert [asked.method for asked in server.asked] == ["GET", "POST"], "only asked for the name"


def test_a_branch_that_moves(app: Repository, server: GitServer, store: Store) -> None:
    with fetching(store) as fetcher:
        fetcher.checkout(source(server.address("app")))
        commit = app.commit({"file": "two\n"})
        app.git("tag", "moved")
        # Within a build nothing moves.
        again = fetcher.checkout(source(f"{server.address('app')}#:folder"))
        assert again.commit == app.git("rev-parse", "HEAD^")
    with fetching(store) as fetcher:
        assert fetcher.checkout(source(server.address("app"))).commit == commit
    app.git("checkout", "-q", "--orphan", "new")
    commit = app.commit({"file": "three\n"})
    app.git("tag", "-f", "moved")
    with fetching(store) as fetcher:
        assert fetcher.checkout(source(f"{server.address('app')}#moved")).commit == commit


def test_a_branch_that_moves_while_it_is_fetched(
    app: Repository, server: GitServer, fetcher: GitFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = app.git("rev-parse", "HEAD")
    server.any_commit = False
    moved = threading.Event()

    def move() -> None:
        if not moved.is_set() and len(server.asked) == 2:
            moved.set()
            app.commit({"file": "two\n"})

    server.hook = move
    found = fetcher.checkout(source(server.address("app")))
    assert moved.is_set()
    assert (found.commit, files(found.folder)["file"]) == (commit, "one\n")


def test_damage_is_repaired(app: Repository, server: GitServer, store: Store) -> None:
    commit = app.git("rev-parse", "HEAD")
    with fetching(store) as fetcher:
        fetcher.checkout(source(server.address("app")))
    (kept,) = [path for path in store.paths.mirrors.iterdir() if path.is_dir()]
    for damage in ("pack", "head", "all"):
        if damage == "head":
            (kept / "HEAD").unlink()
        for path in kept.rglob("*"):
            if path.is_file() and (path.suffix == ".pack" or damage == "all"):
                path.chmod(0o600)
                path.write_bytes(path.read_bytes()[: 0 if damage == "all" else 40])
        with fetching(store) as fetcher:
            found = fetcher.checkout(source(f"{server.address('app')}#{commit}"))
            assert files(found.folder)["file"] == "one\n", damage


def test_what_a_killed_git_leaves_is_cleared(
    app: Repository, server: GitServer, store: Store
) -> None:
    with fetching(store) as fetcher:
        fetcher.checkout(source(server.address("app")))
    (kept,) = [path for path in store.paths.mirrors.iterdir() if path.is_dir()]
    commit = app.commit({"file": "two\n"})
    left = [kept / "shallow.lock", kept / "checkout.index.lock", kept / "checkout.index"]
    left += [kept / f"refs/imgbuild/{commit}.lock", kept / "objects/pack/tmp_pack_x"]
    for path in left:
        path.write_text("")
    with fetching(store) as fetcher:
        assert fetcher.checkout(source(server.address("app"))).commit == commit
    assert not any(path.exists() for path in left)


CHILD = """
import os, sys
from pathlib import Path
from imgbuild.build.git import GitFetcher
from imgbuild.plan.gitref import parse_git_ref
from imgbuild.plan.model import GitSource
from imgbuild.store.store import Store
class Nothing:
    def get(self, name): return None
    def ssh(self, name="default"): return None
with Store.open(Path(sys.argv[1])) as store, store.build_lock():
    with GitFetcher(store, Nothing(), search_path=os.environ["PATH"]) as fetcher:
        found = fetcher.checkout(GitSource(parse_git_ref(sys.argv[2])))
        print(found.commit, (found.folder / "file").read_text(), end="")
"""


def child(store: Path, address: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(store), address],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def test_several_at_once(app: Repository, server: GitServer, tmp_path: Path) -> None:
    Store.open(tmp_path / "shared").close()
    others = []
    for number in range(3):
        app.git("checkout", "-q", "-b", f"b{number}")
        others.append((f"#b{number}", app.commit({"file": f"{number}\n"}), f"{number}\n"))
    running = [
        (child(tmp_path / "shared", server.address("app") + text), commit, content)
        for text, commit, content in [*others, *others]
    ]
    for process, commit, content in running:
        assert process.communicate(timeout=60)[0] == f"{commit} {content}"


def test_a_build_that_is_killed_while_it_fetches(
    app: Repository, server: GitServer, tmp_path: Path
) -> None:
    commit = app.git("rev-parse", "HEAD")
    reached, go_on = threading.Event(), threading.Event()

    def stall() -> None:
        if len(server.asked) == 4:
            reached.set()
            go_on.wait(60)

    server.hook = stall
    with child(tmp_path / "shared", server.address("app")) as process:
        assert reached.wait(60)
        process.send_signal(signal.SIGKILL)
    with child(tmp_path / "shared", server.address("app")) as process:
        # The git of the dead build ended with it: nothing is to be waited for.
        assert process.communicate(timeout=60)[0] == f"{commit} one\n"
    go_on.set()
    with Store.open(tmp_path / "shared") as store:
        assert list(store.paths.staging.iterdir()) == []


# --- git itself ---


# --- what would fill a machine


def limited(store: Store, limits: ArchiveLimits, most: int | None = None) -> GitFetcher:
    path = os.environ["PATH"]
    return GitFetcher(store, Given(), search_path=path, limits=limits, download_limit=most)


def bomb(repository: Repository, levels: int) -> str:
    """Commit a tree that holds another ten times, and so on."""
    inner, mode, kind = repository.blob(b"x"), "100644", "blob"
    for _ in range(levels):
        lines = "".join(f"{mode} {kind} {inner}\t{n}\n" for n in range(10))
        inner, mode, kind = repository.git("mktree", stdin=lines.encode()), "040000", "tree"
    commit = repository.git("commit-tree", inner, "-m", "bomb")
    repository.git("update-ref", "refs/heads/main", commit)
    return commit


def test_a_tree_that_holds_itself_over_and_over_is_refused(
    app: Repository, server: GitServer, store: Store
) -> None:
    bomb(app, 10)
    with limited(store, ArchiveLimits(entries=1000)) as fetcher:
        error = refused(fetcher, server.address("app"))
        assert "far too many files" in error.message
        assert "--add-limit-entries" in (error.hint or "")
        assert not any(path.name == "0" for path in store.paths.staging.rglob("*"))
    assert list(store.paths.staging.rglob("*")) == []


def test_more_files_than_the_limit_are_refused(
    app: Repository, server: GitServer, store: Store
) -> None:
    bomb(app, 2)
    with limited(store, ArchiveLimits(entries=99)) as fetcher:
        assert "more than 99 files" in refused(fetcher, server.address("app")).message
    with limited(store, ArchiveLimits(entries=100)) as fetcher:
        assert len(files(fetcher.checkout(source(server.address("app"))).folder)) == 100


def test_files_that_are_larger_than_the_limit_together_are_refused(
    app: Repository, server: GitServer, store: Store
) -> None:
    app.commit({"file": b"x" * 1000, "folder/inner": b"x" * 1000})
    with limited(store, ArchiveLimits(size=1999)) as fetcher:
        assert "larger than 1999 bytes" in refused(fetcher, server.address("app")).message
    with limited(store, ArchiveLimits(size=2000)) as fetcher:
        fetcher.checkout(source(server.address("app")))


def test_submodules_count_with_what_they_are_in(
    app: Repository, server: GitServer, store: Store
) -> None:
    inner = server.repository("inner")
    commit = inner.commit({"a": "1", "b": "2"})
    app.add_submodule("sub", server.address("inner"), commit)
    # Two files, .gitmodules, the submodule itself and what it has.
    with limited(store, ArchiveLimits(entries=5)) as fetcher:
        assert "more than 5 files" in refused(fetcher, server.address("app")).message
    with limited(store, ArchiveLimits(entries=6)) as fetcher:
        fetcher.checkout(source(server.address("app")))


def test_submodules_without_end_are_refused(
    app: Repository, server: GitServer, fetcher: GitFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = server.repository("inner").commit({"a": "1"})
    for n in range(3):
        app.add_submodule(f"sub{n}", server.address("inner"), commit)
    monkeypatch.setattr(gittrees, "_MOST_SUBMODULES", 2)
    assert "more than 2 submodules" in refused(fetcher, server.address("app")).message


def test_more_than_the_download_limit_is_not_fetched(
    app: Repository, server: GitServer, store: Store
) -> None:
    app.commit({"file": random.Random(1).randbytes(300_000)})
    with limited(store, ArchiveLimits(), 100_000) as fetcher:
        error = refused(fetcher, server.address("app"))
    assert "--download-limit" in (error.hint or ""), error
    with limited(store, ArchiveLimits(), 400_000) as fetcher:
        fetcher.checkout(source(server.address("app")))


def test_a_server_that_says_nothing_is_given_up(
    fetcher: GitFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gitconnection, "_LONGEST_QUESTION", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        error = refused(fetcher, f"git://127.0.0.1:{silent.getsockname()[1]}/app.git")
    assert "timed out" in error.message
    assert "can be reached" in (error.hint or "")


def test_without_git(store: Store, app: Repository, server: GitServer, tmp_path: Path) -> None:
    for path in ("", str(tmp_path), "."):
        with GitFetcher(store, Given(), search_path=path) as fetcher:
            error = refused(fetcher, server.address("app"))
        assert (
            error.message == "ADD of a git repository and git contexts need git, which is not there"
        )
        assert "install git" in (error.hint or "")


def test_a_git_that_is_too_old(store: Store, server: GitServer, tmp_path: Path) -> None:
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\necho git version 2.31.9\n")
    program.chmod(0o755)
    with GitFetcher(store, Given(), search_path=str(tmp_path)) as fetcher:
        error = refused(fetcher, server.address("app"))
    assert error.message == f"{program} is too old to be used safely"
    assert "2.32 or newer" in (error.hint or "")


def test_errors_are_for_the_user(fetcher: GitFetcher) -> None:
    with pytest.raises(ImgbuildError):
        fetcher.checkout(source("https://localhost:1/x.git"))
