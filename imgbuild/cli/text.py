"""Text from untrusted sources, made safe for a terminal; sizes and durations for people."""

import re

# Colours (SGR) may stay; every other control sequence could move the cursor, set the
# title or answer back (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html).
_SGR = re.compile(r"\x1b\[[0-9;]*m")
_UNSAFE = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f]"
)


def sanitise(text: str, *, colours: bool = False) -> str:
    """Remove control sequences from `text`; colours are kept when asked for."""
    if not colours:
        return _UNSAFE.sub("", text)
    kept = _SGR.findall(text)
    pieces = [_UNSAFE.sub("", piece) for piece in _SGR.split(text)]
    out = [pieces[0]]
    for colour, piece in zip(kept, pieces[1:], strict=True):
        out += (colour, piece)
    return "".join(out)


def size(count: int) -> str:
    """Return a number of bytes as people read it: `12.3MB` (powers of 1000, as docker)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}TB"
