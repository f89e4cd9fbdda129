"""Files in batches: what is read is right and in order, beside the caller and in it."""

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgbuild.build import readers
from imgbuild.build.context import ContextTree, wanted
from imgbuild.build.filereader import (
    CHUNK,
    CONTENT,
    HASH,
    XATTRS,
    FileChangedError,
    FileReadError,
    TreeReader,
    Wanted,
)
from imgbuild.build.readers import Batch, Readers, batched
from imgbuild.errors import ContextError

MANY = 10_000  # as an expectation, enough to start processes


@pytest.fixture
def files(context: Path) -> list[Path]:
    rng = random.Random(1)
    out = []
    for n in range(600):
        path = context / f"d{n % 7}/f{n:03}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 511, 4096, 9000])))
        out.append(path)
    (context / "large").write_bytes(rng.randbytes(CHUNK + 1) * 2)
    return [*sorted(out), context / "large"]


def asked(context: Path, paths: list[Path]) -> list[tuple[Path, Wanted]]:
    with ContextTree(context) as tree:
        found = []
        for path in paths:
            rel = os.fsencode(path.relative_to(context))
            item = tree.item(rel)
            assert item is not None
            found.append((path, wanted(rel, item)))
    return found


@pytest.fixture
def reader(context: Path) -> Iterator[Readers]:
    fd = os.open(context, os.O_RDONLY)
    opened = Readers(fd)
    yield opened
    opened.close()
    os.close(fd)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})


def everything(
    reader: Readers, wants: list[tuple[Path, Wanted]], flags: int, expected: int
) -> list[tuple[Path, bytes | None, bytes]]:
    found = []
    for keys, batch in reader.read(batched(wants), flags, expected):
        contents = batch.contents or [b""] * len(keys)
        found += [(k, f[0], c) for k, f, c in zip(keys, batch.facts, contents, strict=True)]
    return found


@pytest.mark.parametrize("expected", [1, MANY], ids=["inline", "processes"])
@pytest.mark.parametrize("flags", [HASH, CONTENT, HASH | CONTENT | XATTRS])
def test_all_files_come_in_order(
    reader: Readers, context: Path, files: list[Path], expected: int, flags: int
) -> None:
    found = everything(reader, asked(context, files), flags, expected)
    assert bool(reader._workers) is (expected == MANY)
    assert found == [
        (
            path,
            hashlib.sha256(path.read_bytes()).digest() if flags & HASH else None,
            path.read_bytes() if flags & CONTENT else b"",
        )
        for path in files
    ]


def test_one_core_starts_no_process(
    reader: Readers, context: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    assert len(everything(reader, asked(context, files), HASH, MANY)) == len(files)
    assert not reader._workers


def test_batches_are_bounded() -> None:
    wants = [(n, (b"x" * 100, 5000, 0, 0, 0, 0)) for n in range(1000)]
    batches = list(batched(wants))
    assert [key for keys, _ in batches for key in keys] == list(range(1000))
    assert max(len(batch) for _, batch in batches) <= readers.FILES
    assert max(sum(len(one[0]) for one in batch) for _, batch in batches) <= (16 << 10) + 100
    assert len(list(batched((n, (b"x", CHUNK, 0, 0, 0, 0)) for n in range(5)))) == 5


def grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("expected", [1, MANY], ids=["inline", "processes"])
@pytest.mark.parametrize(
    ("change", "error"),
    [(grow, FileChangedError), (touch, FileChangedError), (link, FileReadError), (remove, FileReadError)],
    ids=["grow", "touch", "link", "remove"],
)  # fmt: skip
def test_what_is_not_what_was_listed_is_refused(
    reader: Readers,
    context: Path,
    files: list[Path],
    change: Callable[[Path], None],
    error: type[Exception],
    expected: int,
) -> None:
    wants = asked(context, files)
    change(files[400])
    with pytest.raises(error) as caught:
        everything(reader, wants, HASH | CONTENT, expected)
    assert getattr(caught.value, "path") == wants[400][1][0]  # noqa: B009 - of either
    # Answers on their way when it failed are not taken for those to other questions.
    assert everything(reader, wants[:300], HASH, expected)[299][0] == files[299]


def test_a_directory_swapped_for_a_link_is_not_followed(
    reader: Readers, context: Path, files: list[Path], tmp_path: Path
) -> None:
    wants = asked(context, files)
    (context / "d3").rename(tmp_path / "outside")
    (context / "d3").symlink_to(tmp_path / "outside")
    for expected in (1, MANY):
        with pytest.raises(FileReadError):
            everything(reader, wants, HASH, expected)


def test_a_process_that_goes_away_is_told(
    reader: Readers, context: Path, files: list[Path]
) -> None:
    wants = asked(context, files)
    reader.start()
    for worker in reader._workers:
        assert worker.is_ours()
        worker._process.kill()
        worker._process.wait()
    with pytest.raises(ContextError, match="ended unexpectedly"):
        everything(reader, wants, HASH | CONTENT, MANY)


@pytest.mark.parametrize("expected", [1, MANY], ids=["inline", "processes"])
def test_a_file_that_grows_as_fast_as_it_is_read_is_refused(
    reader: Readers, context: Path, expected: int
) -> None:
    # Grown by more than could be read in a test, the first look at its end has to be enough.
    path = context / "grows"
    path.write_bytes(bytes(CHUNK + 1))
    wants = asked(context, [path])
    os.truncate(path, 1 << 42)
    with pytest.raises(FileChangedError):
        everything(reader, wants, HASH, expected)


def test_a_file_that_grows_while_it_is_read_is_given_up(
    context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = context / "grows"
    path.write_bytes(bytes(2 * CHUNK))
    wants = asked(context, [path])
    reads = []

    def read(_fd: int, size: int) -> bytes:
        reads.append(size)
        assert len(reads) < 10, "it is read for ever"
        return bytes(size)

    fd = os.open(context, os.O_RDONLY)
    monkeypatch.setattr(os, "read", read)
    with pytest.raises(FileChangedError):
        TreeReader(fd).read(wants[0][1], HASH | CONTENT)
    monkeypatch.undo()
    os.close(fd)


@pytest.mark.parametrize("program", ["/bin/cat", "/bin/true", "/nowhere/python", "/dev/null"])
def test_an_executable_that_is_no_python_is_done_without(
    program: str,
    reader: Readers,
    context: Path,
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wants = asked(context, files)
    expected = everything(reader, wants, HASH | CONTENT, 1)
    monkeypatch.setattr(sys, "executable", program)
    assert everything(reader, wants, HASH | CONTENT, MANY) == expected
    assert everything(reader, wants, HASH | CONTENT, MANY) == expected
    assert reader._alone


def test_what_starts_but_says_something_else_is_done_without(
    reader: Readers,
    context: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wants = asked(context, files)
    other = tmp_path / "application"
    other.write_text("#!/bin/sh\necho welcome to the application, which talks and talks\ncat\n")
    other.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(other))
    assert [key for key, _, _ in everything(reader, wants, HASH, MANY)] == files


def test_a_long_file_is_given_up_when_nobody_waits_for_it(context: Path) -> None:
    (context / "long").write_bytes(bytes(2 * CHUNK))
    wants = asked(context, [context / "long"])
    fd = os.open(context, os.O_RDONLY)
    with pytest.raises(FileReadError):
        TreeReader(fd, lambda: False).read(wants[0][1], HASH)
    os.close(fd)


def test_a_reader_that_is_left_early_starts_anew(
    reader: Readers, context: Path, files: list[Path]
) -> None:
    wants = asked(context, files)
    for _ in reader.read(batched(wants), HASH, MANY):
        break
    first = next(iter(reader.read(batched(wants), HASH, MANY)))
    assert isinstance(first[1], Batch)
    assert first[0][0] == files[0]


def test_processes_end_with_their_caller(context: Path, files: list[Path]) -> None:
    code = (
        "import os, sys\n"
        "from imgbuild.build.readers import Readers\n"
        "os.sched_getaffinity = lambda _pid: {0, 1}\n"
        f"opened = Readers(os.open({str(context)!r}, os.O_RDONLY))\n"
        "opened.start()\n"
        "print(opened._workers[0]._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    pid = int(run.stdout)
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists() or _is_zombie(pid):
            return
        os.sched_yield()
        _nap()
    raise AssertionError("the process that reads is still there")


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _nap() -> None:
    import time

    time.sleep(0.01)


def test_the_process_loads_little(context: Path) -> None:
    code = (
        "import sys; package = sys.modules['imgbuild'] = type(sys)('imgbuild'); "
        "package.__path__ = [sys.argv[1]]; from imgbuild.build import filereader; "
        "print(*sorted(m for m in sys.modules if m.startswith('imgbuild')))"
    )
    package = Path(readers.__file__).parents[1]
    shown = subprocess.run(
        [sys.executable, "-SI", "-c", code, package], capture_output=True, text=True, check=True
    ).stdout.split()
    assert shown == [
        "imgbuild",
        "imgbuild.build",
        "imgbuild.build.filereader",
        "imgbuild.inroot",
        "imgbuild.layer",
        "imgbuild.layer.xattrs",
    ]
