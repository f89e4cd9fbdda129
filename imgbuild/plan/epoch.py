"""SOURCE_DATE_EPOCH: the time that what a build makes is said to be from."""

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from imgbuild.dockerfile.instructions import Add, Arg, Dockerfile, StageText
from imgbuild.errors import DockerfileError, ImgbuildError
from imgbuild.plan.fetching import remote_source
from imgbuild.plan.model import RemoteSource
from imgbuild.plan.place import located
from imgbuild.plan.scope import Arguments

NAME = "SOURCE_DATE_EPOCH"
# Which stands for the time of the main context.
_CONTEXT = "context"
_SCRATCH = "scratch"
_SECONDS = re.compile(r"[0-9]{1,18}")
_HINT = "such a stage is FROM scratch, and one ADD of a URL or a git repository"


class Times(Protocol):
    """Tells when something is from, in seconds since 1970.

    None for a folder, whose times are not those of its content. What is asked for is fetched.
    """

    def context_time(self, name: str) -> int | None:
        """Return the time of a named context; the empty name is the main one."""

    def source_time(self, source: RemoteSource) -> int | None:
        """Return the time of what ADD names."""


class _NoTimes:
    """Knows no times."""

    def context_time(self, _name: str) -> int | None:
        return None

    def source_time(self, _source: RemoteSource) -> int | None:
        return None


NO_TIMES = _NoTimes()


def settle_epoch(
    dockerfile: Dockerfile,
    arguments: Arguments,
    find_context: Callable[[str], str | None],
    times: Times,
) -> tuple[Arguments, int | None]:
    """Return the seconds since 1970 that a build argument, or an ARG before the first FROM, sets.

    `context`, the name of a named context or of a stage with nothing but a remote ADD stands for
    the time of that. The arguments come back with the time in place of the name; without it where
    there is none. Raises `DockerfileError` in BuildKit's words for anything else.
    """
    value = arguments.given.get(NAME, arguments.globals.get(NAME, ""))
    if not value:
        return arguments, None
    if _SECONDS.fullmatch(value):
        return arguments, int(value)
    time = _time_of(value, dockerfile, arguments, find_context, times)
    settled = arguments._replace(
        given=_with(arguments.given, time), globals=_with(arguments.globals, time)
    )
    return settled, time


def _time_of(
    value: str,
    dockerfile: Dockerfile,
    arguments: Arguments,
    find_context: Callable[[str], str | None],
    times: Times,
) -> int | None:
    name = "" if value == _CONTEXT else find_context(value)
    if name is not None:
        return times.context_time(name)
    for stage in dockerfile.stages:
        if (stage.from_.name or "").lower() == value.lower():
            try:
                return times.source_time(_only_source(stage, arguments))
            except ImgbuildError as error:
                raise located(error, stage.from_.span, dockerfile.source) from None
    raise _invalid(value, dockerfile, arguments)


def _only_source(stage: StageText, arguments: Arguments) -> RemoteSource:
    """Return what the one ADD of a stage names; raise `DockerfileError` in BuildKit's words."""
    seen = arguments._replace(globals=_with(arguments.globals, None))
    if seen.expand(stage.from_.image) != _SCRATCH:
        raise DockerfileError(f"{NAME} stage must use FROM scratch", hint=_HINT)
    found: RemoteSource | None = None
    for instruction in stage.instructions:
        if isinstance(instruction, Arg):
            seen = _declared(instruction, seen)
        elif not isinstance(instruction, Add):
            word = type(instruction).__name__.upper()
            raise DockerfileError(
                f"{NAME} stage does not meet source-only requirements: unsupported {word}"
                " instruction",
                hint=_HINT,
            )
        elif found is not None:
            raise DockerfileError(f"{NAME} stage must contain exactly one remote ADD", hint=_HINT)
        else:
            found = _added(instruction, seen)
    if found is None:
        raise DockerfileError(f"{NAME} stage must contain exactly one remote ADD", hint=_HINT)
    return found


def _declared(arg: Arg, seen: Arguments) -> Arguments:
    for name, default in arg.args:
        value = seen.given.get(name, None if default is None else seen.expand(default))
        if value is not None:
            seen = seen._replace(globals={**seen.globals, name: value})
    return seen


def _added(add: Add, seen: Arguments) -> RemoteSource:
    if len(add.sources) != 1 or add.heredocs:
        raise DockerfileError(
            f"{NAME} stage must contain exactly one remote ADD source", hint=_HINT
        )
    found = remote_source(seen.expand(add.sources[0]), add, seen.expand(add.checksum or ""))
    if found is None:
        raise DockerfileError(
            f"{NAME} stage source must be a single HTTP(S) or Git ADD", hint=_HINT
        )
    return found


def _with(values: Mapping[str, str], time: int | None) -> Mapping[str, str]:
    if NAME not in values:
        return values
    others = {name: value for name, value in values.items() if name != NAME}
    return others if time is None else {**others, NAME: str(time)}


def _invalid(value: str, dockerfile: Dockerfile, arguments: Arguments) -> DockerfileError:
    span = None
    if NAME not in arguments.given:
        span = next(
            arg.span for arg in dockerfile.global_args for name, _ in arg.args if name == NAME
        )
    return DockerfileError(
        f"invalid {NAME}: {value}",
        hint="give seconds since 1970, context, or the name of a context or of a stage",
        span=span,
        source=dockerfile.source if span else None,
    )
