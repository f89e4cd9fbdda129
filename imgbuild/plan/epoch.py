"""SOURCE_DATE_EPOCH: the time that what a build makes is said to be from."""

import re
from collections.abc import Callable, Mapping

from imgbuild.dockerfile.instructions import Dockerfile
from imgbuild.errors import DockerfileError
from imgbuild.plan.scope import Arguments

NAME = "SOURCE_DATE_EPOCH"
# Which stands for the time of the main context.
_CONTEXT = "context"
_SECONDS = re.compile(r"[0-9]{1,18}")

# Tells when a context is from, in seconds since 1970; the empty name is the main one. None for a
# folder, whose times are not those of its content.
ContextTime = Callable[[str], int | None]


def settle_epoch(
    dockerfile: Dockerfile,
    arguments: Arguments,
    find_context: Callable[[str], str | None],
    context_time: ContextTime,
) -> tuple[Arguments, int | None]:
    """Return the seconds since 1970 that a build argument, or an ARG before the first FROM, sets.

    `context`, or the name of a named context, stands for its time. The arguments come back with
    that time in place of the name; without it where there is none. Raises `DockerfileError` in
    BuildKit's words for anything else.
    """
    value = arguments.given.get(NAME, arguments.globals.get(NAME, ""))
    if not value:
        return arguments, None
    if _SECONDS.fullmatch(value):
        return arguments, int(value)
    name = "" if value == _CONTEXT else find_context(value)
    if name is None:
        raise _invalid(value, dockerfile, arguments)
    time = context_time(name)
    settled = arguments._replace(
        given=_with(arguments.given, time), globals=_with(arguments.globals, time)
    )
    return settled, time


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
    stages = {stage.from_.name for stage in dockerfile.stages}
    message = f"invalid {NAME}: {value}"
    if value.lower() in stages:
        message = f"{NAME} from the stage {value} is not supported yet"
    return DockerfileError(
        message,
        hint="give it as seconds since 1970",
        span=span,
        source=dockerfile.source if span else None,
    )
