"""Unpacked layers and writable roots, as the caller sees them: the work is done by the worker.

Nothing is started, made or read before something has to be unpacked or run.
"""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from imgbuild.errors import ImgbuildError
from imgbuild.layer.stream import write_all
from imgbuild.oci.descriptor import Layer
from imgbuild.oci.digest import Digest
from imgbuild.sandbox.session import Session
from imgbuild.snapshot.copied import Copies, View
from imgbuild.snapshot.crew import Crew
from imgbuild.snapshot.remove import empty_directory
from imgbuild.snapshot.request import Request, receive, widen
from imgbuild.snapshot.trees import Trees
from imgbuild.snapshot.workspace import Workspace

WORKER = "imgbuild.snapshot.worker"  # what `start` has to launch

# Writes a tar to the function that it is given.
WriteTar = Callable[[Callable[[bytes], object]], object]

_CHUNK = 1 << 20
_BATCH = 8  # places made at once, so that most steps wait for none


class Roots:
    """The snapshots of one build.

    `trees` holds unpacked layers, in one folder for each id mapping. `open_layer` gives the
    uncompressed tar of a layer and raises at its end when it is not what it should be. `start`
    launches the session with `WORKER`, and is given the directory that steps will be in if there
    will be any; `scratch` makes that; `abandoned` names such directories of builds that are gone.
    `files` gives "hosts", "resolv.conf" and, for a network of the session's own, "resolv.private";
    what is left out is the image's. `view` shows layers by their indexes; without it, what a
    command touched counts as changed where roots are copies.
    """

    def __init__(
        self,
        trees: Path,
        scratch: Callable[[], Path],
        open_layer: Callable[[Layer], BinaryIO],
        start: Callable[[Path | None], Session],
        *,
        abandoned: Callable[[], Iterable[Path]] = tuple,
        files: Callable[[], Mapping[str, str]] = dict,
        view: View | None = None,
    ) -> None:
        self._place_of_trees = trees
        self._make_scratch = scratch
        self._open_layer = open_layer
        self._start = start
        self._abandoned = abandoned
        self.files = files
        self.written: Mapping[str, str] = {}
        self._view = view
        self._lock = threading.RLock()
        self._running: Session | None = None
        self._early: threading.Thread | None = None
        self._scratch: Path | None = None
        self._places: list[Path] = []
        self._made = 0
        self._grown: set[str] = set()
        self._background: list[Request] = []

    def unpack(self, layers: Sequence[Layer]) -> list[Path]:
        """Return the unpacked trees of layers, in their order (bottom first).

        Those that are not there are unpacked, some at a time. Raises `ImageError` for a layer
        that is malformed, and what `open_layer` raises; of several errors, the lowest layer's.
        """
        if not layers:
            return []
        distinct = list({layer.diff_id: layer for layer in layers}.values())
        todo = [n for n, layer in enumerate(distinct) if not self._trees.is_whole(layer.diff_id)]
        if todo:
            crew = Crew(len(distinct), todo, lambda n, ready: self._unpack(distinct, n, ready))
            crew.run()
        return [self._trees.path(layer.diff_id) for layer in layers]

    def stacked(self, layers: Sequence[Layer]) -> list[Path]:
        """Return the unpacked trees of layers as an overlay takes them: top first, each once."""
        # overlayfs refuses one directory twice; of equal layers the topmost decides.
        return list(dict.fromkeys(reversed(self.unpack(layers))))

    def workspace(self, layers: Sequence[Layer]) -> Workspace:
        """Return a root of these layers (bottom first) that a command can change."""
        if self.session.tier.root == "copy":
            return self._copies.workspace(layers)
        lowers, place = self.stacked(layers), self.take_place()
        return Workspace(self.session, lowers, place, self._ownership, self, self.written)

    def grow(self, name: str, write_tar: WriteTar) -> Path:
        """Return a tree for the steps of this build; `write_tar` fills it, once for each name."""
        path = self._top() / name
        if name not in self._grown:
            self.unpack_tar(path, write_tar)
            self._grown.add(name)
        return path

    def unpack_tar(self, target: Path, write_tar: WriteTar) -> None:
        """Unpack what `write_tar` writes, in place of what may be at `target`.

        Raises what it raises, and `ImageError` for what cannot be unpacked.
        """
        reader, writer = os.pipe()
        # There is nothing below to wait for, and nobody else knows the place.
        ready = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
        params = {"target": str(target), "ownership": self._ownership, "parents": []}
        fds = (reader, ready, ready)
        request = Request(self.session, "unpack", params, fds, own=(reader, ready))
        try:
            with open(writer, "wb", buffering=0) as out, suppress(BrokenPipeError):
                widen(writer)
                write_tar(lambda data: write_all(out, data))
        except BaseException:
            request.join()
            with suppress(ImgbuildError):
                self.session.request("remove", {"paths": [str(target)]})
            raise
        request.result()  # when the worker hung up, its reply says why

    def make_directory(self, path: Path, uid: int, gid: int, mode: int) -> None:
        """Make an empty directory with an owner of the container; raise `SandboxError`."""
        params = {"path": str(path), "uid": uid, "gid": gid, "mode": mode}
        self.session.request("directory", {**params, "ownership": self._ownership})

    def move(self, source: Path, target: Path) -> None:
        """Move a directory, over what may be at its target."""
        self.session.request("move", {"source": str(source), "target": str(target)})

    def pack(self, path: Path, write: Callable[[bytes], object]) -> None:
        """Give what a directory holds as a tar, with the container's ids; raise `ImageError`."""
        receive(self.session, "pack", {"path": str(path), "ownership": self._ownership}, write)

    def measure(self, paths: Sequence[Path]) -> list[int]:
        """Return how many bytes directories take on disk."""
        params = {"paths": [str(path) for path in paths]}
        sizes: list[int] = self.session.request("measure", params)[0]["sizes"]
        return sizes

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove trees."""
        self.session.request("remove", {"paths": [str(path) for path in paths]})

    @property
    def session(self) -> Session:
        """Return the session, started at first need."""
        with self._lock:
            if self._running is None:
                self._scratch = self._scratch or self._make_scratch()
                self._running = self._start(self._scratch)
                self._sweep(self._running)
            return self._running

    @cached_property
    def _ownership(self) -> dict[str, Any]:
        idmap = self.session.tier.idmap
        return {"shift": idmap.shift, "count": idmap.count, "single": idmap.kind == "single"}

    @cached_property
    def _copies(self) -> Copies:
        return Copies(self, self._ownership, self._view)

    @cached_property
    def _trees(self) -> Trees:
        return Trees(self._place_of_trees / self.session.tier.idmap.key)

    def start_early(self) -> None:
        """Start the session while the caller gets ready for what it will ask for.

        A failure comes again, and is told, when the session is needed.
        """
        if self._early is None:
            self._early = threading.Thread(target=self._start_quietly, daemon=True)
            self._early.start()

    def _start_quietly(self) -> None:
        with suppress(ImgbuildError):
            self.session  # noqa: B018  asking for it starts it

    def close(self) -> None:
        """Remove what the build's steps left and end the session."""
        if self._early is not None:
            self._early.join()
        with self._lock:
            session, self._running = self._running, None
        self._settle()
        try:
            if session is not None:
                self._clear(session)
        finally:
            if self._scratch is not None:  # what no session ever used, or only covered
                with suppress(OSError):
                    self._scratch.rmdir()

    def _clear(self, session: Session) -> None:
        try:
            # What is in memory goes with the session.
            if self._scratch is not None and session.tier.root != "memory":
                session.request("remove", {"paths": [str(self._scratch)]})
        finally:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except ImgbuildError:
            # What went wrong first is what the user has to hear.
            if kind is None:
                raise

    def remove_trees(self, *folders: Path) -> None:
        """Empty folders that may hold files of mapped ids."""
        for folder in folders:
            try:
                empty_directory(os.fsencode(folder))
            except FileNotFoundError:
                continue
            except PermissionError:
                session = self._session_to_remove()
                self._settle()
                session.request("empty", {"path": str(folder)})

    def _session_to_remove(self) -> Session:
        """Return a session that keeps nothing in the folders it empties."""
        with self._lock:
            if self._running is None:
                self._running = self._start(None)
            return self._running

    # --- what a workspace asks for ---

    def adopt(self, diff_id: Digest, upper: Path) -> None:
        """Make an upper directory the tree of a layer, unless there is one."""
        if self.session.tier.root != "overlay" or self._trees.is_whole(diff_id):
            return  # elsewhere it cannot be renamed to: who needs the tree unpacks it
        with self._trees.making(diff_id) as lock:
            if not self._trees.is_whole(diff_id):
                target = str(self._trees.new(diff_id))
                self.session.request("move", {"source": str(upper), "target": target})
                self._commit(diff_id, lock)

    def discard(self, place: Path) -> None:
        """Remove what a step left, while the build goes on."""
        self._later("remove", {"paths": [str(place)]})

    # --- the machinery ---

    def _unpack(self, layers: Sequence[Layer], number: int, ready: int) -> None:
        """Unpack one of `layers`; `ready` says when those below it are there."""
        diff_id = layers[number].diff_id
        with self._trees.making(diff_id) as lock:
            if self._trees.is_whole(diff_id):  # another build was faster
                return
            below = [self._trees.path(layer.diff_id) for layer in reversed(layers[:number])]
            params = {
                "target": str(self._trees.new(diff_id)),
                "ownership": self._ownership,
                "parents": [str(path) for path in below],
            }
            reader, writer = os.pipe()
            request = Request(self.session, "unpack", params, (reader, lock, ready), own=(reader,))
            try:
                self.feed(layers[number], writer)
            except BaseException:
                request.join()
                # While the lock is held: the next one to hold it starts in the same place.
                with suppress(ImgbuildError):
                    self.session.request("remove", {"paths": [params["target"]]})
                raise
            request.result()
            self._commit(diff_id, lock)

    def feed(self, layer: Layer, pipe: int) -> None:
        """Send a layer's tar; when the worker hangs up, its reply says why."""
        with open(pipe, "wb", buffering=0) as out, self._open_layer(layer) as stream:
            widen(pipe)
            while data := stream.read(_CHUNK):
                try:
                    write_all(out, data)
                except BrokenPipeError:
                    return

    def _commit(self, diff_id: Digest, lock: int) -> None:
        stale = self._trees.commit(diff_id, lock)
        if stale is not None:
            self._later("remove", {"paths": [str(stale)]})

    def _sweep(self, session: Session) -> None:
        """Remove what builds left that were killed."""
        if abandoned := [str(path) for path in self._abandoned() if not _is_removed(path)]:
            # At once: steps of this build may need what was lent to those.
            session.request("give back", {"paths": abandoned})
            self._later("remove", {"paths": abandoned})
        for path, lock in self._trees.leftovers():
            self._later("remove", {"paths": [str(path)]}, *lock)

    def take_place(self) -> Path:
        with self._lock:
            if not self._places:
                self._places = self._prepare()
            return self._places.pop()

    def _prepare(self) -> list[Path]:
        session = self.session
        shared = not self._made
        if shared:
            self.written = self.files()
        top = self._top()
        names = [str(number) for number in range(self._made, self._made + _BATCH)]
        self._made += _BATCH
        params = {
            "top": str(top),
            "places": names,
            "owner": self._ownership["shift"],
            "shared": shared,
            "files": dict(self.written),
            "single": self._ownership["single"],
        }
        session.request("prepare", params)
        return [top / name for name in reversed(names)]

    def _top(self) -> Path:
        with self._lock:
            self._scratch = self._scratch or self._make_scratch()
            return self._scratch

    def _settle(self) -> None:
        """Wait for what nobody waited for."""
        with self._lock:
            background = self._background.copy()
        for request in background:
            request.join()

    def _later(self, verb: str, params: dict[str, Any], *own: int) -> None:
        """Ask for something nobody waits for; what is left is removed by a later build."""
        request = Request(self.session, verb, params, own, own)
        with self._lock:
            self._background = [other for other in self._background if other.is_running]
            self._background.append(request)


def _is_removed(path: Path) -> bool:
    """Remove an empty directory, as is left where a session covered it."""
    try:
        path.rmdir()
    except OSError:
        return False
    return True
