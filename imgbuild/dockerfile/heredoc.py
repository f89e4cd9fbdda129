"""Here-documents: the words that open them, and their bodies."""

import re
from collections.abc import Sequence

from imgbuild.dockerfile.instructions import Heredoc
from imgbuild.dockerfile.words import expand, expand_words
from imgbuild.errors import DockerfileError

_OPENER = re.compile(r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)\Z")
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)
_LARGEST_FD = (1 << 64) - 1


class UnterminatedError(Exception):
    """The file ends before the last line of a here-document."""


def find_openers(text: str) -> list[Heredoc]:
    """Return the here-documents that an instruction opens, without their bodies.

    Raises `DockerfileError` for a malformed word.
    """
    if "<<" not in text:
        return []
    try:
        words = expand_words(text, _nothing, raw_quotes=True, raw_escapes=True, keep_unset=True)
    except DockerfileError:
        # The shell may understand what this scanner does not: then it is no here-document.
        return []
    return [opener for opener in map(parse_opener, words) if opener is not None]


def parse_opener(word: str) -> Heredoc | None:
    """Read a word such as `<<EOF`, `3<<-"EOF"`; None where it opens no here-document."""
    match = _OPENER.match(word)
    if match is None or not match[3]:
        return None
    bare = expand_words(match[3], _nothing, keep_unset=True)
    if len(bare) != 1:
        return None
    raw = expand(match[3], _nothing, raw_quotes=True, keep_unset=True).text
    digits = match[1].lstrip("0")
    return Heredoc(
        name=bare[0],
        content="",
        expand=_quotes(bare[0]) == _quotes(raw),
        chomp=match[2] == "-",
        fd=int(digits or "0") if len(digits) < 20 else _LARGEST_FD,
    )


def read_body(opener: Heredoc, lines: Sequence[str], start: int) -> tuple[Heredoc, int]:
    """Take the body from the lines at `start`; return the index of the line after its terminator.

    Leading tabs are kept, of a `<<-` document too: BuildKit strips them where the body is used.
    """
    for at in range(start, len(lines)):
        line = lines[at].rstrip("\r\n")
        if (line.lstrip("\t") if opener.chomp else line) == opener.name:
            content = "".join(f"{line}\n" for line in lines[start:at])
            return _with_content(opener, content), at + 1
    raise UnterminatedError


def chomp(document: Heredoc) -> Heredoc:
    """Strip the leading tabs of a `<<-` document's lines."""
    if not document.chomp:
        return document
    return _with_content(document, _LEADING_TABS.sub("", document.content))


def _with_content(opener: Heredoc, content: str) -> Heredoc:
    return Heredoc(opener.name, content, opener.expand, opener.chomp, opener.fd)


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def _nothing(_name: str) -> None:
    return None
