"""Who looks on while a plan is made: build checks and `--call`."""

from collections.abc import Mapping
from typing import Protocol

from imgbuild.dockerfile.instructions import Dockerfile
from imgbuild.oci.config import ImageConfig
from imgbuild.plan.graph import Item, Node
from imgbuild.plan.model import BaseImage
from imgbuild.plan.options import PlanOptions
from imgbuild.plan.scope import Arguments, Scope


class Watch(Protocol):
    """Is told of everything in the order in which BuildKit gets to it.

    With `all_stages`, stages that the target does not need are planned too. With `dry`, nothing is
    to be built: no steps are made of RUN, COPY and ADD, but what COPY and ADD say is checked.
    """

    @property
    def all_stages(self) -> bool: ...

    @property
    def dry(self) -> bool: ...

    def begin(
        self,
        dockerfile: Dockerfile,
        options: PlanOptions,
        arguments: Arguments,
        predefined: Mapping[str, str],
    ) -> None:
        """Take the global arguments; no FROM was looked at yet."""

    def base(self, node: Node, image: BaseImage) -> None:
        """Take the image that a FROM names."""

    def stage(self, node: Node, start: ImageConfig) -> None:
        """Take the config that a stage starts with."""

    def item(self, item: Item, scope: Scope) -> None:
        """Take an instruction and what names mean before it; errors get its place."""


class _Nobody:
    """Watches nothing."""

    all_stages = False
    dry = False

    def begin(self, *_: object) -> None:
        pass

    def base(self, *_: object) -> None:
        pass

    def stage(self, *_: object) -> None:
        pass

    def item(self, *_: object) -> None:
        pass


NOBODY = _Nobody()
