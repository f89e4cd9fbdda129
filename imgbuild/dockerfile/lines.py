"""Logical instructions: lines joined by the escape character, found by dockerfile-parse.

dockerfile-parse decides where an instruction starts and ends. Its rules differ from BuildKit's
in a few places, which are covered here before it sees the lines (`_feed`), and its answer is only
used for line numbers: it reads text as UTF-8 alone and trims it. `join` makes the text.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from imgbuild.dockerfile.source import BLANKS, cut_continuation, is_blank, is_comment

# Python takes these for blanks, Go does not.
_NO_BLANKS = re.compile("[\x1c-\x1f]")
# dockerfile-parse only knows an escape directive at its own idea of the top of the file.
_HEADER = 2


class Piece(NamedTuple):
    """The lines of one instruction, here-documents not included; 0-based, both inclusive."""

    first: int
    last: int


def split(lines: Sequence[str], escape: str, start: int = 0) -> Iterator[Piece]:
    """Find the instructions in the lines from `start` on, in order.

    Bodies of here-documents look like instructions at this stage. A line that is in no piece is
    blank or a comment; the caller checks that.
    """
    from io import BytesIO

    from dockerfile_parse import DockerfileParser

    text = "\n".join(_feed(lines[start:], escape)) + "\n"
    parser = DockerfileParser(fileobj=BytesIO(text.encode("utf-8", "replace")), env_replace=False)
    shift = start - _HEADER
    for item in parser.structure:
        if not is_comment(item["content"]):
            yield Piece(item["startline"] + shift, min(item["endline"] + shift, len(lines) - 1))


def _feed(lines: Sequence[str], escape: str) -> Iterator[str]:
    """Rewrite what dockerfile-parse reads otherwise than BuildKit does; one line stays one line.

    It ends an instruction at a blank line, goes on after a doubled escape character, and loses an
    instruction whose last line goes on.
    """
    yield f"# escape={escape}"
    yield "#"
    open_ = False
    for line in lines:
        if is_blank(line):
            yield "#" if open_ else ""
            continue
        line = _NO_BLANKS.sub("?", line)  # noqa: PLW2901
        if not is_comment(line):
            open_ = cut_continuation(line, escape)[1]
            if not open_ and line.rstrip().endswith(escape):
                line += "."  # noqa: PLW2901
        yield line
    if open_:
        yield "."


def join(lines: Sequence[str], escape: str) -> str:
    """Return the text of an instruction; comments and blank lines between its lines are left out.

    Here-documents may follow it.
    """
    text, goes_on = cut_continuation(lines[0].lstrip(BLANKS), escape)
    if not goes_on:
        return text
    parts = [text]
    for line in lines[1:]:
        if not (is_blank(line) or is_comment(line)):
            text, goes_on = cut_continuation(line, escape)
            parts.append(text)
            if not goes_on:
                break
    return "".join(parts)
