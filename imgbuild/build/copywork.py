"""One COPY or ADD on its way: what it reads is looked at once, and no sooner than it is needed."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Self

from imgbuild.build.context import ContextTree
from imgbuild.build.gathered import Gathered
from imgbuild.build.sources import Filters, from_context, from_image
from imgbuild.build.stack import LayerStack
from imgbuild.oci.descriptor import Layer
from imgbuild.oci.digest import Digest, digest_bytes
from imgbuild.plan.model import ContextSource, CopyStep
from imgbuild.snapshot.view import RootView
from imgbuild.store.store import Store


class Place(NamedTuple):
    """What a copy is done with: `context` opens the build context that the step names."""

    store: Store
    stack: LayerStack
    context: Callable[[], ContextTree]
    clamp: int | None
    no_cache: bool


class CopyWork:
    """The work of one step; close it when done. `layers` are those of the stage or image it reads."""

    def __init__(self, step: CopyStep, layers: Sequence[Layer], place: Place) -> None:
        self._step = step
        self._layers = layers
        self._place = place
        self._open = ExitStack()
        self._gathered: Gathered | None = None
        self._digest: Digest | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self._open.close()

    def expect_reading(self) -> None:
        """Say that `make` comes first, whatever the sources hold."""
        if isinstance(self._step.source, ContextSource):
            self._place.context().expect_reading()

    def _known_digest(self) -> Digest | None:
        """Return the digest of the sources if that needs no file to be read; raise `ContextError`."""
        if self._digest is None and not self._place.no_cache:
            cache = self._place.store.cache
            if isinstance(self._step.source, ContextSource):
                self._digest = cache.tree(*self._tree_memo())
            elif memo := cache.memo(self._image_memo()):
                self._digest = Digest(memo)
        return self._digest

    def digest(self) -> Digest:
        """Return the digest of what the sources hold; what is not known yet is read."""
        found = self._known_digest()
        if found is not None:
            return found
        gathered, cache = self._gather(), self._place.store.cache
        if isinstance(self._step.source, ContextSource):
            gathered.learn(cache)
            self._digest = gathered.digest()
            if gathered.is_settled:
                cache.put_tree(*self._tree_memo(), self._digest)
        else:
            self._digest = gathered.digest()
            cache.set_memo(self._image_memo(), self._digest)
        return self._digest

    def make(self, below: Sequence[Layer]) -> Layer:
        """Make the layer, on top of `below`; raise `ContextError`."""
        from imgbuild.build.commit import LayerMaker
        from imgbuild.build.copystep import copy_layer

        place, gathered = self._place, self._gather()
        was_known = gathered.is_known
        store = place.store
        with LayerMaker(store, place.clamp) as maker, place.stack.view(below) as view:
            copy_layer(
                maker,
                self._step,
                view,
                gathered,
                clamp=place.clamp,
                scratch=store.paths.staging,
            )
            maker.finish_tar()
            layer = maker.finish()
        if not was_known:
            gathered.remember(store.cache)
        return layer

    def _gather(self) -> Gathered:
        if self._gathered is None:
            begun = time.time_ns()
            step, scratch = self._step, self._place.store.paths.staging
            filters = Filters(step.exclude, step.pivots)
            tree: ContextTree | RootView
            if isinstance(step.source, ContextSource):
                tree = self._place.context()
                sources = from_context(tree, step.sources, scratch, filters)
            else:
                tree = self._open.enter_context(self._place.stack.view(self._layers))
                sources = from_image(tree, step.sources, scratch, filters)
            self._gathered = Gathered([(tree, sources)], begun)
            self._open.callback(self._gathered.close)
        return self._gathered

    def _tree_memo(self) -> tuple[str, str]:
        """Return where the sources are, and what tells that they are as they were."""
        step, root = self._step, self._place.context().root
        question = repr((str(root.absolute()), step.sources, step.exclude, step.pivots))
        return _hash(question), self._gather().fingerprint()

    def _image_memo(self) -> str:
        # What layers hold never changes, so that a cached build need not look into an index.
        step = self._step
        filters = (step.exclude, step.pivots) if step.exclude or step.pivots else ()
        question = repr(([layer.diff_id for layer in self._layers], step.sources, *filters))
        return f"sources 2 {_hash(question)}"


def _hash(question: str) -> str:
    return digest_bytes(question.encode("utf-8", "surrogateescape"))
