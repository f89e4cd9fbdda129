"""ADD of URLs: what is fetched once is kept, asked for again only as needed, and never trusted."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbuild.build.engine import Built
from imgbuild.build.fetch import FetchedFile, UrlFetcher, file_name, parse_time
from imgbuild.build.git import GitFetcher
from imgbuild.build.remotes import Remotes
from imgbuild.build.secrets import Secrets
from imgbuild.errors import (
    AuthenticationError,
    ContextError,
    DigestMismatchError,
    RegistryError,
    Span,
    StoreError,
)
from imgbuild.oci.digest import digest_bytes
from imgbuild.options import RegistryOptions, Secret
from imgbuild.plan.model import UrlSource
from imgbuild.registry.urls import UrlClient
from imgbuild.store.store import Store
from tests.support.archives import archive, member
from tests.support.web import MODIFIED, MODIFIED_SECONDS, FakeWeb
from tests.unit.build.building import build, content, members

BODY = b"what is fetched\n"
LIMIT = 1 << 20


@pytest.fixture
def web() -> Iterator[FakeWeb]:
    with FakeWeb() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def fetcher(store: Store, *secrets: Secret, limit: int = LIMIT) -> UrlFetcher:
    def client() -> UrlClient:
        return UrlClient(RegistryOptions(), lambda _event: None, lambda _seconds: None)

    return UrlFetcher(store, client, Secrets(secrets), limit)


def fetch(store: Store, url: str, checksum: str = "", *secrets: Secret) -> FetchedFile:
    urls = fetcher(store, *secrets)
    try:
        return urls.fetch(UrlSource(url, checksum))
    finally:
        urls.close()


Add = Callable[..., Built]


@pytest.fixture
def add(store: Store, tmp_path: Path) -> Add:
    context = tmp_path / "context"
    context.mkdir()

    def add(line: str, **given: Any) -> Built:
        def remotes() -> Remotes:
            return Remotes(lambda: fetcher(store), lambda: GitFetcher(store, Secrets()))

        return build(store, context, f"FROM scratch\n{line}\n", open_remotes=remotes, **given)

    return add


def verdicts(built: Built) -> list[str]:
    return [step.verdict for step in built.steps]


# --- what is kept, and when a server is asked


def test_a_kept_file(store: Store, web: FakeWeb) -> None:
    found = fetch(store, web.put("/d/a.txt", BODY, Last_Modified=MODIFIED))
    path = found.folder / os.fsdecode(found.name)
    assert (found.name, found.digest, found.modified) == (
        b"a.txt",
        digest_bytes(BODY),
        MODIFIED_SECONDS,
    )
    assert path.read_bytes() == BODY
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime) == (0o600, MODIFIED_SECONDS)
    assert os.listdir(found.folder) == ["a.txt"]
    assert os.listdir(store.paths.staging) == []


def test_a_file_without_a_time_is_of_the_epoch(store: Store, web: FakeWeb) -> None:
    found = fetch(store, web.put("/a", BODY, Last_Modified="yesterday"))
    assert found.modified is None
    assert (found.folder / "a").stat().st_mtime == 0


def test_each_url_is_fetched_once_in_a_build(store: Store, web: FakeWeb) -> None:
    urls, source = fetcher(store), UrlSource(web.put("/a", BODY))
    assert urls.fetch(source) == urls.fetch(source)
    urls.close()
    assert len(web.requests) == 1


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({"ETag": '"1"', "Last_Modified": MODIFIED}, ("if-none-match", '"1"')),
        ({"Last_Modified": MODIFIED}, ("if-modified-since", MODIFIED)),
    ],
)
def test_the_next_build_asks_once_whether_it_changed(
    headers: dict[str, str], asked: tuple[str, str], store: Store, web: FakeWeb
) -> None:
    url = web.put("/a", BODY, **headers)
    first = fetch(store, url)
    assert fetch(store, url) == first
    assert len(web.requests) == 2
    assert web.requests[1].headers[asked[0]] == asked[1]
    web.put("/a", b"new", ETag='"2"', Last_Modified="Sun, 04 Jan 2015 04:05:06 GMT")
    assert fetch(store, url).digest == digest_bytes(b"new")


def test_a_time_that_may_hide_a_change_is_not_asked_with(store: Store, web: FakeWeb) -> None:
    soon = "Fri, 01 Jan 2100 00:00:00 GMT"
    url = web.put("/a", BODY, Last_Modified=soon)
    fetch(store, url)
    fetch(store, url)
    assert "if-modified-since" not in web.requests[1].headers


def test_what_has_the_checksum_is_not_asked_for_again(store: Store, web: FakeWeb) -> None:
    url = web.put("/a", BODY, ETag='"1"')
    first = fetch(store, url)
    assert fetch(store, url, digest_bytes(BODY)) == first
    web.put("/a", b"new", ETag='"2"')
    fetch(store, url)
    assert fetch(store, url, digest_bytes(BODY)) == first
    assert len(web.requests) == 2


def test_what_was_fetched_with_a_secret_is_for_those_who_have_it(
    store: Store, web: FakeWeb
) -> None:
    url, digest = web.put("/a", BODY, ETag='"1"'), digest_bytes(BODY)
    name = "HTTP_AUTH_TOKEN_127.0.0.1"
    right = Secret(name, value=b"right")

    def private(handler: Any) -> bool:
        if handler.headers.get("Authorization") == "Bearer right":
            return False
        handler.reply(401, b"")
        return True

    web.on("GET", "/a", private, times=100)
    first = fetch(store, url, digest, right)
    assert fetch(store, url, digest, right) == first
    assert len(web.requests) == 1
    for others in ([], [Secret(name, value=b"wrong")], [Secret(name, value=b"")]):
        for checksum in (digest, ""):
            with pytest.raises(AuthenticationError):
                fetch(store, url, checksum, *others)
            # Nor does a server learn what it should not be asked with.
            assert "if-none-match" not in web.requests[-1].headers
    assert fetch(store, url, "", right) == first
    assert web.requests[-1].headers["if-none-match"] == '"1"'


def test_another_checksum_is_told_with_both(store: Store, web: FakeWeb) -> None:
    url = web.put("/a", BODY).replace("http://", "http://user:password@") + "?token=t0ken"
    wrong = digest_bytes(b"other")
    with pytest.raises(DigestMismatchError) as caught:
        fetch(store, url, wrong)
    text = str(caught.value)
    assert text.endswith(f"/a: {digest_bytes(BODY)} (expected: {wrong})")
    assert "password" not in text
    assert "t0ken" not in text
    assert os.listdir(store.paths.staging) == []
    assert not store.paths.downloads.exists()


@pytest.mark.parametrize("damage", ["content", "gone"])
def test_a_kept_file_that_was_damaged_is_fetched_again(
    damage: str, store: Store, web: FakeWeb
) -> None:
    url = web.put("/a", BODY, ETag='"1"')
    found = fetch(store, url)
    path = found.folder / "a"
    if damage == "content":
        path.write_bytes(b"x" * len(BODY))
        os.utime(path, (0, 0))
    else:
        path.unlink()
    again = fetch(store, url, digest_bytes(BODY))
    assert (again.folder / "a").read_bytes() == BODY
    assert "if-none-match" not in web.requests[1].headers


def test_a_failed_download_leaves_nothing(store: Store, web: FakeWeb) -> None:
    url = web.put("/a", bytes(100_000))
    web.cut("GET", "/a", 5000, times=100, reset=False)
    with pytest.raises(RegistryError):
        fetch(store, url)
    assert os.listdir(store.paths.staging) == []
    assert not store.paths.downloads.exists()


def test_a_reset_removes_what_was_fetched(store: Store, web: FakeWeb) -> None:
    found = fetch(store, web.put("/a", BODY))
    store.reset(store.paths.scratch.rmdir)
    assert not found.folder.exists()
    assert fetch(store, f"{web.url}/a").folder == found.folder


def test_a_store_that_cannot_be_written_is_told(
    store: Store, web: FakeWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int, _data: object) -> int:
        raise OSError(28, "No space left on device")

    url = web.put("/a", BODY)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="no space left"):
        fetch(store, url)


# --- credentials


@pytest.mark.parametrize(
    ("secrets", "user", "sent"),
    [
        ({"HTTP_AUTH_TOKEN_127.0.0.1": b"t\n"}, "", "Bearer t"),
        ({"HTTP_AUTH_HEADER_127.0.0.1": b"Basic x"}, "", "Basic x"),
        (
            {"HTTP_AUTH_HEADER_127.0.0.1": b"h", "HTTP_AUTH_TOKEN_127.0.0.1": b"t"},
            "u:p@",
            "Bearer t",
        ),
        ({"HTTP_AUTH_TOKEN_other": b"t", "OTHER": b"t"}, "", None),
        ({}, "u:p%40%3a@", "Basic dTpwQDo="),
        ({}, "u@", "Basic dTo="),
    ],
)
def test_credentials_come_from_secrets_of_the_host(
    secrets: dict[str, bytes], user: str, sent: str | None, store: Store, web: FakeWeb
) -> None:
    url = web.put("/a", BODY).replace("http://", f"http://{user}")
    given = [Secret(name, value=value) for name, value in secrets.items()]
    fetch(store, url, "", *given)
    (seen,) = web.requests
    assert seen.authorization == sent


def test_a_secret_that_is_no_header_is_refused_and_not_shown(store: Store, web: FakeWeb) -> None:
    secret = Secret("HTTP_AUTH_TOKEN_127.0.0.1", value=b"hush\r\nX-Other: 1")
    with pytest.raises(ContextError) as caught:
        fetch(store, web.put("/a", BODY), "", secret)
    assert "hush" not in f"{caught.value} {caught.value.hint}"
    assert not web.requests


# --- names and times


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b.txt", b"b.txt"),
        ("http://h/a/b.txt?x=/c#/d", b"b.txt"),
        ("http://h/a/", b"a"),
        ("http://h/a//", b"a"),
        ("http://h", b"__unnamed__"),
        ("http://h/", b"__unnamed__"),
        ("http://h?a/b", b"__unnamed__"),
        ("http://h/a%20b", b"a b"),
        ("http://h/a%2Fb", b"b"),
        ("http://h/..%2f..%2fx", b"x"),
        ("http://h/..", b"__unnamed__"),
        ("http://h/a%2f..", b"__unnamed__"),
        ("http://h/a%00b", b"__unnamed__"),
        ("http://h/a%zz", b"__unnamed__"),
        ("http://h/" + "a" * 256, b"__unnamed__"),
        ("http://h/%ff", b"\xff"),
        ("http://h/ü", "ü".encode()),
        ("http://h/[*]", b"[*]"),
    ],
)
def test_names_of_urls(url: str, name: bytes) -> None:
    assert file_name(url) == name


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (MODIFIED, MODIFIED_SECONDS),
        ("Saturday, 03-Jan-15 04:05:06 GMT", MODIFIED_SECONDS),
        ("Sat Jan  3 04:05:06 2015", MODIFIED_SECONDS),
        ("Thu, 01 Jan 1903 00:00:00 GMT", 0),
        ("", None),
        ("soon", None),
        ("Wed, 01 Jan 2020 00:00:00 -99999999999999", None),
        ("Sat, 99 Jan 99999999999999999999 04:05:06 GMT", None),
    ],
)
def test_times(text: str, seconds: int | None) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("url", ["http://", "http://:80/a", "http://h:x/a", "http://[::1/a"])
def test_what_is_no_url_is_refused(url: str, store: Store) -> None:
    with pytest.raises(ContextError, match="is no URL that can be fetched"):
        fetch(store, url)


# --- in a build


def test_what_the_layer_holds(add: Add, store: Store, web: FakeWeb) -> None:
    url = web.put("/f.txt", BODY, Last_Modified=MODIFIED)
    built = add(f"ADD {url} /d/")
    assert [(m.name, m.mode, m.uid, m.gid, m.mtime) for m in members(store, built)] == [
        ("d", 0o755, 0, 0, MODIFIED_SECONDS),
        ("d/f.txt", 0o600, 0, 0, MODIFIED_SECONDS),
    ]
    assert content(store, built, "d/f.txt") == BODY


@pytest.mark.parametrize(
    ("dest", "names"),
    [
        ("/d/", ["d", "d/f.txt"]),
        ("/d", ["d"]),
        ("/", ["f.txt"]),
        (".", ["w", "w/f.txt"]),
        ("x", ["w", "w/x"]),
    ],
)
def test_where_it_goes(dest: str, names: list[str], add: Add, store: Store, web: FakeWeb) -> None:
    url = web.put("/f.txt", BODY)
    built = add(f"WORKDIR /w\nADD {url} {dest}")
    found = [member.name for member in members(store, built)]
    assert [name for name in found if name != "w" or "w" in names] == names


def test_owner_mode_and_the_server_has_no_say(add: Add, store: Store, web: FakeWeb) -> None:
    hostile = 'attachment; filename="../../etc/passwd"'
    url = web.put("/[a]*", BODY, Content_Disposition=hostile)
    built = add(f"ADD --chown=7:8 --chmod=751 {url} /")
    assert [(m.name, m.mode, m.uid, m.gid) for m in members(store, built)] == [
        ("[a]*", 0o751, 7, 8)
    ]


def test_sources_keep_their_order(add: Add, store: Store, web: FakeWeb, tmp_path: Path) -> None:
    (tmp_path / "context" / "f").write_bytes(b"local")
    (tmp_path / "context" / "g").write_bytes(b"local g")
    url = web.put("/f", BODY)
    assert content(store, add(f"ADD f {url} g /"), "f") == BODY
    assert content(store, add(f"ADD {url} f g /"), "f") == b"local"
    assert content(store, add(f"ADD {url} f g /"), "g") == b"local g"


@pytest.mark.parametrize(
    ("flag", "fetched", "local"),
    [("", False, True), ("--unpack", True, True), ("--unpack=false", False, False)],
)
def test_what_is_unpacked(
    flag: str, fetched: bool, local: bool, add: Add, store: Store, web: FakeWeb, tmp_path: Path
) -> None:
    (tmp_path / "context" / "l.tar").write_bytes(archive(member(b"of-local", content=b"l")))
    url = web.put("/f.tar", archive(member(b"of-url", content=b"f")))
    names = {member.name for member in members(store, add(f"ADD {flag} {url} l.tar /"))}
    assert names == {
        "of-url" if fetched else "f.tar",
        "of-local" if local else "l.tar",
    }


def test_the_cache_is_by_content(add: Add, web: FakeWeb) -> None:
    url = web.put("/f", BODY, ETag='"1"', Last_Modified=MODIFIED)
    first = add(f"ADD {url} /")
    second = add(f"ADD {url} /")
    assert (verdicts(first), verdicts(second)) == (["done"], ["cached"])
    assert len(web.requests) == 2
    web.put("/f", BODY, ETag='"2"', Last_Modified="Sun, 04 Jan 2015 04:05:06 GMT")
    assert verdicts(add(f"ADD {url} /")) == ["cached"]
    web.put("/mirror/f", BODY)
    assert verdicts(add(f"ADD {web.url}/mirror/f /")) == ["cached"]
    web.put("/f", b"new", ETag='"3"')
    assert verdicts(add(f"ADD {url} /")) == ["done"]
    web.put("/other", BODY)
    assert verdicts(add(f"ADD {web.url}/other /")) == ["done"]


def test_a_pinned_file_needs_no_server(add: Add, store: Store, web: FakeWeb) -> None:
    url = web.put("/f", BODY)
    line = f"ADD --checksum={digest_bytes(BODY)} {url} /"
    first = add(line)
    assert verdicts(add(line)) == ["cached"]
    assert len(web.requests) == 1
    again = add(line, no_cache=True)
    assert again.descriptor == first.descriptor or again.layers == first.layers
    assert len(web.requests) == 1


def test_a_mixed_step_is_cached_only_while_all_of_it_is_the_same(
    add: Add, web: FakeWeb, tmp_path: Path
) -> None:
    local = tmp_path / "context" / "l"
    local.write_bytes(b"1")
    url = web.put("/f", BODY, ETag='"1"')
    assert verdicts(add(f"ADD {url} l /")) == ["done"]
    assert verdicts(add(f"ADD {url} l /")) == ["cached"]
    local.write_bytes(b"2")
    assert verdicts(add(f"ADD {url} l /")) == ["done"]
    web.put("/f", b"new", ETag='"2"')
    assert verdicts(add(f"ADD {url} l /")) == ["done"]
    local.write_bytes(b"1")
    web.put("/f", BODY, ETag='"1"')
    assert verdicts(add(f"ADD {url} l /")) == ["cached"]


def test_no_cache_makes_the_same_layer_anew(add: Add, web: FakeWeb) -> None:
    url = web.put("/f", BODY, Last_Modified=MODIFIED)
    first, second = add(f"ADD {url} /"), add(f"ADD {url} /", no_cache=True)
    assert verdicts(second) == ["done"]
    assert first.layers == second.layers


def test_newer_times_are_clamped(add: Add, store: Store, web: FakeWeb) -> None:
    url = web.put("/f", BODY, Last_Modified=MODIFIED)
    (member,) = members(store, add(f"ADD {url} /", clamp=1000))
    assert member.mtime == 1000
    (member,) = members(store, add(f"ADD {url} /", clamp=MODIFIED_SECONDS + 5))
    assert member.mtime == MODIFIED_SECONDS


def test_linked(add: Add, store: Store, web: FakeWeb) -> None:
    url = web.put("/f", BODY)
    built = add(f"ADD --link {url} /d/")
    assert content(store, built, "d/f") == BODY
    assert verdicts(add(f"ADD --link {url} /d/")) == ["cached"]


def test_errors_have_the_place_of_the_instruction(add: Add, web: FakeWeb) -> None:
    url = web.put("/f", BODY)
    wrong = digest_bytes(b"other")
    with pytest.raises(DigestMismatchError) as caught:
        add(f"ADD --checksum={wrong} {url} /")
    assert caught.value.span == Span("Dockerfile", 2, 2)
    with pytest.raises(RegistryError, match="404"):
        add(f"ADD {web.url}/none /")


def test_an_archive_that_leaves_its_directory_is_refused(add: Add, web: FakeWeb) -> None:
    url = web.put("/f.tar", archive(member(b"../../x", content=b"x")))
    with pytest.raises(ContextError):
        add(f"ADD --unpack {url} /")


def test_a_pinned_file_that_is_kept_loads_no_network(tmp_path: Path, web: FakeWeb) -> None:
    url = web.put("/f", BODY)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/Dockerfile").write_text(
        f"FROM scratch\nADD --checksum={digest_bytes(BODY)} {url} /\n"
    )
    code = f"""
import sys
import imgbuild
built = imgbuild.build({str(tmp_path / "c")!r}, store={str(tmp_path / "s")!r})
print([step.verdict for step in built.steps])
print([n for n in "requests ssl http.client email socket".split() if n in sys.modules])
"""
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    lines = [run.stdout.splitlines() for run in runs]
    assert lines[0][0] == "['done']"
    assert lines[1] == ["['cached']", "[]"]
    assert len(web.requests) == 1
