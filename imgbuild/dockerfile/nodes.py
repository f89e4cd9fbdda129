"""The middle of parsing: each instruction's name, flags and arguments, before it has a type.

This stage is BuildKit's parser package: it refuses what cannot be cut up, and lets unknown
instructions and flags pass. All of the file goes through it before anything else is refused.
"""

from collections.abc import Callable
from typing import NamedTuple

from imgbuild.dockerfile.arguments import (
    blank_separated,
    cut_name,
    cut_word,
    name_values,
    quoted_words,
    read_json,
)
from imgbuild.dockerfile.directives import Directives
from imgbuild.dockerfile.flags import cut_flags
from imgbuild.dockerfile.heredoc import UnterminatedError, find_openers, read_body
from imgbuild.dockerfile.instructions import Heredoc
from imgbuild.dockerfile.lines import Piece, join, split
from imgbuild.dockerfile.source import BLANKS, Source, is_blank, is_comment
from imgbuild.errors import DockerfileError


class Node(NamedTuple):
    """An instruction in pieces; `first` and `last` are 1-based lines.

    `args` of ENV and LABEL are name, value, name, value and so on; `legacy` tells their old form.
    `trigger` is what ONBUILD holds. `json` tells that the arguments were a JSON array.
    """

    name: str
    text: str
    flags: list[str]
    args: list[str]
    json: bool = False
    legacy: bool = False
    trigger: "Node | None" = None
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()
    first: int = 0
    last: int = 0

    @property
    def keyword(self) -> str:
        return self.name.upper()


class _Args(NamedTuple):
    words: list[str]
    json: bool = False
    legacy: bool = False
    trigger: Node | None = None


def read_nodes(source: Source, directives: Directives) -> list[Node]:
    """Read all instructions of a file; raises `DockerfileError`."""
    nodes: list[Node] = []
    at = directives.lines
    while at < len(source.lines):
        # Another round is needed only where a here-document's body confused the splitting.
        at = _read_from(source, directives.escape, at, nodes)
    if not nodes:
        raise source.error(
            "file with no instructions",
            max(1, len(source.lines)),
            hint="a Dockerfile starts with FROM",
        )
    if source.too_long:
        raise source.error(
            "dockerfile line greater than max allowed size of 65535",
            source.too_long,
            hint="break the line with the escape character",
        )
    return nodes


def _read_from(source: Source, escape: str, at: int, nodes: list[Node]) -> int:
    """Read instructions from line `at` (0-based) on; return the line where to start again."""
    for piece in split(source.lines, escape, at):
        if piece.last < at:
            continue  # part of a here-document's body
        if piece.first < at:
            return at
        comments = comments_between(source, at, piece.first)
        node, at = _read_node(source, escape, piece, comments)
        nodes.append(node)
    comments_between(source, at, len(source.lines))
    return len(source.lines)


def comments_between(source: Source, first: int, end: int) -> tuple[str, ...]:
    """Collect the comments between two instructions, and see to it that there is nothing else.

    A comment without text starts a new group. Of an indented comment the `#` is kept, as in
    BuildKit.
    """
    comments: list[str] = []
    for number in range(first, end):
        line = source.lines[number]
        if is_blank(line):
            continue
        if not is_comment(line):
            raise source.error(
                f"dockerfile parse error on line {number + 1}: the line belongs to no instruction",
                number + 1,
                hint="this is a defect of imgbuild; please report it with the Dockerfile",
            )
        text = line[1:].strip(BLANKS)
        if text:
            comments.append(text)
        else:
            comments.clear()
    return tuple(comments)


def _read_node(
    source: Source, escape: str, piece: Piece, comments: tuple[str, ...]
) -> tuple[Node, int]:
    """Return a node and the index of the line behind it."""
    first, end = piece.first, piece.last + 1
    text = join(source.lines[first:end], escape)
    bodies: list[Heredoc] = []
    try:
        node = cut_up(text, escape)
        for opener in find_openers(text) if _may_have_heredocs(node) else ():
            body, end = read_body(opener, source.lines, end)
            bodies.append(body)
    except DockerfileError as problem:
        raise source.error(problem.message, first + 1, end, problem.hint) from None
    except UnterminatedError:
        raise source.error(
            "unterminated heredoc",
            first + 1,
            len(source.lines),
            hint=f"end it with a line that is just {_missing(text, len(bodies))}",
        ) from None
    node = node._replace(heredocs=tuple(bodies), comments=comments, first=first + 1, last=end)
    return node, end


def _missing(text: str, index: int) -> str:
    return find_openers(text)[index].name


def _may_have_heredocs(node: Node) -> bool:
    node = node.trigger or node
    return node.keyword in {"ADD", "COPY", "RUN"} and not node.json


def cut_up(text: str, escape: str, *, inner: bool = False) -> Node:
    """Cut the text of one instruction into its parts; raises `DockerfileError` without a span."""
    name, rest = cut_name(text)
    flags, rest = cut_flags(rest)
    rest = rest.strip(BLANKS)
    # ONBUILD ONBUILD is refused anyway, so it is not followed any deeper.
    read = None if inner and name.upper() == "ONBUILD" else _ARGUMENTS.get(name.upper())
    args = read(rest, escape) if read else _Args([])
    return Node(name, text, flags, args.words, args.json, args.legacy, args.trigger)


def _whole(rest: str, _escape: str) -> _Args:
    return _Args([rest] if rest else [])


def _words(rest: str, _escape: str) -> _Args:
    return _Args(blank_separated(rest))


def _quoted(rest: str, escape: str) -> _Args:
    return _Args(quoted_words(rest, escape))


def _json_or_whole(rest: str, escape: str) -> _Args:
    array = read_json(rest)
    return _whole(rest, escape) if array is None else _Args(array, json=True)


def _json_or_words(rest: str, escape: str) -> _Args:
    array = read_json(rest)
    return _words(rest, escape) if array is None else _Args(array, json=True)


def _pairs(name: str) -> Callable[[str, str], _Args]:
    def read(rest: str, escape: str) -> _Args:
        pairs, legacy = name_values(rest, name, escape)
        return _Args([word for pair in pairs for word in pair], legacy=legacy)

    return read


def _health(rest: str, escape: str) -> _Args:
    if not rest:
        return _Args([])
    kind, rest = cut_word(rest)
    command = _json_or_whole(rest, escape)
    return command._replace(words=[kind, *command.words])


def _trigger(rest: str, escape: str) -> _Args:
    if not rest:
        return _Args([])
    node = cut_up(rest, escape, inner=True)
    return _Args([node.name, *node.args], trigger=node)


_ARGUMENTS: dict[str, Callable[[str, str], _Args]] = {
    "ADD": _json_or_words,
    "ARG": _quoted,
    "CMD": _json_or_whole,
    "COPY": _json_or_words,
    "ENTRYPOINT": _json_or_whole,
    "ENV": _pairs("ENV"),
    "EXPOSE": _words,
    "FROM": _words,
    "HEALTHCHECK": _health,
    "LABEL": _pairs("LABEL"),
    "MAINTAINER": _whole,
    "ONBUILD": _trigger,
    "RUN": _json_or_whole,
    "SHELL": _json_or_whole,
    "STOPSIGNAL": _whole,
    "USER": _whole,
    "VOLUME": _json_or_words,
    "WORKDIR": _whole,
}
KEYWORDS = tuple(_ARGUMENTS)
