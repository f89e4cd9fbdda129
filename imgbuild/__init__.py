"""Build OCI images from Dockerfiles without a daemon and without root.

The public names are resolved on first use, so that importing the package loads nothing.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgbuild.api import (
        build,
        cache_mounts,
        check,
        doctor,
        explain_context,
        images,
        inspect,
        list_context,
        outline,
        parse,
        plan,
        pull,
        push,
        remove,
        reset,
        run,
        tag,
        targets,
    )
    from imgbuild.build.cachemounts import CacheMount, CacheMounts
    from imgbuild.build.results import BuildResult, ImageDetails, ImageInfo, StepResult
    from imgbuild.build.sent import ContextEntry, ContextVerdict
    from imgbuild.dockerfile.instructions import Dockerfile
    from imgbuild.errors import DockerfileError, ImgbuildError, Span, StepFailedError
    from imgbuild.events import CheckWarning
    from imgbuild.options import (
        ArchiveLimits,
        BuildOptions,
        Output,
        RegistryOptions,
        RunOptions,
        Secret,
        SshAgent,
        Volume,
    )
    from imgbuild.plan.calls import CheckResult, Outline, Target, Targets
    from imgbuild.plan.model import BuildPlan

__version__ = "0.1.0"

_PUBLIC = {
    **dict.fromkeys(
        (
            "build",
            "cache_mounts",
            "check",
            "doctor",
            "explain_context",
            "images",
            "inspect",
            "list_context",
            "outline",
            "parse",
            "plan",
            "pull",
            "push",
            "remove",
            "reset",
            "run",
            "tag",
            "targets",
        ),
        "imgbuild.api",
    ),
    "BuildPlan": "imgbuild.plan.model",
    **dict.fromkeys(
        ("BuildResult", "ImageDetails", "ImageInfo", "StepResult"), "imgbuild.build.results"
    ),
    **dict.fromkeys(("CacheMount", "CacheMounts"), "imgbuild.build.cachemounts"),
    **dict.fromkeys(("ContextEntry", "ContextVerdict"), "imgbuild.build.sent"),
    "Dockerfile": "imgbuild.dockerfile.instructions",
    **dict.fromkeys(
        ("DockerfileError", "ImgbuildError", "Span", "StepFailedError"), "imgbuild.errors"
    ),
    "CheckWarning": "imgbuild.events",
    **dict.fromkeys(("CheckResult", "Outline", "Target", "Targets"), "imgbuild.plan.calls"),
    **dict.fromkeys(
        (
            *("ArchiveLimits", "BuildOptions", "Output", "RegistryOptions", "RunOptions", "Secret"),
            *("SshAgent", "Volume"),
        ),
        "imgbuild.options",
    ),
}

__all__ = [
    "ArchiveLimits",
    "BuildOptions",
    "BuildPlan",
    "BuildResult",
    "CacheMount",
    "CacheMounts",
    "CheckResult",
    "CheckWarning",
    "ContextEntry",
    "ContextVerdict",
    "Dockerfile",
    "DockerfileError",
    "ImageDetails",
    "ImageInfo",
    "ImgbuildError",
    "Outline",
    "Output",
    "RegistryOptions",
    "RunOptions",
    "Secret",
    "Span",
    "SshAgent",
    "StepFailedError",
    "StepResult",
    "Target",
    "Targets",
    "Volume",
    "build",
    "cache_mounts",
    "check",
    "doctor",
    "explain_context",
    "images",
    "inspect",
    "list_context",
    "outline",
    "parse",
    "plan",
    "pull",
    "push",
    "remove",
    "reset",
    "run",
    "tag",
    "targets",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


class _Package(ModuleType):
    """Keeps `imgbuild.build` and `imgbuild.plan` the functions.

    There are packages of these names as well, and importing a submodule binds it as an attribute
    of its parent (https://docs.python.org/3/reference/import.html#submodules).
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
