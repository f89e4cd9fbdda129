"""What the mounts of a RUN bring: it decides about the step's key, whether the step runs or not."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from imgbuild.oci.descriptor import Layer
from imgbuild.oci.digest import Digest
from imgbuild.plan.model import (
    CopyStep,
    PlannedBind,
    PlannedCache,
    PlannedMount,
    RunStep,
    Source,
)

if TYPE_CHECKING:
    from imgbuild.build.copywork import CopyWork

# The name of what a bind of a context brings, in a tree of its own.
CONTENT = "content"


class MountSources:
    """What the mounts of one step take files from; close it when the step is done.

    `open_work` opens what reads the sources of a copy, `layers_of` gives the layers of a source.
    """

    def __init__(
        self,
        step: RunStep,
        open_work: "Callable[[CopyStep], CopyWork]",
        layers_of: Callable[[Source], Sequence[Layer]],
    ) -> None:
        self._stack = ExitStack()
        self._layers_of = layers_of
        self._works: dict[int, CopyWork] = {}
        for number, mount in enumerate(step.mounts):
            copy = _as_copy(step, mount)
            if copy is not None:
                self._works[number] = self._stack.enter_context(open_work(copy))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self._stack.close()

    def digests(self) -> Mapping[str, str]:
        """Return the digests of what is mounted, for the key; raise `ContextError`."""
        return {f"mount {number}": self.digest(number) for number in self._works}

    def digest(self, number: int) -> Digest:
        """Return the digest of what mount `number` brings."""
        return self._works[number].digest()

    def work(self, number: int) -> "CopyWork | None":
        return self._works.get(number)

    def layers(self, source: Source) -> Sequence[Layer]:
        return self._layers_of(source)


def _as_copy(step: RunStep, mount: PlannedMount) -> CopyStep | None:
    """Return the copy of what a mount brings: into a tree of its own, or a new cache directory."""
    match mount:
        case PlannedBind(source=source):
            dest = f"/{CONTENT}"
        case PlannedCache(source=source) if source is not None:
            dest = f"/{mount.path}"
        case _:
            return None
    created = f"mount {mount.target}"
    path = _literal(mount.path)
    return CopyStep(step.span, step.name, created, source, (path,), dest, None, None, unpack=False)


def _literal(path: str) -> str:
    """Return the pattern that only `path` matches."""
    if re.search(r"[*?[]", path) is None:
        return path
    return re.sub(r"[*?[]", r"[\g<0>]", path.replace("\\", "\\\\"))
