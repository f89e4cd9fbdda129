"""Build checks: which of them a Dockerfile wants, and the ones that need nothing but its text.

Those that need values of variables and images are made with the plan (`plan/lint.py`).
Source of the rules: BuildKit's frontend/dockerfile/linter and what its parser reports.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from imgbuild.dockerfile import lint_rules as rules
from imgbuild.dockerfile.arguments import cut_name
from imgbuild.dockerfile.directives import DIRECTIVE, read_directives
from imgbuild.dockerfile.flags import FALSE, TRUE
from imgbuild.dockerfile.instructions import Dockerfile
from imgbuild.dockerfile.lines import join
from imgbuild.dockerfile.nodes import Node, comments_between, cut_up, read_nodes
from imgbuild.dockerfile.quoting import quote
from imgbuild.dockerfile.readers import read_instruction
from imgbuild.dockerfile.source import (
    BLANKS,
    Source,
    cut_continuation,
    is_blank,
    is_comment,
    read_source,
)
from imgbuild.errors import DockerfileError, Span
from imgbuild.events import CheckWarning, EventSink

# The build argument that takes the place of the directive.
ARGUMENT = "BUILDKIT_DOCKERFILE_CHECK"
RESERVED_STAGES = ("context", "scratch")
_MOST_OPTIONS = 3


class CheckOptions(NamedTuple):
    """What a `check` directive says; `skip` and `experimental` are names of rules."""

    skip: tuple[str, ...] = ()
    skip_all: bool = False
    experimental: tuple[str, ...] = ()
    experimental_all: bool = False
    error: bool = False

    def wants(self, rule: rules.Rule) -> bool:
        """Tell whether `rule` is asked for; `skip` has no say on experimental rules."""
        if rule.experimental:
            return self.experimental_all or rule.name in self.experimental
        return not (self.skip_all or rule.name in self.skip)

    def with_local(self, local: "CheckOptions") -> "CheckOptions":
        """Return these options with those of one instruction added; `error` stays."""
        return CheckOptions(
            self.skip + local.skip,
            self.skip_all or local.skip_all,
            self.experimental + local.experimental,
            self.experimental_all or local.experimental_all,
            self.error,
        )


def parse_check_options(text: str) -> CheckOptions:
    """Read `skip=A,B|all;experimental=A|all;error=true`; raise `DockerfileError` without a span."""
    options = CheckOptions()
    if not text.strip(BLANKS):
        return options
    for part in text.strip(BLANKS).split(";", _MOST_OPTIONS - 1):
        key, equals, value = part.partition("=")
        key, value = key.strip(BLANKS), value.strip(BLANKS)
        names = tuple(name.strip(BLANKS) for name in value.split(","))
        if not equals:
            raise _invalid(part)
        if key == "skip":
            options = (
                options._replace(skip_all=True) if value == "all" else options._replace(skip=names)
            )
        elif key == "experimental":
            options = (
                options._replace(experimental_all=True)
                if value == "all"
                else options._replace(experimental=names)
            )
        elif key == "error":
            if value not in TRUE | FALSE:
                raise DockerfileError(
                    f"failed to parse check option {quote(part)}: strconv.ParseBool: parsing"
                    f" {quote(value)}: invalid syntax",
                    hint="write error=true or error=false",
                )
            options = options._replace(error=value in TRUE)
        else:
            raise _invalid(key)
    return options


def _invalid(what: str) -> DockerfileError:
    return DockerfileError(
        f"invalid check option {quote(what)}",
        hint="write it like skip=JSONArgsRecommended,StageNameCasing;error=true",
    )


class Statement(NamedTuple):
    """An instruction as it was written: its name, its words where it is a FROM, and comments above it."""

    name: str
    words: tuple[str, ...]
    comments: tuple[str, ...]
    span: Span


class Linter:
    """Reports what checks find, and remembers which rules found anything.

    `statements` maps the first line of each instruction to how it was written.
    """

    def __init__(self, options: CheckOptions, sink: EventSink) -> None:
        self.options = options
        self.statements: dict[int, Statement] = {}
        self._sink = sink
        self._broken: dict[str, None] = {}

    def report(self, rule: rules.Rule, message: str, span: Span, *, local: bool = True) -> None:
        """Report `message` unless the rule is off, in the file or (`local`) above the instruction."""
        options = self.options
        if local and (statement := self.statements.get(span.first)) is not None:
            found = local_options(statement.comments)
            options = options if found is None else options.with_local(found)
        if options.wants(rule):
            self._broken[rule.name] = None
            self._sink(CheckWarning(rule.name, message, rule.description, rule.url, span))

    def finish(self) -> None:
        """Raise `DockerfileError` when anything was found and `error=true` makes that a failure."""
        if self.options.error and self._broken:
            raise DockerfileError(
                f"lint violation found for rules: {', '.join(self._broken)}",
                hint="correct them, or list them in a directive: # check=skip=RULE,RULE",
            )


def make_linter(text: str | bytes, file: str, override: str | None, sink: EventSink) -> Linter:
    """Return a linter as the text's `check` directive wants it, or `override` in its place.

    `override` is the build argument BUILDKIT_DOCKERFILE_CHECK. Raises `DockerfileError`.
    """
    source = read_source(text, file)
    directives = read_directives(source)
    wanted = dict(directives.found).get("check", "") if override is None else override
    try:
        return Linter(parse_check_options(wanted), sink)
    except DockerfileError as problem:
        message = f"failed to parse check options: {problem.message}"
        if override is not None:
            raise DockerfileError(message, hint=problem.hint) from None
        number = 1 + [key for key, _ in directives.found].index("check")
        raise source.error(message, number, hint=problem.hint) from None


def local_options(comments: Sequence[str]) -> CheckOptions | None:
    """Return what the first `check=` among the comments above an instruction says, if that is valid."""
    for comment in comments:
        pair = DIRECTIVE.match(comment)
        if pair is not None and pair[1].lower() == "check":
            try:
                return parse_check_options(pair[2].split(" ", 1)[0])
            except DockerfileError:
                return None
    return None


def check_text(dockerfile: Dockerfile, linter: Linter) -> None:
    """Run the checks of a whole file that need its text alone; fill in `linter.statements`."""
    source = read_source(dockerfile.source, dockerfile.file)
    statements = list(_statements(dockerfile, source))
    linter.statements = {each.span.first: each for each in statements}
    _check_continuations(statements, source.lines, dockerfile.escape, linter)
    for statement in statements:
        _check_statement(statement, linter)
    _check_stage_names(dockerfile, linter)
    stages = dockerfile.stages[0].from_.span.first
    _check_casing([each for each in statements if each.span.first >= stages], linter)


def check_broken_text(text: str | bytes, file: str, linter: Linter) -> None:
    """Run the checks on the instructions before the one for which parsing failed.

    Nothing is found in a file that cannot be cut up at all.
    """
    try:
        source = read_source(text, file)
        directives = read_directives(source)
        nodes = read_nodes(source, directives)
    except DockerfileError:
        return
    statements = [_statement_of(node, source.file) for node in nodes]
    linter.statements = {each.span.first: each for each in statements}
    _check_continuations(statements, source.lines, directives.escape, linter)
    for node, statement in zip(nodes, statements, strict=True):
        _check_statement(statement, linter)
        try:
            read_instruction(node, statement.span)
        except DockerfileError:
            return


def _statement_of(node: Node, file: str) -> Statement:
    return Statement(node.name, tuple(node.args), node.comments, Span(file, node.first, node.last))


def _statements(dockerfile: Dockerfile, source: Source) -> Iterator[Statement]:
    """Look up in the text how the instructions of a parsed file were written."""
    at = read_directives(source).lines
    for span in _spans(dockerfile):
        text = join(source.lines[span.first - 1 : span.last], dockerfile.escape)
        name = cut_name(text)[0]
        words: tuple[str, ...] = ()
        if name.upper() in {"FROM", "ARG"}:
            words = tuple(cut_up(text, dockerfile.escape).args)
        yield Statement(name, words, comments_between(source, at, span.first - 1), span)
        at = span.last


def _spans(dockerfile: Dockerfile) -> Iterator[Span]:
    for arg in dockerfile.global_args:
        yield arg.span
    for stage in dockerfile.stages:
        yield stage.from_.span
        for instruction in stage.instructions:
            yield instruction.span


def _check_continuations(
    statements: Sequence[Statement], lines: Sequence[str], escape: str, linter: Linter
) -> None:
    for statement in statements:
        last = _end_of_gap(lines, statement.span.first - 1, escape)
        if last:
            span = statement.span._replace(first=last, last=last)
            linter.report(rules.NO_EMPTY_CONTINUATION, "Empty continuation line", span, local=False)


def _end_of_gap(lines: Sequence[str], at: int, escape: str) -> int:
    """Return the last line (1-based) of the instruction at index `at` that has an empty line in it, else 0."""
    goes_on = cut_continuation(lines[at], escape)[1]
    gap = False
    while goes_on and at + 1 < len(lines):
        at += 1
        if is_blank(lines[at]):
            gap = True
        elif not is_comment(lines[at]):
            goes_on = cut_continuation(lines[at], escape)[1]
    return at + 1 if gap else 0


def _check_statement(statement: Statement, linter: Linter) -> None:
    keyword = statement.name.upper()
    if keyword == "FROM":
        _check_from(statement, linter)
    elif keyword == "ARG":
        keys = [word.partition("=")[0] for word in statement.words]
        _check_description("ARG", keys, statement, linter)
    elif keyword == "MAINTAINER":
        linter.report(
            rules.MAINTAINER_DEPRECATED,
            "Maintainer instruction is deprecated in favor of using label",
            statement.span,
        )


def _check_from(statement: Statement, linter: Linter) -> None:
    if len(statement.words) < 3:
        return
    as_, name = statement.words[1:3]
    if len(statement.words) == 3 and name != name.lower():
        linter.report(
            rules.STAGE_NAME_CASING, f"Stage name '{name}' should be lowercase", statement.span
        )
    # A mixed FROM is reported for itself.
    keyword = statement.name
    if (_is_lower(keyword) and not _is_lower(as_)) or (_is_upper(keyword) and not _is_upper(as_)):
        linter.report(
            rules.FROM_AS_CASING,
            f"'{as_}' and '{keyword}' keywords' casing do not match",
            statement.span,
        )
    _check_description("FROM", [name.lower()], statement, linter)


def _check_description(
    keyword: str, names: Sequence[str], statement: Statement, linter: Linter
) -> None:
    if not statement.comments or not names:
        return
    if statement.comments[-1].split(" ", 1)[0] in names:
        return
    example = "<arg_key>" if len(names) > 1 else names[0]
    linter.report(
        rules.INVALID_DEFINITION_DESCRIPTION,
        f"Comment for {keyword} should follow the format: `# {example} <description>`",
        statement.span,
    )


def _check_stage_names(dockerfile: Dockerfile, linter: Linter) -> None:
    known: set[str] = set()
    for stage in dockerfile.stages:
        name, span = stage.from_.name, stage.from_.span
        if not name:
            continue
        if name in RESERVED_STAGES:
            linter.report(
                rules.RESERVED_STAGE_NAME,
                f"Stage name should not use the same name as reserved stage {quote(name)}",
                span,
                local=False,
            )
        if name in known:
            linter.report(
                rules.DUPLICATE_STAGE_NAME,
                f"Duplicate stage name {quote(name)}, stage names should be unique",
                span,
                local=False,
            )
        known.add(name)


def _check_casing(statements: Sequence[Statement], linter: Linter) -> None:
    lower = sum(_is_lower(each.name) for each in statements)
    upper = sum(_is_upper(each.name) for each in statements)
    fits, casing = (_is_lower, "lowercase") if lower > upper else (_is_upper, "uppercase")
    for statement in statements:
        if not fits(statement.name):
            linter.report(
                rules.CONSISTENT_INSTRUCTION_CASING,
                f"Command '{statement.name}' should match the case of the command majority"
                f" ({casing})",
                statement.span,
                local=False,
            )


def _is_lower(word: str) -> bool:
    return word == word.lower()


def _is_upper(word: str) -> bool:
    return word == word.upper()
