"""Where builds and `imgbuild run` get materialised roots: the tier, worker and layers of one store."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuild.build.stack import LayerStack
from imgbuild.options import RunOptions
from imgbuild.store.store import Store

if TYPE_CHECKING:
    from imgbuild.sandbox.idmap import IdMap
    from imgbuild.sandbox.session import Session
    from imgbuild.sandbox.tiers import Candidate, Tier
    from imgbuild.snapshot.roots import Roots


class Rootfs:
    """Makes what a RUN needs when it is needed.

    `search_path` is where newuidmap is looked for. Of `options` it takes the tier, and the volumes
    that commands may write to: nothing else of this machine can be changed by a session.
    """

    def __init__(self, store: Store, search_path: str, options: RunOptions | None = None) -> None:
        self._store = store
        self.search_path = search_path
        self._options = options or RunOptions()
        self._tier: Tier | None = None
        self.stack = LayerStack(store)

    @cached_property
    def _candidates(self) -> "tuple[Candidate, ...]":
        from imgbuild.sandbox.candidates import candidates

        return candidates(self.search_path, self._options.isolation)

    @property
    def idmap(self) -> "IdMap":
        """The ids of the session: what is expected until one has started."""
        if self._tier is not None:
            return self._tier.idmap
        from imgbuild.sandbox.candidates import expected

        return expected(self._candidates).idmap

    @property
    def single_id(self) -> bool:
        """Whether commands have one user id alone: what is expected until a session has started."""
        return self.idmap.kind == "single"

    def open(self, files: Callable[[], Mapping[str, str]] = dict) -> "Roots":
        """Return the roots of one build; close them when it ends. `files` is as `Roots` has it."""
        from imgbuild.snapshot.roots import Roots

        paths = self._store.paths
        writable = [paths.trees, paths.cache_mounts]
        for folder in writable:
            folder.mkdir(0o700, exist_ok=True)
        writable += [one.source for one in self._options.volumes if not one.readonly]
        start = partial(self._start, writable)
        return Roots(
            paths.trees,
            self._store.scratch_dir,
            self.stack.open_verified,
            start,
            abandoned=self._store.abandoned_scratch,
            files=files,
            view=self.stack.view,
        )

    def _start(self, writable: list[Path], steps: Path | None) -> "Session":
        from imgbuild.sandbox.choice import start
        from imgbuild.snapshot.roots import WORKER

        session = start(self._candidates, WORKER, writable, steps)
        self._tier = session.tier
        return session
