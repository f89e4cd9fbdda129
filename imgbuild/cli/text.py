"""Text from untrusted sources, made safe for a terminal; sizes and durations for people."""

import re
from collections.abc import Sequence

from imgbuild.events import BuildFinished, CheckWarning

# Colours (SGR) may stay; every other control sequence could move the cursor, set the
# title or answer back (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html).
_SGR = re.compile(r"\x1b\[[0-9;]*m")
_UNSAFE = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f]"
)
# How Python keeps bytes that are no UTF-8 (`surrogateescape`).
_NO_TEXT = re.compile("[\udc80-\udcff]")


def sanitise(text: str, *, colours: bool = False) -> str:
    """Remove control sequences from `text`, and write bytes that are no UTF-8 as `\\xNN`.

    Colours are kept when asked for.
    """
    text = _NO_TEXT.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    if not colours:
        return _UNSAFE.sub("", text)
    kept = _SGR.findall(text)
    pieces = [_UNSAFE.sub("", piece) for piece in _SGR.split(text)]
    out = [pieces[0]]
    for colour, piece in zip(kept, pieces[1:], strict=True):
        out += (colour, piece)
    return "".join(out)


def escaped(name: str) -> str:
    """Return a name on one line: what cannot be printed, or is not UTF-8, is written as `\\xNN`."""
    if name.isprintable():
        return name
    raw = (c if c.isprintable() else c.encode("utf-8", "surrogateescape") for c in name)
    return "".join(
        c if isinstance(c, str) else "".join(f"\\x{byte:02x}" for byte in c) for c in raw
    )


_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")


def fit(head: str, text: str, tail: str, columns: int | None) -> str:
    """Return one row of `columns` (None: of any length): the digests of `text` cut short, then its end."""
    text = _DIGEST.sub(r"\1", text)
    room = None if columns is None else max(columns - len(head) - len(tail), 10)
    if room is not None and len(text) > room:
        text = text[: room - 1] + "…"
    return f"{head}{text}{tail}"


def ending(event: BuildFinished) -> tuple[str, str]:
    """Return the last two lines of a build: what it made, and under which names."""
    named = f"as {', '.join(event.names)}" if event.names else "without a name; -t NAME gives one"
    return event.digest, f"built in {event.seconds:.1f}s {named}"


def found(warnings: Sequence[CheckWarning]) -> list[str]:
    """Return the lines that tell at the end of a build what the checks found, in docker's words."""
    if not warnings:
        return []
    many = "s" if len(warnings) > 1 else ""
    head = f"{len(warnings)} warning{many} found (use imgbuild check to expand):"
    rows = (f" - {each.rule}: {each.message} (line {each.span.first})" for each in warnings)
    return [head, *rows]


def size(count: int) -> str:
    """Return a number of bytes as people read it: `12.3MB` (powers of 1000, as docker)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}TB"
