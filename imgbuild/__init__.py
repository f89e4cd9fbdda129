"""Build OCI images from Dockerfiles without a daemon and without root.

The public names are resolved on first use, so that importing the package loads nothing.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgbuild.api import (
        BuildResult,
        ImageDetails,
        ImageInfo,
        StepResult,
        build,
        doctor,
        images,
        inspect,
        parse,
        plan,
        pull,
        push,
        remove,
        reset,
        run,
        tag,
    )
    from imgbuild.errors import DockerfileError, ImgbuildError, StepFailedError
    from imgbuild.options import BuildOptions, Output, RegistryOptions

__version__ = "0.1.0"

_PUBLIC = {
    **dict.fromkeys(
        (
            "BuildResult",
            "ImageDetails",
            "ImageInfo",
            "StepResult",
            "build",
            "doctor",
            "images",
            "inspect",
            "parse",
            "plan",
            "pull",
            "push",
            "remove",
            "reset",
            "run",
            "tag",
        ),
        "imgbuild.api",
    ),
    **dict.fromkeys(("DockerfileError", "ImgbuildError", "StepFailedError"), "imgbuild.errors"),
    **dict.fromkeys(("BuildOptions", "Output", "RegistryOptions"), "imgbuild.options"),
}

__all__ = [
    "BuildOptions",
    "BuildResult",
    "DockerfileError",
    "ImageDetails",
    "ImageInfo",
    "ImgbuildError",
    "Output",
    "RegistryOptions",
    "StepFailedError",
    "StepResult",
    "build",
    "doctor",
    "images",
    "inspect",
    "parse",
    "plan",
    "pull",
    "push",
    "remove",
    "reset",
    "run",
    "tag",
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
