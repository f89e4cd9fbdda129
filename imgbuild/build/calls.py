"""`--call`: answer a question about a Dockerfile; nothing is built.

Of base images that are not in the store, only the configs are fetched, and nothing is kept.
"""

from collections.abc import Mapping
from typing import NamedTuple

from imgbuild.build.bases import Bases, Lookup
from imgbuild.build.checking import parse_checked, plan_checks
from imgbuild.build.contexts import Contexts
from imgbuild.build.definition import Definition
from imgbuild.build.prepare import plan_options
from imgbuild.dockerfile.instructions import Dockerfile
from imgbuild.dockerfile.lint import Linter
from imgbuild.errors import (
    DockerfileError,
    ImageError,
    ImgbuildError,
    NameNotFoundError,
    RegistryError,
)
from imgbuild.events import CheckWarning, Event, EventSink, ignore
from imgbuild.options import BuildOptions
from imgbuild.plan.calls import CheckResult, Outline, OutlineWatch, Targets, list_targets
from imgbuild.plan.model import BuildPlan
from imgbuild.plan.planner import make_plan
from imgbuild.plan.watch import Watch


class Question(NamedTuple):
    """What a call is about, and where its bases are looked for."""

    options: BuildOptions
    lookup: Lookup
    proxies: Mapping[str, str]
    contexts: Contexts
    definition: Definition


def ask(
    options: BuildOptions, lookup: Lookup, proxies: Mapping[str, str], contexts: Contexts
) -> Question:
    """Read the Dockerfile that a call is about; raise what `Contexts.definition` raises."""
    return Question(options, lookup, proxies, contexts, contexts.definition())


def check(question: Question) -> CheckResult:
    """Run the build checks: on the target and what it needs where one is named, else on all stages.

    What would stop a build before its first step is in the result; other errors are raised.
    """
    warnings: list[CheckWarning] = []

    def collect(event: Event) -> None:
        if isinstance(event, CheckWarning):
            warnings.append(event)
        else:
            question.lookup.events(event)

    error: ImgbuildError | None = None
    options = question.options
    try:
        dockerfile, linter = _parse(question, collect)
        watch = plan_checks(
            linter, question.contexts.ignored, all_stages=not options.target, dry=True
        )
        _dry_plan(question, dockerfile, watch)
        linter.finish()
    except (DockerfileError, ImageError, RegistryError, NameNotFoundError) as problem:
        error = problem
    name, data, place = question.definition
    return CheckResult(tuple(warnings), error, name, str(place or name), data)


def outline(question: Question) -> Outline:
    """Return what can be given to a build of the target; raise what the build would raise."""
    dockerfile, _ = _parse(question, ignore)
    watch = OutlineWatch()
    return watch.outline(_dry_plan(question, dockerfile, watch), question.definition.data)


def targets(question: Question) -> Targets:
    """Return the stages that can be built; raise `DockerfileError`."""
    return list_targets(_parse(question, ignore)[0], question.definition.data)


def _parse(question: Question, events: EventSink) -> tuple[Dockerfile, Linter]:
    name, data, _ = question.definition
    return parse_checked(data, name, question.options.build_args, events)


def _dry_plan(question: Question, dockerfile: Dockerfile, watch: Watch) -> BuildPlan:
    options = plan_options(question.options, question.proxies)
    resolve = Bases(question.lookup).resolve
    return make_plan(dockerfile, options, resolve, watch, question.contexts)
