"""Parse a Dockerfile and start its build checks: what was found before an error is told as well."""

from collections.abc import Callable, Mapping

from imgbuild.dockerfile.frontend import ARGUMENT as BUILDKIT_SYNTAX
from imgbuild.dockerfile.frontend import refuse_foreign_frontend
from imgbuild.dockerfile.instructions import Dockerfile
from imgbuild.dockerfile.lint import ARGUMENT as BUILDKIT_DOCKERFILE_CHECK
from imgbuild.dockerfile.lint import Linter, check_broken_text, check_text, make_linter
from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError
from imgbuild.events import EventSink
from imgbuild.plan.lint import PlanLint


def parse_checked(
    data: bytes, name: str, arguments: Mapping[str, str], events: EventSink
) -> tuple[Dockerfile, Linter]:
    """Parse `data`, the Dockerfile `name`, and run the checks of its text.

    `arguments` are the build arguments. Raises `DockerfileError` also for a text in another language.
    """
    refuse_foreign_frontend(data, name, arguments.get(BUILDKIT_SYNTAX))
    linter = make_linter(data, name, arguments.get(BUILDKIT_DOCKERFILE_CHECK), events)
    try:
        dockerfile = parse(data, name)
    except DockerfileError:
        check_broken_text(data, name, linter)
        raise
    check_text(dockerfile, linter)
    return dockerfile, linter


def plan_checks(
    linter: Linter,
    ignored: Callable[[], tuple[str, ...]],
    *,
    all_stages: bool = False,
    dry: bool = False,
) -> PlanLint:
    """Return what checks a plan; `ignored` reads the patterns of the context's ignore file."""
    return PlanLint(linter, ignored, all_stages=all_stages, dry=dry)
