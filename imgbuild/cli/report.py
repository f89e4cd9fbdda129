"""Render errors for people: where, what, and what to do next."""

import sys
import traceback
from collections.abc import Sequence

from imgbuild.cli.text import sanitise
from imgbuild.errors import ImgbuildError, Span, StepFailedError

_RULE = "-" * 20
_CONTEXT = 2
_LAST_LINES = 15
_LONGEST = 1000  # characters of one line; what is longer is data


def render(error: ImgbuildError) -> str:
    """Return the text for `error`: last output, excerpt, message, hint."""
    parts = []
    if isinstance(error, StepFailedError) and error.output:
        lines = sanitise(error.output.decode("utf-8", "replace")).splitlines()[-_LAST_LINES:]
        parts.append("\n".join(["last output:", *(f"  {line}" for line in lines)]))
    if error.span is not None:
        parts.append(_excerpt(error.span, error.source))
    parts.append(f"error: {sanitise(error.message)}")
    if error.hint:
        parts.append(f"hint: {sanitise(error.hint)}")
    return "\n".join(parts)


def _excerpt(span: Span, source: str | None) -> str:
    """Return the lines of `span` marked, with two lines around them, as BuildKit frames them."""
    if source is None:
        return f"{span.file}:{span.first}"
    from imgbuild.plan.fetching import redacted

    # Not splitlines(): a Dockerfile's lines end with line feeds only. Logs are kept and shared.
    lines = redacted(source).removesuffix("\n").split("\n")
    return frame(f"{span.file}:{span.first}", span, lines, _CONTEXT)


def frame(title: str, span: Span, lines: Sequence[str], around: int) -> str:
    """Return the lines of `span` marked, with `around` lines before and after them."""
    first = max(1, span.first - around)
    last = min(len(lines), span.last + around)
    rows = [title, _RULE]
    for number in range(first, last + 1):
        mark = ">>>" if span.first <= number <= span.last else "   "
        line = sanitise(lines[number - 1].removesuffix("\r"))
        if len(line) > _LONGEST:
            line = f"{line[:_LONGEST]}…"
        rows.append(f" {number:3d} | {mark} {line}")
    rows.append(_RULE)
    return "\n".join(rows)


def show(error: ImgbuildError) -> int:
    """Print `error` on standard error and return its exit code."""
    print(render(error), file=sys.stderr)
    return error.exit_code


def show_bug(error: BaseException) -> int:
    """Keep the trace of an unexpected exception in a file, say so in one line, return 70."""
    import tempfile

    with tempfile.NamedTemporaryFile(
        "w", prefix="imgbuild-crash-", suffix=".txt", delete=False
    ) as file:
        traceback.print_exception(error, file=file)
    print(
        f"imgbuild: unexpected {type(error).__name__}: {error}\n"
        f"This is a bug in imgbuild. The trace is in {file.name}; please report it.",
        file=sys.stderr,
    )
    return 70
