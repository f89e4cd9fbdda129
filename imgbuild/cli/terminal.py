"""Live progress on a terminal. rich is loaded with the first step that takes time, never for a cached build."""

import os
import threading
import time
from typing import TYPE_CHECKING, TextIO, assert_never

from imgbuild.cli.lines import LineSplitter
from imgbuild.cli.text import ending, fit, found, sanitise, size
from imgbuild.events import (
    BuildFinished,
    BuildStarted,
    CheckWarning,
    Event,
    Notice,
    ShellOpened,
    StepFinished,
    StepOutput,
    StepStarted,
    TransferProgress,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

_PATIENCE = 0.15  # seconds before a step is shown as running


class TerminalProgress:
    """Finished steps and all output scroll by; what is running stays at the bottom."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.RLock()
        self._running: dict[str, tuple[str, float]] = {}
        self._lines: dict[tuple[int, str], LineSplitter] = {}
        self._warnings: list[CheckWarning] = []
        self._console: Console | None = None
        self._live: Live | None = None
        self._timer: threading.Timer | None = None

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case BuildStarted():
                pass
            case StepStarted():
                self._running[f"step {event.number}"] = (event.name, time.monotonic())
                self._later()
            case StepOutput():
                key = (event.number, event.stream)
                splitter = self._lines.setdefault(key, LineSplitter())
                self._output(splitter.feed(event.data))
            case StepFinished():
                self._finish(event)
            case ShellOpened():
                self._hand_over(event)
            case TransferProgress():
                self._transfer(event)
            case Notice():
                if not event.detail:
                    self._line(f"notice: {event.message}", "yellow")
            case CheckWarning():
                self._warnings.append(event)
            case BuildFinished():
                self._end(event)
            case _:
                assert_never(event)

    def _flush(self, number: int) -> None:
        for stream in ("stdout", "stderr"):
            if splitter := self._lines.pop((number, stream), None):
                self._output(splitter.feed(b"", final=True))

    def _hand_over(self, event: ShellOpened) -> None:
        """Leave the terminal to a shell."""
        self._flush(event.number)
        self._running.clear()
        self._stop()
        for line in event.message.splitlines():
            self._line(line, "yellow")

    def _finish(self, event: StepFinished) -> None:
        self._flush(event.number)
        self._running.pop(f"step {event.number}", None)
        if event.verdict == "cached":
            self._row("=> CACHED ", event.name, "", "cyan")
        elif event.verdict in {"failed", "canceled"}:
            word = "ERROR" if event.verdict == "failed" else "CANCELED"
            self._row(f"=> {word} ", event.name, f"  {event.seconds:.1f}s", "red")
            self._stop()
        else:
            self._row("=> ", event.name, f"  {event.seconds:.1f}s", "green")
        self._idle()

    def _transfer(self, event: TransferProgress) -> None:
        if event.done >= event.total:
            _, since = self._running.pop(event.what, ("", time.monotonic()))
            took = time.monotonic() - since
            self._row("=> ", event.what, f"  {size(event.total)}  {took:.1f}s", "green")
            self._idle()
            return
        _, since = self._running.get(event.what, ("", time.monotonic()))
        text = f"{event.what}  {size(event.done)} / {size(event.total)}"
        self._running[event.what] = (text, since)
        self._later()

    def _end(self, event: BuildFinished) -> None:
        self._stop()
        for line in ending(event):
            self._line(line, "")

    def _output(self, lines: list[str]) -> None:
        for line in lines:
            self._line(f"   {sanitise(line, colours=True)}", "", raw=True)

    def _row(self, head: str, text: str, tail: str, style: str) -> None:
        self._line(fit(head, sanitise(text), tail, self._columns()), style)

    def _columns(self) -> int | None:
        """Return the width of the terminal, None where it is not known."""
        try:
            return os.get_terminal_size(self._out.fileno()).columns or None
        except OSError:  # a file, or no descriptor at all
            return None

    def _line(self, text: str, style: str, *, raw: bool = False) -> None:
        if self._console is not None:
            from rich.text import Text

            line = Text.from_ansi(text) if raw else Text(sanitise(text), style=style)
            self._console.print(line, soft_wrap=True)
            return
        codes = {"cyan": "36", "red": "31", "green": "32", "yellow": "33"}
        plain = text if raw else sanitise(text)
        code = codes.get(style)
        reset = "\x1b[0m" if code or "\x1b[" in plain else ""
        print(f"\x1b[{code}m{plain}{reset}" if code else plain + reset, file=self._out, flush=True)

    def _later(self) -> None:
        """Show what is running once it has run for a moment: cached steps never wait for rich."""
        if self._live is None and self._timer is None:
            self._timer = threading.Timer(_PATIENCE, self._start)
            self._timer.daemon = True
            self._timer.start()

    def _start(self) -> None:
        with self._lock:
            self._timer = None
            if not self._running or self._live is not None:
                return
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self._out, highlight=False, force_terminal=True)
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def _render(self) -> "Text":
        from rich.text import Text

        now = time.monotonic()
        with self._lock:
            rows = list(self._running.values())
        columns = self._columns()
        lines = [
            fit("-> ", sanitise(text), f"  {now - since:.1f}s", columns) for text, since in rows
        ]
        return Text("\n".join(lines), style="bold", overflow="ellipsis", no_wrap=True)

    def _idle(self) -> None:
        if not self._running:
            self._stop()

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        live, self._live, self._console = self._live, None, None
        if live is not None:
            # The refresh thread may wait for our lock while it renders.
            self._lock.release()
            try:
                live.stop()
            finally:
                self._lock.acquire()

    def close(self) -> None:
        """Leave the terminal as it was and tell what the checks found, also after an error."""
        with self._lock:
            self._stop()
            for line in found(self._warnings):
                self._line(line, "yellow")
            self._warnings.clear()
