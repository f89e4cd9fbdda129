"""Read the files of a tree in batches, in order, with processes beside the caller where that pays.

Reading small files is system calls and Python between them: threads would only take turns.
"""

import fcntl
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import imgbuild
from imgbuild.build import filereader
from imgbuild.build.filereader import CHUNK, CONTENT, Fact, TreeReader, Wanted
from imgbuild.errors import ContextError

# What a batch holds at most; its request has to fit in a pipe together with the one before.
FILES = 256
_NAMES = 16 << 10
# As long as this many batches could be read, starting a process costs more than it brings.
_FEW = 8
_MOST_PROCESSES = 4
_AHEAD = 2  # batches that wait for each process

# The package stands in for itself without its __init__, as the sandbox starts its processes.
_CODE = (
    "import sys; package = sys.modules['imgbuild'] = type(sys)('imgbuild'); "
    "package.__path__ = [sys.argv[1]]; "
    "from imgbuild.build import filereader; filereader.main(int(sys.argv[2]))"
)

Key = TypeVar("Key")


class Batch(NamedTuple):
    """What was read of some files: contents are empty unless they were asked for."""

    facts: Sequence[Fact]
    contents: Sequence[bytes]


class Readers:
    """Reads below an open directory; close it when done."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._inline = TreeReader(root)
        self._workers: list[_Worker] = []
        # Processes cannot be started here, or are not what they should be.
        self._alone = False

    def close(self) -> None:
        self._inline.close()
        for worker in self._workers:
            worker.close()
        self._workers.clear()

    def read(
        self, batches: Iterable[tuple[Key, list[Wanted]]], flags: int, expected: int
    ) -> Iterator[tuple[Key, Batch]]:
        """Read batches in their order; `expected` is about how many files they hold.

        Raises `filereader.FileChangedError` and `filereader.FileReadError`, and `ContextError`
        when a process that reads goes away.
        """
        workers = self._started(flags) if expected >= FILES * _FEW else []
        if not workers:
            for key, wanted in batches:
                yield key, self._read_here(wanted, flags)
            return
        waiting: deque[tuple[_Worker, Key, list[Wanted]]] = deque()
        try:
            for number, (key, wanted) in enumerate(batches):
                worker = workers[number % len(workers)]
                worker.send(wanted, flags)
                waiting.append((worker, key, wanted))
                if len(waiting) >= _AHEAD * len(workers):
                    yield self._answer(*waiting.popleft(), flags)
            while waiting:
                yield self._answer(*waiting.popleft(), flags)
        finally:
            if waiting:
                # Answers that nobody took would be taken for those to the next requests.
                self.close()

    def start(self) -> None:
        """Start a process now that `read` would start later."""
        self._started(CONTENT)

    def _started(self, flags: int) -> "list[_Worker]":
        cores = len(os.sched_getaffinity(0))
        if cores < 2 or not sys.executable or self._alone:
            return []
        # With contents, the caller is what the others wait for: it writes them.
        wanted = min(cores - 1, 2) if flags & CONTENT else min(cores, _MOST_PROCESSES)
        try:
            while len(self._workers) < wanted:
                self._workers.append(_Worker(self._root))
        except OSError:
            self._alone = True
        return self._workers[:wanted]

    def _answer(
        self, worker: "_Worker", key: Key, wanted: list[Wanted], flags: int
    ) -> tuple[Key, Batch]:
        if not worker.is_ours():
            self._alone = True
            return key, self._read_here(wanted, flags)
        facts, data = worker.receive()
        if not flags & CONTENT:
            return key, Batch(facts, ())
        contents = []
        at = 0
        for one in wanted:
            contents.append(data[at : at + one[1]])
            at += one[1]
        return key, Batch(facts, contents)

    def _read_here(self, wanted: list[Wanted], flags: int) -> Batch:
        found = [self._inline.read(one, flags) for one in wanted]
        return Batch([fact for fact, _ in found], [data for _, data in found])


class _Worker:
    """A process that reads."""

    def __init__(self, root: int) -> None:
        import subprocess

        package = str(Path(imgbuild.__file__).resolve().parent)
        self._process = subprocess.Popen(
            [sys.executable, "-SI", "-X", "utf8", "-c", _CODE, package, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(root,),
            cwd="/",
            env={},
            # Ctrl-C is for the caller, whose end is the end of this one's input.
            start_new_session=True,
        )
        self._is_ours: bool | None = None
        _widen(self._process.stdout)

    def is_ours(self) -> bool:
        """Tell whether it is what was to be started: in an application that Python is part of,
        `sys.executable` may be something else.
        """
        if self._is_ours is None:
            assert self._process.stdout is not None  # noqa: S101  it is a pipe
            greeting = self._process.stdout.read(len(filereader.GREETING))
            self._is_ours = greeting == filereader.GREETING
            if not self._is_ours:
                self._process.kill()
        return self._is_ours

    def send(self, wanted: list[Wanted], flags: int) -> None:
        assert self._process.stdin is not None  # noqa: S101  it is a pipe
        # When it is gone, that shows when its answer is taken.
        with suppress(OSError):
            filereader.send(self._process.stdin, (flags, wanted))

    def receive(self) -> tuple[list[Fact], bytes]:
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        received = filereader.receive(self._process.stdout)
        if received is None:
            raise _gone()
        message, data = received
        if message[0] == "changed":
            raise filereader.FileChangedError(message[1])
        if message[0] == "unreadable":
            raise filereader.FileReadError(message[1], message[2])
        return message[1], data

    def close(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue  # what could not be sent is not wanted any more
        self._process.wait()


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a whole answer fit into a pipe, so that the process can read on; less is slower, no more."""
    if pipe is not None:
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CHUNK)


def _gone() -> ContextError:
    return ContextError(
        "a process that reads the build context ended unexpectedly",
        hint="the machine may be short of memory; run the same command again",
    )


def is_full(count: int, names: int, size: int) -> bool:
    """Tell whether a batch has enough: things in it, bytes of their names, bytes of their contents."""
    return count >= FILES or names >= _NAMES or size >= CHUNK


def expected(count: int, size: int) -> int:
    """Return how many files of 4 KiB cost about as much to read as `count` files of `size` bytes."""
    return count + size // (64 << 10)


def batched(
    wanted: Iterable[tuple[Key, Wanted]],
) -> Iterator[tuple[list[Key], list[Wanted]]]:
    """Put files together that are read at one go: not too many, too large or with too long names."""
    keys: list[Key] = []
    batch: list[Wanted] = []
    names = size = 0
    for key, one in wanted:
        keys.append(key)
        batch.append(one)
        names += len(one[0])
        size += one[1]
        if is_full(len(batch), names, size):
            yield keys, batch
            keys, batch, names, size = [], [], 0, 0
    if batch:
        yield keys, batch
