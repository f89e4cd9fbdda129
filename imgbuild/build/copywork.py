"""One COPY or ADD on its way: what it reads is looked at once, and no sooner than it is needed."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Self

from imgbuild.build.context import ContextTree
from imgbuild.build.contexts import Tree
from imgbuild.build.gathered import Gathered, Part
from imgbuild.build.sources import Filters, close, from_context, from_image
from imgbuild.build.stack import LayerStack
from imgbuild.oci.descriptor import Layer
from imgbuild.oci.digest import Digest, digest_bytes
from imgbuild.options import ArchiveLimits
from imgbuild.plan.model import ContextSource, CopyStep, RemoteSource, UrlSource
from imgbuild.store.store import Store

if TYPE_CHECKING:
    from imgbuild.build.copystep import Maker
    from imgbuild.build.remotes import Remotes


class Place(NamedTuple):
    """What a copy is done with.

    `context` opens the build context that the step names, `remotes` what fetches for ADD. `secrets`
    are values that no layer may hold, by name.
    """

    store: Store
    stack: LayerStack
    context: Callable[[], Tree]
    remotes: "Remotes"
    clamp: int | None
    no_cache: bool
    limits: ArchiveLimits = ArchiveLimits()
    secrets: Mapping[str, bytes] | None = None


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
        step = self._step
        # Several trees are not read ahead.
        local = all(isinstance(source, str) for source in step.sources)
        tree = self._place.context() if isinstance(step.source, ContextSource) and local else None
        if isinstance(tree, ContextTree):
            tree.expect_reading()

    def _known_digest(self) -> Digest | None:
        """Return the digest of the sources if that needs no file to be read.

        What ADD names is fetched, or its server asked. Raises `ContextError`, and what fetching
        raises.
        """
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

        place = self._place
        self._gather()  # which may need secrets
        with LayerMaker(place.store, place.clamp, place.secrets) as maker:
            self._write(maker, below)
            maker.finish_tar()
            return maker.finish()

    def write_tar(self, write: Callable[[bytes], object]) -> None:
        """Write the tar of what is copied, as if to an empty image; raise `ContextError`."""
        from imgbuild.layer.tarwrite import TarWriter

        tar = TarWriter(write, clamp=self._place.clamp)
        self._write(tar, ())
        tar.finish()

    def _write(self, maker: "Maker", below: Sequence[Layer]) -> None:
        from imgbuild.build.copystep import copy_layer

        place, gathered = self._place, self._gather()
        was_known = gathered.is_known
        with place.stack.view(below) as view:
            copy_layer(
                maker,
                self._step,
                view,
                gathered,
                clamp=place.clamp,
                scratch=place.store.paths.staging,
                limits=place.limits,
            )
        if not was_known:
            gathered.remember(place.store.cache)

    def _gather(self) -> Gathered:
        if self._gathered is None:
            begun = time.time_ns()
            parts = [self._part(source) for source in _grouped(self._step.sources)]
            self._gathered = Gathered(parts, begun)
        return self._gathered

    def _part(self, source: tuple[str, ...] | RemoteSource) -> Part:
        """Look at paths of the source that the step names, or fetch."""
        step, place = self._step, self._place
        scratch, filters = place.store.paths.staging, Filters(step.exclude, step.pivots)
        if not isinstance(source, tuple):
            fetched = place.remotes.open(source)
            self._open.callback(fetched.tree.close)
            found = from_context(fetched.tree, [fetched.pattern], scratch, filters)
            unpack = isinstance(source, UrlSource) and step.unpack_fetched
            part = Part(fetched.tree, found, unpack, fetched.tree.identity)
        elif isinstance(step.source, ContextSource):
            tree = place.context()
            if isinstance(tree, ContextTree):
                found = from_context(tree, source, scratch, filters)
                part = Part(tree, found, step.unpack, tree.identity)
            else:
                part = Part(tree, from_image(tree, source, scratch, filters), step.unpack)
        else:
            view = self._open.enter_context(place.stack.view(self._layers))
            part = Part(view, from_image(view, source, scratch, filters), step.unpack)
        self._open.callback(close, part.sources)
        return part

    def _tree_memo(self) -> tuple[str, str]:
        """Return where the sources are, and what tells that they are as they were."""
        step, gathered = self._step, self._gather()
        roots = {
            part.identity or str(part.tree.root.absolute())
            for part in gathered.parts
            if isinstance(part.tree, ContextTree)
        }
        question = repr((sorted(roots), step.sources, step.exclude, step.pivots))
        return _hash(question), gathered.fingerprint()

    def _image_memo(self) -> str:
        # What layers hold never changes, so that a cached build need not look into an index.
        step = self._step
        filters = (step.exclude, step.pivots) if step.exclude or step.pivots else ()
        question = repr(([layer.diff_id for layer in self._layers], step.sources, *filters))
        return f"sources 2 {_hash(question)}"


def _grouped(
    sources: Sequence[str | RemoteSource],
) -> Iterator[tuple[str, ...] | RemoteSource]:
    """Yield what is fetched one by one, and the paths between together."""
    for is_path, group in groupby(sources, key=lambda source: isinstance(source, str)):
        if is_path:
            yield tuple(source for source in group if isinstance(source, str))
        else:
            yield from (source for source in group if not isinstance(source, str))


def _hash(question: str) -> str:
    return digest_bytes(question.encode("utf-8", "surrogateescape"))
