"""Roots for hosts where nothing can be mounted: each a directory with the whole file system.

A root is made by unpacking the layers of an image over each other. It goes from one step to the
next: what RUN left is the root for the next RUN, with the layers of COPY between them unpacked
over it. A second branch of a build gets a root of its own, made from the layers again.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from imgbuild.layer.index import encode_entry
from imgbuild.oci.descriptor import Layer
from imgbuild.oci.digest import Digest
from imgbuild.sandbox.session import Session
from imgbuild.sandbox.spec import (
    BindMount,
    DirectoryRoot,
    FileMount,
    LayersMount,
    Mount,
    SandboxSpec,
)
from imgbuild.snapshot.attribution import APT_FOLDER, APT_NAME
from imgbuild.snapshot.lower import has_directory
from imgbuild.snapshot.request import Request
from imgbuild.snapshot.scan import read_changes
from imgbuild.snapshot.view import RootView
from imgbuild.snapshot.workspace import Workspace

Chain = tuple[Digest, ...]
View = Callable[[Sequence[Layer]], RootView]


class Source(Protocol):
    """Where layers and places come from: the `Roots` of a build."""

    @property
    def session(self) -> Session: ...

    def feed(self, layer: Layer, pipe: int) -> None: ...

    @property
    def written(self) -> Mapping[str, str]: ...

    def take_place(self) -> Path: ...

    def adopt(self, diff_id: Digest, upper: Path) -> None: ...

    def discard(self, place: Path) -> None: ...


class Copies:
    """The roots of one build, each for the layers it holds (bottom first)."""

    def __init__(self, source: Source, ownership: dict[str, Any], view: View | None) -> None:
        self._source = source
        self._ownership = ownership
        self._view = view
        self._lock = threading.Lock()
        self._roots: dict[Chain, Path] = {}

    def workspace(self, layers: Sequence[Layer]) -> "CopiedWorkspace":
        """Return a root of these layers that a command can change."""
        place = self._source.take_place()
        chain = tuple(layer.diff_id for layer in layers)
        done, root = self._take(chain)
        root = root or place.with_name(f"root-{place.name}")
        try:
            for layer in layers[done:]:
                self._unpack(layer, root)
        except BaseException:
            self._source.discard(root)
            raise
        return CopiedWorkspace(self, self._source, root, place, layers, self._ownership)

    def keep(self, chain: Chain, root: Path) -> None:
        """Let a root be had again by who needs these layers."""
        with self._lock:
            known = self._roots.setdefault(chain, root)
        if known is not root:
            self._source.discard(root)

    def view(self, layers: Sequence[Layer]) -> RootView | None:
        return None if self._view is None else self._view(layers)

    def _take(self, chain: Chain) -> tuple[int, Path | None]:
        """Take the root that holds most of the layers; give how many those are."""
        with self._lock:
            for length in range(len(chain), 0, -1):
                root = self._roots.pop(chain[:length], None)
                if root is not None:
                    return length, root
        return 0, None

    def _unpack(self, layer: Layer, root: Path) -> None:
        reader, writer = os.pipe()
        params = {"target": str(root), "ownership": self._ownership}
        request = Request(self._source.session, "unpack over", params, (reader,), own=(reader,))
        try:
            self._source.feed(layer, writer)
        except BaseException:
            request.join()
            raise
        request.result()


class CopiedWorkspace(Workspace):
    """A root of its own in a directory; changes are found by looking at all of it twice."""

    def __init__(
        self,
        copies: Copies,
        source: Source,
        root: Path,
        place: Path,
        layers: Sequence[Layer],
        ownership: dict[str, Any],
    ) -> None:
        super().__init__(source.session, (), place, ownership, source, source.written)
        self._copies = copies
        self._source = source
        self._layers = layers
        self._root = root
        self._before = f"{place}/before"
        self._is_recorded = self._is_kept = False
        self._gathered = 0

    @property
    def rootfs(self) -> DirectoryRoot:  # type: ignore[override]  # of another kind, as `run` knows
        return DirectoryRoot(str(self._root))

    def _adapted(self, spec: SandboxSpec) -> SandboxSpec:
        self._record()
        return replace(spec, mounts=tuple(map(self._without_layers, spec.mounts)))

    def _without_layers(self, mount: Mount) -> Mount:
        """Make a copy of what would be a mount of layers, for the step to have and to change."""
        if not isinstance(mount, LayersMount):
            return mount
        self._gathered += 1
        target = f"{self._place}/gathered{self._gathered}"
        params = {"lowers": list(mount.lowers), "path": mount.path, "target": target}
        self._session.request("gather", params)
        return BindMount(target, mount.target, readonly=False)

    def _shown_files(self, *, private: bool) -> tuple[FileMount, ...]:
        shown = super()._shown_files(private=private)
        if not (self._ownership["single"] and has_directory(str(self._root), APT_FOLDER)):
            return shown
        name = os.fsdecode(APT_FOLDER + b"/" + APT_NAME)
        source = self._place.parent / "skeleton-apt" / name
        return (*shown, FileMount(str(source), f"/{name}"))

    def keep(self, diff_id: Digest) -> None:
        self._is_kept = True
        self._copies.keep((*(layer.diff_id for layer in self._layers), diff_id), self._root)

    def close(self) -> None:
        super().close()
        if not self._is_kept:
            self._source.discard(self._root)

    def _record(self) -> None:
        """Have the state of the root on file before a command can change it."""
        if not self._is_recorded:
            owner = self._ownership["shift"]
            params = {"root": str(self._root), "file": self._before, "owner": owner}
            self._session.request("record", params)
            self._is_recorded = True

    @contextmanager
    def _asking(self) -> Iterator[tuple[str, dict[str, Any], Sequence[int]]]:
        self._record()
        with self._nameless() as found, self._nameless() as known:
            params = {"root": str(self._root), "file": self._before}
            result, _ = self._session.request("compare", params, (found.fileno(),))
            if result["touched"]:
                self._look_up(found, known)
            for file in (found, known):
                file.seek(0)
            yield "scanned", {"root": str(self._root)}, (found.fileno(), known.fileno())

    def _look_up(self, found: BinaryIO, known: BinaryIO) -> None:
        """Write what the layers have where the command touched something."""
        view = self._copies.view(self._layers)
        if view is None:
            return
        found.seek(0)
        with view:
            for change in read_changes(found):
                if change.kind == "touched" and (entry := view.lstat(change.path)) is not None:
                    known.write(encode_entry(entry))
        known.flush()

    def _open(self, path: str) -> Sequence[int]:
        self._record()
        return self._session.request("open in", {"root": str(self._root), "path": path})[1]
