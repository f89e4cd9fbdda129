"""Build checks that need what variables and images hold; they run while the plan is made.

Source of the rules: BuildKit's frontend/dockerfile/dockerfile2llb.
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from imgbuild.dockerfile import instructions as ins
from imgbuild.dockerfile import lint_rules as rules
from imgbuild.dockerfile.csvfields import csv_pairs
from imgbuild.dockerfile.lint import Linter
from imgbuild.dockerfile.quoting import quote
from imgbuild.dockerfile.suggest import did_you_mean
from imgbuild.dockerfile.words import expand, expand_heredoc
from imgbuild.errors import DockerfileError, ImgbuildError, Span, UsageError
from imgbuild.oci.config import ImageConfig
from imgbuild.oci.platform import parse_platform
from imgbuild.oci.reference import parse_reference
from imgbuild.plan.graph import Item, Node
from imgbuild.plan.model import BaseImage
from imgbuild.plan.options import PlanOptions
from imgbuild.plan.ports import split_port
from imgbuild.plan.scope import NEVER_ENV, Arguments, Scope, global_arguments

_TARGET = "TARGETPLATFORM"
_SECRET = frozenset(
    [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ]
)
_NO_SECRET = frozenset({"public", "file", "version"})
_WHOLE = frozenset({"*", "**", "**/*"})
# Not compiled at import: most builds need none of these.
_REMOTE = r"[a-zA-Z0-9]+://|[a-zA-Z0-9_-]+@"
_ONCE = (ins.Cmd, ins.Entrypoint, ins.Healthcheck)


class PlanLint:
    """Watches a plan; `ignored` reads the patterns of the context's ignore file when first needed."""

    def __init__(
        self,
        linter: Linter,
        ignored: Callable[[], Sequence[str]],
        *,
        all_stages: bool = False,
        dry: bool = False,
    ) -> None:
        self.all_stages = all_stages
        self.dry = dry
        self._linter = linter
        self._read_ignored = ignored
        self._hides: Callable[[str], bool] | None = None
        self._given: Mapping[str, str] = {}
        self._escape = "\\"
        self._workdirs: dict[int, bool] = {}
        self._index = 0
        self._shell = False
        self._once: dict[type[ins.StageInstruction], Span] = {}

    # --- FROM

    def begin(
        self,
        dockerfile: ins.Dockerfile,
        options: PlanOptions,
        arguments: Arguments,
        predefined: Mapping[str, str],
    ) -> None:
        self._given = arguments.given
        self._escape = dockerfile.escape
        self._check_defaults(dockerfile, predefined)
        names = {name for arg in dockerfile.global_args for name, _ in arg.args}
        names.update(arguments.globals)
        for stage in dockerfile.stages:
            if not self._check_from(stage.from_, options, arguments.globals, sorted(names)):
                break

    def _check_defaults(self, dockerfile: ins.Dockerfile, predefined: Mapping[str, str]) -> None:
        """Look whether the names of images are names when nobody gives an argument."""
        try:
            defaults = global_arguments(dockerfile, {}, predefined)
            for stage in dockerfile.stages:
                image = stage.from_.image
                if not _is_reference(defaults.expand(image)):
                    self._linter.report(
                        rules.INVALID_DEFAULT_ARG_IN_FROM,
                        f"Default value for ARG {image} results in empty or invalid base image name",
                        stage.from_.span,
                        local=False,
                    )
        except DockerfileError:
            return  # the plan ends in the same error

    def _check_from(
        self,
        from_: ins.From,
        options: PlanOptions,
        values: Mapping[str, str],
        names: Sequence[str],
    ) -> bool:
        """Check one FROM; return False when the plan will end at it."""
        try:
            image = expand(from_.image, values.get, self._escape)
            self._report_undeclared(image.unknown, names, from_.span)
            if not image.text:
                return False
            if not from_.platform:
                return True
            platform = expand(from_.platform, values.get, self._escape)
        except DockerfileError:
            return False
        self._report_undeclared(platform.unknown, names, from_.span)
        if platform.unknown:
            return bool(platform.text)
        if platform.used == {_TARGET} and platform.text == values.get(_TARGET):
            self._linter.report(
                rules.REDUNDANT_TARGET_PLATFORM,
                f"Setting platform to predefined {from_.platform} in FROM is redundant as this is"
                " the default behavior",
                from_.span,
            )
        if not platform.used:
            self._check_constant(platform.text, from_, options)
        return bool(platform.text)

    def _report_undeclared(self, unknown: frozenset[str], names: Sequence[str], span: Span) -> None:
        for name in sorted(unknown.difference(names)):
            self._linter.report(
                rules.UNDEFINED_ARG_IN_FROM,
                f"FROM argument '{name}' is not declared{did_you_mean(name, names)}",
                span,
            )

    def _check_constant(self, text: str, from_: ins.From, options: PlanOptions) -> None:
        try:
            platform = parse_platform(text, options.build_platform)
        except UsageError:
            return
        name = from_.name or ""
        if platform.os not in name and platform.architecture not in name:
            self._linter.report(
                rules.FROM_PLATFORM_FLAG_CONST_DISALLOWED,
                f"FROM --platform flag should not use constant value {quote(text)}",
                from_.span,
            )

    def base(self, node: Node, image: BaseImage) -> None:
        actual, expected = image.config.platform, node.platform
        if (actual.os, actual.architecture) != (expected.os, expected.architecture):
            self._linter.report(
                rules.INVALID_BASE_IMAGE_PLATFORM,
                f'Base image {node.image} was pulled with platform "{actual.normalised()}",'
                f' expected "{expected.normalised()}" for current build',
                node.span,
                local=False,
            )

    # --- the instructions of a stage

    def stage(self, node: Node, start: ImageConfig) -> None:
        self._index = node.index
        inherited = node.context is None and node.base is not None
        self._workdirs[node.index] = inherited and self._workdirs.get(node.base or 0, False)
        self._shell = bool(start.run.shell)
        self._once = {}

    def item(self, item: Item, scope: Scope) -> None:
        instruction = item.instruction
        for word in _words(instruction):
            self._check_word(
                word, expand(word, scope.values.get, self._escape).unknown, item, scope
            )
        if isinstance(instruction, ins.Copy | ins.Add):
            for document in instruction.heredocs:
                if document.expand:
                    unknown = expand_heredoc(document.content, scope.values.get).unknown
                    self._check_word(document.content, unknown, item, scope)
        if isinstance(instruction, _ONCE):
            self._check_once(instruction, self._name(item))
        match instruction:
            case ins.Env(pairs=pairs, legacy=legacy) | ins.Label(pairs=pairs, legacy=legacy):
                self._check_pairs(instruction, pairs, legacy, item, scope)
            case ins.Arg():
                self._check_arg(instruction, item, scope)
            case ins.Cmd(command=command) | ins.Entrypoint(command=command):
                if command.shell and not self._shell:
                    self._linter.report(
                        rules.JSON_ARGS_RECOMMENDED,
                        f"JSON arguments recommended for {self._name(item)} to prevent unintended"
                        " behavior related to OS signals",
                        instruction.span,
                    )
            case ins.Shell(args=args):
                self._shell = bool(args)
            case ins.Workdir(path=path):
                self._check_workdir(scope.expand(path), instruction.span)
            case ins.Expose(ports=ports):
                self._check_ports(ports, instruction.span, scope)
            case ins.Copy(from_=None) | ins.Add():
                self._check_sources(instruction, scope)
            case _:
                pass

    def _name(self, item: Item) -> str:
        """Return the instruction's name as it was written."""
        if item.trigger:
            return item.trigger.split(None, 1)[0]
        statement = self._linter.statements.get(item.instruction.span.first)
        return statement.name if statement else type(item.instruction).__name__.upper()

    def _check_word(self, word: str, unknown: frozenset[str], item: Item, scope: Scope) -> None:
        if unknown:
            self._report_unknown(word, unknown, item, {*scope.declared}, scope.values)

    def _report_unknown(
        self,
        word: str,
        unknown: frozenset[str],
        item: Item,
        declared: set[str],
        values: Mapping[str, str],
    ) -> None:
        for name in sorted(unknown - declared - NEVER_ENV):
            # `$$`, `$@` and the like are no variables.
            if not name.replace("_", "a").isalnum() or _has_fallback(word, name):
                continue
            guess = did_you_mean(name, values).replace("mean ", "mean $")
            self._linter.report(
                rules.UNDEFINED_VAR,
                f"Usage of undefined variable '${name}'{guess}",
                item.instruction.span,
            )

    def _check_once(self, instruction: ins.StageInstruction, name: str) -> None:
        kind = type(instruction)
        if earlier := self._once.get(kind):
            self._linter.report(
                rules.MULTIPLE_INSTRUCTIONS_DISALLOWED,
                f"Multiple {name} instructions should not be used in the same stage because only"
                " the last one will be used",
                earlier,
            )
        self._once[kind] = instruction.span

    def _check_pairs(
        self,
        instruction: ins.Env | ins.Label,
        pairs: Sequence[tuple[str, str]],
        legacy: bool,
        item: Item,
        scope: Scope,
    ) -> None:
        for name, _ in pairs:
            if legacy:
                keyword = self._name(item)
                self._linter.report(
                    rules.LEGACY_KEY_VALUE_FORMAT,
                    f'"{keyword} key=value" should be used instead of legacy "{keyword} key value"'
                    " format",
                    instruction.span,
                )
            if isinstance(instruction, ins.Env):
                self._check_secret("ENV", scope.expand(name), instruction.span)

    def _check_secret(self, keyword: str, name: str, span: Span) -> None:
        words = name.lower().split("_")
        if not _SECRET.isdisjoint(words) and _NO_SECRET.isdisjoint(words):
            self._linter.report(
                rules.SECRETS_USED_IN_ARG_OR_ENV,
                f"Do not use ARG or ENV instructions for sensitive data ({keyword} {quote(name)})",
                span,
            )

    def _check_arg(self, arg: ins.Arg, item: Item, scope: Scope) -> None:
        # A later argument of the line sees the earlier ones.
        values, declared = dict(scope.values), set(scope.declared)
        for name, default in arg.args:
            self._check_secret("ARG", name, arg.span)
            if name in self._given:
                values[name] = self._given[name]
            elif default is not None:
                found = expand(default, values.get, self._escape)
                self._report_unknown(default, found.unknown, item, declared, values)
                values[name] = found.text
            declared.add(name)

    def _check_workdir(self, path: str, span: Span) -> None:
        if not self._workdirs[self._index] and not path.startswith("/"):
            self._linter.report(
                rules.WORKDIR_RELATIVE_PATH,
                f"Relative workdir {quote(path)} can have unexpected results if the base image"
                " changes",
                span,
            )
        self._workdirs[self._index] = True

    def _check_ports(self, ports: Sequence[str], span: Span, scope: Scope) -> None:
        for spec in (word for port in ports for word in scope.words(port)):
            address, host, container = split_port(spec)
            if address or host:
                self._linter.report(
                    rules.EXPOSE_INVALID_FORMAT,
                    "EXPOSE instruction should not define an IP address or host-port mapping,"
                    f" found '{spec}'",
                    span,
                )
            protocol = container.partition("/")[2]
            if protocol != protocol.lower():
                self._linter.report(
                    rules.EXPOSE_PROTO_CASING,
                    f"Defined protocol '{container}' in EXPOSE instruction should be lowercase",
                    span,
                )

    def _check_sources(self, instruction: ins.Copy | ins.Add, scope: Scope) -> None:
        verb = "Copy" if isinstance(instruction, ins.Copy) else "Add"
        for source in instruction.sources:
            path = scope.expand(source)
            if re.match(_REMOTE, path):
                continue
            path = posixpath.normpath(path)
            if self._is_hidden(path):
                self._linter.report(
                    rules.COPY_IGNORED_FILE,
                    f"Attempting to {verb} file {quote(path)} that is excluded by .dockerignore",
                    instruction.span,
                )

    def _is_hidden(self, path: str) -> bool:
        if self._hides is None:
            self._hides = _hiding(self._read_ignored())
        return self._hides(path)


def _hiding(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return what tells whether `patterns` hide a path; a pattern with `!` makes that too hard to tell."""
    if not patterns or any(pattern.startswith("!") for pattern in patterns):
        return lambda _: False
    from imgbuild.dockerfile.ignore import IgnoreMatcher

    matcher = IgnoreMatcher(patterns)
    whole = not _WHOLE.isdisjoint(patterns)
    return lambda path: whole if path in {".", "/"} else matcher.matches(path)


def _words(instruction: ins.StageInstruction) -> Iterator[str]:
    """The words that are expanded one by one; those of ARG and EXPOSE are not among them."""
    match instruction:
        case ins.Env(pairs=pairs) | ins.Label(pairs=pairs):
            for pair in pairs:
                yield from pair
        case ins.Copy() | ins.Add():
            yield from filter(None, (instruction.chown, instruction.chmod))
            if isinstance(instruction, ins.Add) and instruction.checksum:
                yield instruction.checksum
            yield from instruction.sources
            yield instruction.dest
        case ins.User(user=word) | ins.Workdir(path=word) | ins.StopSignal(signal=word):
            yield word
        case ins.Volume(paths=paths):
            yield from paths
        case ins.Run(mounts=mounts):
            for mount in mounts:
                yield from (value for _, value in csv_pairs(mount))
        case _:
            pass


def _has_fallback(word: str, name: str) -> bool:
    """Tell whether `word` says everywhere what to take when `name` is not set."""
    return re.search(rf"\$(?:{name}(?!\w)|\{{{name}(?!\w|:?[-+]))", word) is None


def _is_reference(name: str) -> bool:
    try:
        parse_reference(name)
    except ImgbuildError:
        return False
    return True
