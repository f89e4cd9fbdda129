"""COPY and ADD as steps: here-documents, --link, --parents, --exclude, and what the cache makes of them."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from imgbuild.build import context as contexts
from imgbuild.build.filereader import TreeReader
from imgbuild.errors import ContextError, DockerfileError
from imgbuild.events import Event, StepFinished
from imgbuild.store.store import Store
from tests.unit.build.building import build, content, members, names


def verdicts(store: Store, context: Path, text: str) -> list[str]:
    events: list[Event] = []
    build(store, context, text, events=events.append)
    return [event.verdict for event in events if isinstance(event, StepFinished)]


def test_here_documents_are_files_behind_the_sources(store: Store, context: Path) -> None:
    (context / "f").write_text("F")
    text = "FROM scratch\nARG A=é\nCOPY --chmod=u+x <<one f <<-'two' /d/\n$A\none\n\t$A\n\ttwo\n"
    built = build(store, context, text)
    assert names(store, built) == ["d", "d/f", "d/one", "d/two"]
    assert [m.mode for m in members(store, built)][1:] == [0o744] * 3
    assert content(store, built, "d/one") == "é\n".encode()
    assert content(store, built, "d/two") == b"$A\n"


def test_a_here_document_to_a_file_takes_its_name_and_add_does_not_unpack_it(
    store: Store, context: Path
) -> None:
    built = build(store, context, "FROM scratch\nADD <<EOF /a/b\ntext\nEOF\n")
    assert names(store, built) == ["a", "a/b"]


def test_here_documents_get_the_newest_time_of_the_sources(store: Store, context: Path) -> None:
    (context / "f").write_text("F")
    os.utime(context / "f", (1234, 1234))
    built = build(store, context, "FROM scratch\nCOPY f <<EOF /d/\nEOF\n")
    assert [m.mtime for m in members(store, built)] == [1234] * 3
    built = build(store, context, "FROM scratch\nCOPY <<EOF /d/\nEOF\n")
    assert [m.mtime for m in members(store, built)] == [0, 0]


def test_the_text_of_a_here_document_counts(store: Store, context: Path) -> None:
    text = "FROM scratch\nARG V=1\nCOPY <<EOF /f\n{}\nEOF\n"
    assert verdicts(store, context, text.format("$V")) == ["done"]
    assert verdicts(store, context, text.format("$V")) == ["cached"]
    assert verdicts(store, context, text.format("1")) == ["cached"]
    assert verdicts(store, context, text.format("2")) == ["done"]


LINKED = "FROM scratch\nCOPY a /x/a\nCOPY --link b /x/b\nCOPY c /x/c\n"


def test_a_linked_layer_stands_on_nothing(store: Store, context: Path) -> None:
    for name in "abc":
        (context / name).write_text(name)
    assert verdicts(store, context, LINKED) == ["done"] * 3
    (context / "a").write_text("changed")
    # What comes after it does stand on the layer that changed.
    assert verdicts(store, context, LINKED) == ["done", "cached", "done"]
    # The same files on another base.
    other = "FROM scratch\nWORKDIR /w\nCOPY --link b /x/b\n"
    assert verdicts(store, context, other) == ["done", "cached"]
    (context / "b").write_text("changed")
    assert verdicts(store, context, LINKED) == ["cached", "done", "done"]


def test_a_link_sees_no_names_and_no_symlinks_of_the_base(store: Store, context: Path) -> None:
    (context / "root").mkdir()
    (context / "root/real").mkdir()
    (context / "root/l").symlink_to("real")
    (context / "root/etc").mkdir()
    (context / "root/etc/passwd").write_text("me:x:5:6::/:\n")
    (context / "f").write_text("F")
    base = "FROM scratch\nCOPY root /\n"
    built = build(store, context, f"{base}COPY f /l/\n")
    assert names(store, built) == ["real", "real/f"]
    built = build(store, context, f"{base}COPY --link f /l/\n")
    assert names(store, built) == ["l", "l/f"]
    built = build(store, context, f"{base}COPY --chown=me f /f\n")
    assert (members(store, built)[0].uid, members(store, built)[0].gid) == (5, 6)
    with pytest.raises(ContextError, match="invalid user index: -1") as raised:
        build(store, context, f"{base}COPY --link --chown=me f /f\n")
    assert raised.value.hint == "--link does not see the users of the base: use numbers"


def test_a_mode_takes_the_link_away(store: Store, context: Path) -> None:
    (context / "f").write_text("F")
    text = "FROM scratch\nCOPY {}f /d/f\nCOPY --link --chmod=600 f /d/g\n"
    assert verdicts(store, context, text.format("")) == ["done", "done"]
    assert verdicts(store, context, text.format("--chown=1 ")) == ["done", "done"]


def test_a_linked_archive_is_unpacked(store: Store, context: Path) -> None:
    with tarfile.open(context / "a.tar", "w") as archive:
        info = tarfile.TarInfo("in/side")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    built = build(store, context, "FROM scratch\nADD --link a.tar /d/\n")
    assert names(store, built) == ["d", "d/in", "d/in/side"]


def test_only_what_is_kept_is_read_and_counts(
    store: Store, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("d/keep/f", "d/node_modules/x/y", "d/a.log"):
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    text = "FROM scratch\nCOPY --exclude=node_modules --exclude=*.log d /d\n"
    opened: list[bytes] = []
    real = TreeReader.open

    def noted(self: TreeReader, path: bytes) -> int:
        opened.append(path)
        return real(self, path)

    monkeypatch.setattr(TreeReader, "open", noted)
    built = build(store, context, text)
    assert names(store, built) == ["d", "d/keep", "d/keep/f"]
    assert opened == [b"d/keep/f"]  # once: it is hashed while its layer is made
    (context / "d/a.log").write_text("more")
    (context / "d/node_modules/x/z").write_text("more")
    assert verdicts(store, context, text) == ["cached"]
    assert verdicts(store, context, text.replace("--exclude=*.log ", "")) == ["done"]


def test_excluded_directories_are_not_entered(store: Store, context: Path) -> None:
    (context / "d/closed/deep").mkdir(parents=True)
    (context / "d/f").write_text("f")
    with contexts.ContextTree(context) as tree:
        skipped: list[bytes] = []

        def skip(path: bytes) -> bool:
            skipped.append(path)
            return path == b"d/closed"

        assert [item.rel for item in tree.walk(b"d", skip)] == [b"f"]
        assert skipped == [b"d/closed"]


def test_parents_from_a_context_with_ignored_files(store: Store, context: Path) -> None:
    for name in ("p/one/package.json", "p/two/package.json", "p/two/src/x", "p/three/x"):
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (context / ".dockerignore").write_text("p/one\n")
    built = build(store, context, "FROM scratch\nCOPY --parents p/*/package.json /w/\n")
    assert names(store, built) == ["w", "w/p", "w/p/two", "w/p/two/package.json"]
    with pytest.raises(ContextError, match='"/p/one/package.json": not found') as caught:
        build(store, context, "FROM scratch\nCOPY --parents p/one/package.json /w/\n")
    assert caught.value.hint is not None
    assert ".dockerignore excludes /p/one above it (line 1: p/one)" in caught.value.hint


def test_hard_links_survive_a_filter(store: Store, context: Path) -> None:
    (context / "d").mkdir()
    (context / "d/a").write_text("same")
    for name in ("b", "c"):
        (context / "d" / name).hardlink_to(context / "d/a")
    built = build(store, context, "FROM scratch\nCOPY --exclude=a d /d\n")
    assert [(m.name, m.isreg(), m.linkname) for m in members(store, built)[1:]] == [
        ("d/b", True, ""),
        ("d/c", False, "d/b"),
    ]
    assert content(store, built, "d/b") == b"same"


def test_filters_of_stages_are_kept_apart_in_the_cache(store: Store, context: Path) -> None:
    for name in ("d/a", "d/b"):
        (context / name).parent.mkdir(exist_ok=True)
        (context / name).write_text(name)
    text = "FROM scratch AS s\nCOPY d /d\nFROM scratch\nCOPY --from=s {} /\n"
    assert names(store, build(store, context, text.format("/d"))) == ["a", "b"]
    assert names(store, build(store, context, text.format("--exclude=a /d"))) == ["b"]
    assert names(store, build(store, context, text.format("--parents /d"))) == ["d", "d/a", "d/b"]
    assert names(store, build(store, context, text.format("--parents /d/./b"))) == ["b"]


@pytest.mark.parametrize("name", ["a/b", "..", ".", "x" * 256])
def test_a_here_document_has_to_have_the_name_of_a_file(
    store: Store, context: Path, name: str
) -> None:
    with pytest.raises(DockerfileError, match="cannot make a file called") as caught:
        build(store, context, f"FROM scratch\nCOPY <<{name} /d/\n{name}\n")
    assert caught.value.span is not None


def test_a_bad_pattern_of_exclude_has_its_place(store: Store, context: Path) -> None:
    with pytest.raises(DockerfileError, match="invalid excludepatterns") as caught:
        build(store, context, "FROM scratch\nCOPY --exclude=[ . /d/\n")
    assert caught.value.span is not None
    assert caught.value.hint == "correct the pattern of --exclude"
