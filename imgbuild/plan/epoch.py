"""SOURCE_DATE_EPOCH: the time that what a build makes is said to be from."""

import re

from imgbuild.dockerfile.instructions import Dockerfile
from imgbuild.errors import DockerfileError
from imgbuild.plan.scope import Arguments

NAME = "SOURCE_DATE_EPOCH"
_SECONDS = re.compile(r"[0-9]{1,18}")


def source_date_epoch(dockerfile: Dockerfile, arguments: Arguments) -> int | None:
    """Return the seconds since 1970 that a build argument, or an ARG before the first FROM, sets.

    `context` stands for the time of a git or http context, and for nothing with a local one.
    Raises `DockerfileError` for anything else, in BuildKit's words.
    """
    value = arguments.given.get(NAME, arguments.globals.get(NAME, ""))
    if not value or value == "context":
        return None
    if _SECONDS.fullmatch(value):
        return int(value)
    span = None
    if NAME not in arguments.given:
        span = next(
            arg.span for arg in dockerfile.global_args for name, _ in arg.args if name == NAME
        )
    stages = {stage.from_.name for stage in dockerfile.stages}
    message = f"invalid {NAME}: {value}"
    if value.lower() in stages:
        message = f"{NAME} from the stage {value} is not supported yet"
    raise DockerfileError(
        message,
        hint="give it as seconds since 1970",
        span=span,
        source=dockerfile.source if span else None,
    )
