"""Main and named contexts in every form, over files that a test hands out instead of a network."""

import gzip
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbuild.build.contexts import Contexts
from imgbuild.build.fetch import FetchedFile
from imgbuild.build.remotes import Remotes
from imgbuild.errors import ContextError, DockerfileError, UsageError
from imgbuild.oci.digest import Digest
from imgbuild.options import BuildOptions
from imgbuild.plan.model import GitSource, UrlSource
from imgbuild.store.store import Store
from tests.support.archives import archive, member
from tests.unit.build.building import build, config, content, members, names

URL = "https://user:secret@example.com/files/it"
SHOWN = "https://xxxxx:xxxxx@example.com/files/it"
GIT = "https://user:secret@example.com/team/app.git"
TEXT = b"FROM scratch\nCOPY . /\n"


class Checkout:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commit = "c" * 40
        self.commit_time = 1234


class World:
    """Files and repositories, and what was asked of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, tuple[bytes, int | None]] = {}
        self.asked: list[UrlSource | GitSource] = []
        (folder / "repository").mkdir(parents=True)
        self.repository = folder / "repository"

    def fetch(self, source: UrlSource) -> FetchedFile:
        self.asked.append(source)
        data, modified = self.files[source.url]
        folder = self.folder / hashlib.sha256(source.url.encode()).hexdigest()
        folder.mkdir(exist_ok=True)
        (folder / "it").write_bytes(data)
        digest = Digest("sha256:" + hashlib.sha256(data).hexdigest())
        return FetchedFile(folder, b"it", digest, modified)

    def checkout(self, source: GitSource) -> Checkout:
        self.asked.append(source)
        return Checkout(self.repository)

    def close(self) -> None:
        pass

    def remotes(self) -> Remotes:
        return Remotes(lambda: self, lambda: self)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture
def opened(store: Store, world: World) -> Any:
    made: list[Contexts] = []

    def open_contexts(context: Any, **fields: Any) -> Contexts:
        options = BuildOptions(context, **fields)
        made.append(Contexts(options, store.paths.staging, world.remotes()))
        return made[-1]

    yield open_contexts
    for contexts in made:
        contexts.close()


Open = Callable[..., Contexts]


def listed(contexts: Contexts, name: str = "") -> list[bytes]:
    tree = contexts.open(name)
    try:
        return tree.listdir(b"")
    finally:
        tree.close()


# --- the Dockerfile


@pytest.mark.parametrize(
    ("asked", "text"),
    [(None, b"FROM a"), (Path("sub/Other"), b"FROM b"), (Path("./sub//../link"), b"FROM b")],
)
def test_a_dockerfile_inside_an_archive(asked: Path | None, text: bytes, opened: Open) -> None:
    data = archive(
        member(b"./dockerfile", content=b"FROM a"),
        member(b"sub/Other", content=b"FROM b"),
        member(b"link", b"2", link=b"/sub/Other"),
    )
    found = opened(io.BytesIO(data), dockerfile=asked).definition()
    assert (found.data, found.place) == (text, None)


def test_dockerfile_comes_before_its_small_letters(opened: Open) -> None:
    data = archive(member(b"dockerfile", content=b"b"), member(b"Dockerfile", content=b"a"))
    assert opened(io.BytesIO(data)).definition()[:2] == ("Dockerfile", b"a")


def test_an_archive_without_the_dockerfile(opened: Open) -> None:
    data = archive(member(b"Dockerfile.dev", content=b"a"), member(b"d/", b"5"))
    for asked, message in (
        (None, "there is no Dockerfile in the file that was given"),
        (Path("nope"), "there is no nope in the file that was given"),
        (Path("d"), "there is no d in the file that was given"),
    ):
        with pytest.raises(ContextError) as caught:
            opened(io.BytesIO(data), dockerfile=asked).definition()
        assert caught.value.message == message
        assert caught.value.hint == "did you mean -f Dockerfile.dev?"


def test_a_dockerfile_that_is_too_large(opened: Open) -> None:
    data = archive(member(b"Dockerfile", content=bytes((16 << 20) + 1)))
    with pytest.raises(ContextError, match="Dockerfile in the file that was given is larger"):
        opened(io.BytesIO(data)).definition()


def test_a_dockerfile_alone_has_an_empty_context(opened: Open) -> None:
    contexts = opened(io.BytesIO(TEXT))
    assert contexts.definition() == ("Dockerfile", TEXT, None)
    assert listed(contexts) == []
    assert contexts.ignored() == ()


def test_a_stream_is_one_thing(opened: Open) -> None:
    stream = io.BytesIO(TEXT)
    with pytest.raises(UsageError, match="can't use stdin for both"):
        opened(stream, dockerfile=stream)
    with pytest.raises(UsageError, match="ambiguous Dockerfile source"):
        opened(stream, dockerfile=Path("Dockerfile")).open("")
    # Two streams are two things.
    data = archive(member(b"x"))
    contexts = opened(io.BytesIO(data), dockerfile=io.BytesIO(b"FROM a"))
    assert contexts.definition().data == b"FROM a"
    assert listed(contexts) == [b"x"]


def test_a_dockerfile_from_a_stream_or_a_url(tmp_path: Path, world: World, opened: Open) -> None:
    (tmp_path / "Dockerfile").write_bytes(b"FROM folder")
    found = opened(tmp_path, dockerfile=io.BytesIO(b"FROM stream")).definition()
    assert found == ("Dockerfile", b"FROM stream", None)
    world.files[URL] = b"FROM url", None
    assert opened(tmp_path, dockerfile=URL).definition() == ("it", b"FROM url", None)


# --- the main context


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_archive_behind_a_url(
    compress: Callable[[bytes], bytes], world: World, opened: Open
) -> None:
    data = archive(member(b"Dockerfile", content=TEXT, mtime=5), member(b"x", mtime=9))
    world.files[URL] = compress(data), None
    contexts = opened(URL)
    assert contexts.definition().data == TEXT
    assert listed(contexts) == [b"Dockerfile", b"x"]
    assert contexts.context_time("") == 9
    world.files[URL] = compress(data), 7
    assert opened(URL).context_time("") == 7
    assert len(world.asked) == 2


def test_a_dockerfile_behind_a_url(store: Store, world: World, opened: Open) -> None:
    world.files[URL] = TEXT, 77
    contexts = opened(URL)
    assert contexts.definition() == ("it", TEXT, None)
    built = build(store, URL, "FROM scratch\nCOPY . /\n", open_remotes=world.remotes)
    (found,) = members(store, built)
    assert (found.name, found.mode, found.mtime, found.uid) == ("context", 0o600, 77, 0)
    assert content(store, built, "context") == TEXT


@pytest.mark.parametrize(
    "data", [b"", bytes(2000), b"PK\3\4\n\0\0 a zip archive"], ids=["empty", "zeros", "zip"]
)
def test_a_url_with_nothing_of_use(data: bytes, world: World, opened: Open) -> None:
    world.files[URL] = data, None
    with pytest.raises(ContextError, match=r"https://xxxxx:xxxxx@example.com/files/it "):
        opened(URL).definition()


def test_errors_hide_what_is_in_a_url(store: Store, world: World) -> None:
    world.files[URL] = archive(member(b"x")), None
    with pytest.raises(ContextError, match="not found") as caught:
        build(store, URL, "FROM scratch\nCOPY y /\n", open_remotes=world.remotes)
    assert caught.value.hint == f"paths are relative to {SHOWN}"
    with pytest.raises(UsageError) as wrong:
        Contexts(BuildOptions(f"{GIT}?a=b"), store.paths.staging, world.remotes())
    assert "secret" not in str(wrong.value)


def test_a_repository(store: Store, world: World, opened: Open) -> None:
    (world.repository / "Dockerfile").write_bytes(TEXT)
    (world.repository / ".dockerignore").write_text("*")
    contexts = opened(f"{GIT}#main:sub")
    assert contexts.definition().data == TEXT
    # As in BuildKit, an ignore file is for folders of the caller.
    assert listed(contexts) == [b".dockerignore", b"Dockerfile"]
    assert contexts.ignored() == ()
    assert contexts.context_time("") == 1234
    (asked,) = world.asked
    assert isinstance(asked, GitSource)
    assert (asked.repository.ref, asked.repository.subdir) == ("main", "sub")
    with pytest.raises(ContextError, match="not found") as caught:
        build(store, GIT, "FROM scratch\nCOPY y /\n", open_remotes=world.remotes)
    assert caught.value.hint == (
        "paths are relative to the repository https://xxxxx:xxxxx@example.com/team/app.git"
    )


@pytest.mark.parametrize(
    ("value", "kept"), [("1", True), ("true", True), ("0", False), ("", False)]
)
def test_the_git_dir_is_kept_on_demand(value: str, kept: bool, world: World, opened: Open) -> None:
    arguments = {"BUILDKIT_CONTEXT_KEEP_GIT_DIR": value}
    contexts = opened(GIT, build_args=arguments, build_contexts={"other": GIT})
    contexts.open("").close()
    contexts.open("other").close()
    # The argument is about the main context alone.
    assert [asked.keep_git_dir for asked in world.asked if isinstance(asked, GitSource)] == [
        kept, False
    ]  # fmt: skip


def test_a_checkout_that_did_not_change_is_cached(store: Store, world: World) -> None:
    (world.repository / "x").write_text("x")
    first = build(store, GIT, TEXT.decode(), open_remotes=world.remotes)
    os.utime(world.repository / "x", (5, 5))
    again = build(store, GIT, TEXT.decode(), open_remotes=world.remotes)
    assert [step.verdict for step in (*first.steps, *again.steps)] == ["done", "cached"]


# --- named ones


def test_a_named_url_is_one_file(store: Store, world: World) -> None:
    # Even an archive: BuildKit does not unpack it.
    data = gzip.compress(archive(member(b"inside")))
    world.files[URL] = data, None
    text = "FROM scratch\nCOPY --from=u . /d/\nCOPY --from=u context /f\n"
    built = build(store, io.BytesIO(b"-"), text, contexts={"u": URL}, open_remotes=world.remotes)
    assert names(store, built, 0) == ["d", "d/context"]
    assert content(store, built, "f", 1) == data


def test_named_folders_have_their_own_ignore_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "named").mkdir()
    for name in (".dockerignore", "x", "y"):
        (tmp_path / "named" / name).write_text("x\n")
    (tmp_path / "main").mkdir()
    (tmp_path / "main/.dockerignore").write_text("y\n")
    text = "FROM scratch\nCOPY --from=n . /\n"
    built = build(store, tmp_path / "main", text, contexts={"n": str(tmp_path / "named")})
    assert names(store, built) == [".dockerignore", "y"]


def test_unused_contexts_are_not_asked_for(store: Store, world: World) -> None:
    contexts = {"u": URL, "g": GIT, "i": "docker-image://nowhere.example/x", "l": "oci-layout:///x"}
    build(store, GIT, "FROM scratch\nLABEL a=b\n", contexts=contexts, open_remotes=world.remotes)
    assert world.asked == []


def test_from_a_repository_makes_an_image_of_it(store: Store, world: World, context: Path) -> None:
    (world.repository / "d").mkdir(mode=0o711)
    (world.repository / "d/x").write_text("x")
    (context / "own").write_text("o")
    text = "FROM g\nCOPY own /own\n"
    built = build(store, context, text, contexts={"g": GIT}, open_remotes=world.remotes)
    assert names(store, built, 0) == ["d", "d/x"]
    assert names(store, built, 1) == ["own"]
    document = config(store, built)
    assert document["config"]["WorkingDir"] == "/"
    assert document["config"]["Env"][0].startswith("PATH=")
    assert len(document["history"]) == 2
    again = build(store, context, text, contexts={"g": GIT}, open_remotes=world.remotes)
    assert [step.verdict for step in again.steps] == ["cached", "cached"]


def test_from_an_image_that_a_context_replaces(store: Store, world: World) -> None:
    (world.repository / "x").write_text("x")
    text = "FROM docker.io/library/alpine:latest\n"
    built = build(store, GIT, text, contexts={"alpine": GIT}, open_remotes=world.remotes)
    assert names(store, built) == ["x"]
    empty = build(store, GIT, text, contexts={"alpine": "docker-image://scratch"})
    assert empty.layers == ()
    assert config(store, empty)["config"]["WorkingDir"] == "/"


# --- SOURCE_DATE_EPOCH


def epoch(store: Store, world: World, context: Any, value: str, **options: Any) -> Any:
    text = options.pop(
        "text", "FROM scratch\nARG SOURCE_DATE_EPOCH\nENV at=$SOURCE_DATE_EPOCH\nWORKDIR /w\n"
    )
    built = build(
        store, context, text, open_remotes=world.remotes,
        build_args={"SOURCE_DATE_EPOCH": value}, **options,
    )  # fmt: skip
    document = config(store, built)
    env = dict(pair.split("=", 1) for pair in document["config"]["Env"])
    return env.get("at"), document.get("created")


def test_the_epoch_of_the_context(store: Store, world: World, context: Path) -> None:
    assert epoch(store, world, GIT, "context") == ("1234", "1970-01-01T00:20:34Z")
    stream = io.BytesIO(archive(member(b"x", mtime=60), member(b"d/", b"5", mtime=99)))
    assert epoch(store, world, stream, "context") == ("60", "1970-01-01T00:01:00Z")
    (context / "x").write_text("x")
    at, created = epoch(store, world, context, "context")
    assert at == ""
    assert created > "2020"


def test_the_epoch_of_a_named_context(store: Store, world: World, context: Path) -> None:
    named = {"u": URL, "g": GIT, "alpine": GIT, "d": str(context)}
    world.files[URL] = archive(member(b"x", mtime=61)), None
    assert epoch(store, world, context, "u", contexts=named)[0] == "61"
    world.files[URL] = b"text", 62
    assert epoch(store, world, context, "u", contexts=named)[0] == "62"
    world.files[URL] = b"text", None
    assert epoch(store, world, context, "u", contexts=named)[0] == ""
    assert epoch(store, world, context, "docker.io/library/alpine", contexts=named)[0] == "1234"
    assert epoch(store, world, context, "d", contexts=named)[0] == ""


@pytest.mark.parametrize(
    ("stage", "time"),
    [
        (f"FROM scratch AS src\nADD {URL} /\n", "63"),
        (f"ARG base=scratch\nFROM $base AS Src\nARG u={URL}\nADD $u /\n", "63"),
        (f"FROM scratch AS src\nADD --keep-git-dir {GIT} /\n", "1234"),
    ],
    ids=["url", "with arguments", "repository"],
)
def test_the_epoch_of_a_stage(
    stage: str, time: str, store: Store, world: World, context: Path
) -> None:
    world.files[URL] = b"text", 63
    text = f"{stage}FROM scratch\nARG SOURCE_DATE_EPOCH\nENV at=$SOURCE_DATE_EPOCH\n"
    assert epoch(store, world, context, "SRC", text=text)[0] == time


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("FROM debian AS src\n", "SOURCE_DATE_EPOCH stage must use FROM scratch"),
        ("FROM scratch AS src\n", "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD"),
        (f"FROM scratch AS src\nADD {URL} /\nADD {URL} /\n",
         "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD"),
        (f"FROM scratch AS src\nADD {URL} {URL} /\n",
         "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source"),
        ("FROM scratch AS src\nADD x /\n",
         "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD"),
        ("FROM scratch AS src\nWORKDIR /x\n",
         "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported WORKDIR instruction"),
        ("FROM scratch AS other\n", "invalid SOURCE_DATE_EPOCH: src"),
    ],
)  # fmt: skip
def test_stages_that_give_no_epoch(
    stage: str, message: str, store: Store, world: World, context: Path
) -> None:
    with pytest.raises(DockerfileError) as caught:
        epoch(store, world, context, "src", text=stage)
    assert caught.value.message == message
    assert caught.value.hint
