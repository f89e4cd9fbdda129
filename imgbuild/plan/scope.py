"""ARG and ENV: which name has which value where.

Source of the rules: https://docs.docker.com/reference/dockerfile/#scope and BuildKit's convert.go;
where the two differ the code is followed (the last writer of a name wins, ARG or ENV).
"""

from collections.abc import Mapping
from typing import NamedTuple

from imgbuild.dockerfile.instructions import Arg, Dockerfile
from imgbuild.dockerfile.words import expand, expand_for_display, expand_words
from imgbuild.errors import DockerfileError
from imgbuild.oci.platform import Platform
from imgbuild.plan.place import located

# Passed to every RUN without being declared, in both cases, in this order.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
# These steer the SBOM scanner; they are arguments that never reach an environment.
NEVER_ENV = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
# Linux takes no variable above 128 KiB (MAX_ARG_STRLEN); this stops values that double themselves.
_LONGEST = 1 << 20


class Arguments(NamedTuple):
    """What a build was given (`given`), and what the ARGs before the first FROM made of it (`globals`)."""

    given: Mapping[str, str]
    globals: Mapping[str, str]
    proxies: tuple[tuple[str, str], ...]
    escape: str

    def expand(self, word: str) -> str:
        """Expand a word of FROM, which sees global arguments only."""
        return _expand(word, self.globals, self.escape)


def _expand(word: str, values: Mapping[str, str], escape: str) -> str:
    text = expand(word, values.get, escape).text
    if len(text) > _LONGEST:
        raise DockerfileError(
            f"the expanded text is longer than {_LONGEST} characters",
            hint="no command can be given a value that long; use a file",
        )
    return text


def platform_arguments(target: Platform, build: Platform, stage: str) -> dict[str, str]:
    """Return the predefined platform arguments; `stage` is the target's name, if it has one."""
    return {
        "BUILDPLATFORM": str(build),
        "BUILDOS": build.os,
        "BUILDOSVERSION": build.os_version,
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "TARGETPLATFORM": _with_version(target),
        "TARGETOS": target.os,
        "TARGETOSVERSION": target.os_version,
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETSTAGE": stage or "default",
    }


def _with_version(platform: Platform) -> str:
    if not platform.os_version:
        return str(platform)
    return str(platform).replace(platform.os, f"{platform.os}({platform.os_version})", 1)


def global_arguments(
    dockerfile: Dockerfile,
    given: Mapping[str, str],
    predefined: Mapping[str, str],
) -> Arguments:
    """Evaluate the ARGs before the first FROM; a default is not looked at where a value was given.

    Raises `DockerfileError` in BuildKit's words.
    """
    values = {name: given.get(name, value) for name, value in predefined.items()}
    for arg in dockerfile.global_args:
        for name, default in arg.args:
            if name in given:
                values[name] = given[name]
            elif default is not None:
                try:
                    values[name] = _expand(default, values, dockerfile.escape)
                except DockerfileError as error:
                    raise located(error, arg.span, dockerfile.source) from None
    return Arguments(given, values, proxy_environment(given), dockerfile.escape)


def proxy_environment(given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the proxy settings among the build arguments, each name in both cases."""
    found: dict[str, str] = {}
    for name in sorted(given):
        if name.upper() in PROXIES:
            found[name.upper()] = given[name]
    return tuple(
        (spelling, found[name])
        for name in PROXIES
        if found.get(name)
        for spelling in (name, name.lower())
    )


class Scope:
    """What names mean inside one stage, from the top down.

    `values` is the environment of a RUN: the image's, and the arguments declared so far.
    `declared` has the arguments in the order of their first ARG, with the value of the last.
    """

    __slots__ = ("_arguments", "_escape", "declared", "values")

    def __init__(self, arguments: Arguments, base: "Scope | None" = None) -> None:
        self._arguments = arguments
        self._escape = arguments.escape
        self.values: dict[str, str] = dict(base.values) if base else {}
        self.declared: dict[str, str] = dict(base.declared) if base else {}

    @property
    def hidden(self) -> tuple[tuple[str, str], ...]:
        """Proxy settings that every RUN gets and that no key and no history shows."""
        return self._arguments.proxies

    def expand(self, word: str) -> str:
        """Expand `word`; raise `DockerfileError` in BuildKit's words."""
        return _expand(word, self.values, self._escape)

    def words(self, word: str) -> list[str]:
        """Expand `word` into as many words as it then has: EXPOSE only."""
        return expand_words(word, self.values.get, self._escape)

    def shown(self, text: str) -> str:
        """Expand the text of a COPY, ADD or WORKDIR for its progress name."""
        try:
            return self.expand(text)
        except DockerfileError:
            return text

    def shown_raw(self, text: str) -> str:
        """Expand the text of a RUN for its progress name: quotes and unset variables stay."""
        try:
            return expand_for_display(text, self.values.get, self._escape).text
        except DockerfileError:
            return text

    def declare(self, arg: Arg) -> str:
        """Declare the arguments of an ARG and return its history text."""
        texts: list[str] = []
        for name, default in arg.args:
            value = self._argument(name, default)
            self.declared[name] = value or ""
            texts.append(name if value is None else f"{name}={value}")
            if value is not None and name not in NEVER_ENV:
                self.values[name] = value
        return f"ARG {' '.join(texts)}"

    def _argument(self, name: str, default: str | None) -> str | None:
        given = self._arguments.given.get(name)
        if given is not None:
            return given
        if default is not None:
            return self.expand(default)
        return self._arguments.globals.get(name)

    def arguments_text(self) -> tuple[str, ...]:
        """Return the arguments as the history of a RUN shows them: `|2 a=1 b=2`, or nothing."""
        if not self.declared:
            return ()
        pairs = [f"{name}={self.values.get(name, old)}" for name, old in self.declared.items()]
        return (f"|{len(pairs)}", *pairs)
