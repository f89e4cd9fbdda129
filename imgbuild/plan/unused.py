"""Build arguments that were given for nothing."""

from collections.abc import Iterable, Iterator

from imgbuild.dockerfile.instructions import Arg, Dockerfile, OnBuild
from imgbuild.dockerfile.suggest import did_you_mean
from imgbuild.plan.epoch import NAME as SOURCE_DATE_EPOCH
from imgbuild.plan.model import BaseImage, BuildPlan
from imgbuild.plan.scope import PROXIES

# These mean something without being declared.
_PREDEFINED = frozenset({SOURCE_DATE_EPOCH, "TARGETSTAGE"})
_PREFIXES = ("BUILDKIT_",)
_PLATFORM = frozenset(
    f"{side}{what}"
    for side in ("BUILD", "TARGET")
    for what in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
)


def unused_arguments(given: Iterable[str], dockerfile: Dockerfile, plan: BuildPlan) -> list[str]:
    """Return those names of build arguments `given` that no ARG declares, each with a guess.

    Stages that the target does not need count as well, and ONBUILD triggers of the bases.
    """
    declared = set(_declared(dockerfile))
    triggers = [words for text in _triggers(dockerfile, plan) if (words := _names(text))]
    declared.update(name for words in triggers for name in words)
    return [
        name + did_you_mean(name, sorted(declared))
        for name in sorted(given)
        if name not in declared and not _is_predefined(name)
    ]


def _declared(dockerfile: Dockerfile) -> Iterator[str]:
    for arg in dockerfile.global_args:
        yield from (name for name, _ in arg.args)
    for stage in dockerfile.stages:
        for item in stage.instructions:
            if isinstance(item, Arg):
                yield from (name for name, _ in item.args)


def _triggers(dockerfile: Dockerfile, plan: BuildPlan) -> Iterator[str]:
    for stage in dockerfile.stages:
        yield from (item.text for item in stage.instructions if isinstance(item, OnBuild))
    for planned in plan.stages:
        if isinstance(planned.base, BaseImage):
            yield from planned.base.config.run.on_build


def _names(trigger: str) -> list[str]:
    """Return the names that a trigger declares, if it is an ARG."""
    first, *words = trigger.split() or [""]
    return [word.partition("=")[0] for word in words] if first.upper() == "ARG" else []


def _is_predefined(name: str) -> bool:
    return (
        name in _PREDEFINED
        or name in _PLATFORM
        or name.upper() in PROXIES
        or name.startswith(_PREFIXES)
    )
