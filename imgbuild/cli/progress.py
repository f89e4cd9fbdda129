"""Show the events of a build: plain lines, nothing, or a live terminal (`cli/terminal.py`)."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, assert_never

from imgbuild.cli import environment
from imgbuild.cli.lines import LineSplitter
from imgbuild.cli.text import ending, found, sanitise, size
from imgbuild.events import (
    BuildFinished,
    BuildStarted,
    CheckWarning,
    Event,
    EventSink,
    Notice,
    ShellOpened,
    StepFinished,
    StepOutput,
    StepStarted,
    TransferProgress,
    ignore,
)
from imgbuild.options import ProgressMode


class PlainProgress:
    """One line per event, as `docker build --progress=plain` prints them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started: dict[int, float] = {}
        self._lines: dict[tuple[int, str], LineSplitter] = {}
        self._transfers: set[str] = set()
        self._warnings: list[CheckWarning] = []

    def __call__(self, event: Event) -> None:
        match event:
            case BuildStarted():
                pass
            case StepStarted():
                self._started[event.number] = time.monotonic()
                self._print(f"#{event.number} {event.name}")
            case StepOutput():
                key = (event.number, event.stream)
                splitter = self._lines.setdefault(key, LineSplitter())
                self._output(event.number, splitter.feed(event.data))
            case StepFinished():
                self._finish(event)
            case ShellOpened():
                self._flush(event.number)
                self._print(event.message)
            case TransferProgress():
                self._transfer(event)
            case Notice():
                self._print(event.message if event.detail else f"notice: {event.message}")
            case CheckWarning():
                self._warnings.append(event)
            case BuildFinished():
                for line in ending(event):
                    self._print(line)
            case _:
                assert_never(event)

    def close(self) -> None:
        """Tell what the checks found; also after an error."""
        for line in found(self._warnings):
            self._print(line)
        self._warnings.clear()

    def _output(self, number: int, lines: list[str]) -> None:
        seconds = time.monotonic() - self._started.get(number, time.monotonic())
        for line in lines:
            self._print(f"#{number} {seconds:.3f} {line}")

    def _flush(self, number: int) -> None:
        for stream in ("stdout", "stderr"):
            if splitter := self._lines.pop((number, stream), None):
                self._output(number, splitter.feed(b"", final=True))

    def _finish(self, event: StepFinished) -> None:
        self._flush(event.number)
        if event.number not in self._started:
            self._print(f"#{event.number} {event.name}")
        words = {"cached": "CACHED", "done": "DONE", "failed": "ERROR", "canceled": "CANCELED"}
        verdict = words[event.verdict]
        took = "" if event.verdict == "cached" else f" {event.seconds:.1f}s"
        self._print(f"#{event.number} {verdict}{took}")

    def _transfer(self, event: TransferProgress) -> None:
        if event.what not in self._transfers:
            self._transfers.add(event.what)
            self._print(f"{event.what} ({size(event.total)})")
        if event.done >= event.total:
            self._print(f"{event.what} done")

    def _print(self, text: str) -> None:
        print(sanitise(text), file=self._out, flush=True)


@contextmanager
def shown(mode: ProgressMode) -> Iterator[EventSink]:
    """Show events as `mode` says; the terminal is left as it was, also after an error."""
    sink = choose(mode)
    try:
        yield sink
    finally:
        close = getattr(sink, "close", None)
        if close is not None:
            close()


def choose(mode: ProgressMode) -> EventSink:
    """Return the sink for `mode`; `auto` is a live display on a terminal and plain lines elsewhere."""
    if mode == "quiet":
        return ignore
    if mode == "tty" or (mode == "auto" and sys.stderr.isatty() and environment.colours()):
        from imgbuild.cli.terminal import TerminalProgress

        return TerminalProgress(sys.stderr)
    return PlainProgress(sys.stderr)
