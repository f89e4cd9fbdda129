"""Where builds and `imgbuild run` get materialised roots: id mapping, worker and layers of one store."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from imgbuild.build.stack import LayerStack
from imgbuild.store.store import Store

if TYPE_CHECKING:
    from imgbuild.sandbox.idmap import IdMap
    from imgbuild.snapshot.roots import Roots


class Rootfs:
    """Makes what a RUN needs when it is needed; `search_path` is where newuidmap is looked for."""

    def __init__(self, store: Store, search_path: str) -> None:
        self._store = store
        self.search_path = search_path
        self.stack = LayerStack(store)

    @cached_property
    def idmap(self) -> "IdMap":
        """The ids this user can have; nothing is started to find out."""
        from imgbuild.sandbox.idmap import choose_idmap

        return choose_idmap(self.search_path)

    @property
    def single_id(self) -> bool:
        return self.idmap.kind == "single"

    def open(self, files: Callable[[], Mapping[str, str]] = dict) -> "Roots":
        """Return the roots of one build; close them when it ends. `files` is as `Roots` has it."""
        from imgbuild.sandbox.launch import launch
        from imgbuild.snapshot.roots import WORKER, Roots

        store = self._store
        writable = [store.paths.trees, store.paths.cache_mounts]
        for folder in writable:
            folder.mkdir(0o700, exist_ok=True)
        return Roots(
            self.idmap,
            store.paths.trees,
            store.scratch_dir,
            self.stack.open_verified,
            lambda: launch(self.idmap, WORKER, writable),
            abandoned=store.abandoned_scratch,
            files=files,
        )
