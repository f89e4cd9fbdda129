"""Parser directives: the `# key=value` lines at the very top of a Dockerfile."""

import re
from typing import NamedTuple

from imgbuild.dockerfile.source import BLANKS, Source

_KNOWN = ("syntax", "escape", "check")
DIRECTIVE = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*\Z")


class Directives(NamedTuple):
    """What the directives say; they fill the first `lines` lines of the file."""

    found: tuple[tuple[str, str], ...]
    escape: str
    lines: int


class Syntax(NamedTuple):
    """What names a frontend: the directive's value, and its line."""

    value: str
    line: int


def read_directives(source: Source) -> Directives:
    """Read the parser directives; raises `DockerfileError` for a doubled one or an unknown escape."""
    found: dict[str, str] = {}
    for number, line in enumerate(source.lines, 1):
        pair = _directive(line.strip("\r\n").lstrip(BLANKS), "#")
        if pair is None:
            break
        key, value = pair
        if key in found:
            raise source.error(f"only one {key} parser directive can be used", number)
        if key == "escape" and value not in {"\\", "`"}:
            raise source.error(f"invalid escape token '{value}' does not match ` or \\", number)
        found[key] = value
    return Directives(tuple(found.items()), found.get("escape", "\\"), len(found))


def detect_syntax(text: str) -> str | None:
    """Return the frontend image that a build definition asks for, by its `syntax` directive.

    It may also be written `// syntax=` or as a key of a JSON document, and follow a `#!` line:
    the definition then need not be a Dockerfile at all.
    """
    found = find_syntax(text)
    return found.value if found else None


def find_syntax(text: str) -> Syntax | None:
    """As `detect_syntax`, with the line that says it."""
    lines = text.removeprefix("\ufeff").split("\n")
    start = 1
    if lines[0].startswith("#!"):
        lines, start = lines[1:], 2
    for comment in ("#", "//"):
        for number, line in enumerate(lines, start):
            pair = _directive(line, comment)
            if pair is None:
                break
            if pair[0] == "syntax":
                return Syntax(pair[1], number)
    value = _json_syntax("\n".join(lines))
    return Syntax(value, start) if value is not None else None


def _directive(line: str, comment: str) -> tuple[str, str] | None:
    if not line.startswith(comment):
        return None
    match = DIRECTIVE.match(line.removeprefix(comment).lstrip(BLANKS))
    if match is None or match[1].lower() not in _KNOWN:
        return None
    return match[1].lower(), match[2]


def _json_syntax(text: str) -> str | None:
    if not text.lstrip().startswith("{"):
        return None
    import json

    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    value = document.get("syntax")
    return value if isinstance(value, str) else None
