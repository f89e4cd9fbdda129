"""The text of a Dockerfile as lines, and errors that point into it."""

from typing import NamedTuple

from imgbuild.errors import DockerfileError, Span

# What Go's unicode.IsSpace accepts; str.strip() would also take U+001C to U+001F.
BLANKS = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
# BuildKit reads with a buffer of 64 KiB, one byte of which is the line's end.
_LONGEST_LINE = 65535


class Source(NamedTuple):
    """A Dockerfile's text; `lines` come without their line feeds, and end before a line too long.

    `too_long` is the 1-based number of that line, else 0.
    """

    file: str
    text: str
    lines: list[str]
    too_long: int = 0

    def error(
        self, message: str, first: int, last: int | None = None, hint: str | None = None
    ) -> DockerfileError:
        """Make an error about the lines `first` to `last`, both 1-based."""
        span = Span(self.file, first, first if last is None else last)
        return DockerfileError(message, hint=hint, span=span, source=self.text)


def read_source(text: str | bytes, file: str) -> Source:
    """Decode a Dockerfile and cut it into lines.

    Bytes that are no UTF-8 survive as lone surrogates (`surrogateescape`), as BuildKit keeps them.
    Raises `DockerfileError` for NUL characters, which no command, path or variable can hold.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    text = text.removeprefix("\ufeff")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    source = Source(file, text, lines)
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise source.error(
            f"dockerfile parse error on line {number}: the line holds a NUL character",
            number,
            hint=f"save {file} as UTF-8 text",
        )
    for number, line in enumerate(lines, 1):
        # A character takes at most four bytes, so that few lines have to be encoded.
        if len(line) * 4 > _LONGEST_LINE and _size(line) > _LONGEST_LINE:
            return Source(file, text, lines[: number - 1], number)
    return source


def _size(line: str) -> int:
    return len(line.encode("utf-8", "surrogatepass"))


def is_comment(line: str) -> bool:
    return line.lstrip(BLANKS).startswith("#")


def is_blank(line: str) -> bool:
    return not line.strip(BLANKS)


def cut_continuation(line: str, escape: str) -> tuple[str, bool]:
    """Take the escape character off the end of a line that goes on; tell whether it does.

    Blanks may follow the escape character; a doubled one ends the instruction.
    """
    line = line.rstrip("\r\n")
    end = line.rstrip(" \t")
    if end.endswith(escape) and not end.endswith(escape * 2):
        return end[:-1], True
    return line, False
