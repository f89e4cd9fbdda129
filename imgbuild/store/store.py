"""The local store: one directory with images, layers and what builds remember.

Any number of processes can use it at once. kill -9 at any moment loses nothing that was committed
and leaves at most staged files, which the next opening removes.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from imgbuild.errors import NameNotFoundError, StoreError, UsageError
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.manifest import Manifest, parse_manifest
from imgbuild.oci.reference import is_digest, parse_reference
from imgbuild.store.blobs import BlobStore
from imgbuild.store.cache import StepCache
from imgbuild.store.downloads import Downloads
from imgbuild.store.failure import explained
from imgbuild.store.locks import Session, is_alive, locked, session_of
from imgbuild.store.names import LAYOUT_FILE, NameStore, empty_index
from imgbuild.store.paths import StorePaths
from imgbuild.store.staging import replace_file

VERSION = 1
_PATIENCE = 60.0


class Store:
    """An opened store; use it as a context manager, or call `close`."""

    def __init__(self, paths: StorePaths) -> None:
        self.paths = paths
        self.blobs = BlobStore(paths, self._stage)
        self.names = NameStore(paths, self._stage, self._complete)
        self.cache = StepCache(paths.cache)
        self.downloads = Downloads(paths, self._stage, self.cache)
        self._session: Session | None = None
        self._guard = threading.Lock()

    @classmethod
    def open(cls, root: Path, *, create: bool = True) -> Self:
        """Open the store at `root`, and make it where there is none.

        Raises `StoreError` for a place that cannot be written, holds something else, or has a
        format of another version; with `create` False also when there is no store.
        """
        paths = StorePaths(Path(os.path.abspath(root)))
        version = _read_version(paths)
        if version is None:
            if not create:
                raise StoreError(f"there is no store at {paths.root}")
            _make(paths)
        elif version != VERSION:
            raise _other_version(paths, version)
        _sweep(paths)
        return cls(paths)

    def close(self) -> None:
        """Wait until what was put is on disk, then let go of everything."""
        try:
            self.blobs.close()
        finally:
            self.cache.close()
            with self._guard:
                if self._session is not None:
                    self._session.close()
                    self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_details: object) -> None:
        try:
            self.close()
        except StoreError:
            # What went wrong first is what the user has to hear.
            if kind is None:
                raise

    # --- locks ---

    @contextmanager
    def build_lock(self) -> Iterator[None]:
        """Hold the store for building; any number of processes can."""
        session = self.session()
        with locked(
            self.paths.store_lock,
            shared=True,
            seconds=_PATIENCE,
            sessions=self.paths.sessions,
            own=session.name,
        ):
            session.describe("building")
            yield

    @contextmanager
    def exclusive_lock(self, seconds: float = 0.0) -> Iterator[None]:
        """Hold the store alone; raise `StoreLockedError` when it is still in use after `seconds`."""
        session = self.session()
        with locked(
            self.paths.store_lock,
            seconds=seconds,
            sessions=self.paths.sessions,
            own=session.name,
        ):
            session.describe("resetting")
            try:
                yield
            finally:
                session.describe("working")

    def session(self) -> Session:
        """Return this process's session: staged files and scratch trees carry its name."""
        with self._guard:
            if self._session is None:
                self._session = Session(self.paths.sessions)
            return self._session

    # --- trees of steps ---

    def scratch_dir(self) -> Path:
        """Make and return a new directory for the trees of one build."""
        path = self.paths.scratch / self.session().file_name()
        with explained("write to the store"):
            path.mkdir(0o700, parents=True)
        return path

    def abandoned_scratch(self) -> list[Path]:
        """Return scratch directories of processes that are gone, for a worker to remove."""
        with explained("read the store"):
            there = self.paths.scratch.is_dir()
            names = sorted(os.listdir(self.paths.scratch)) if there else []
        alive = {s: is_alive(self.paths.sessions, s) for s in {session_of(n) for n in names}}
        return [self.paths.scratch / name for name in names if not alive[session_of(name)]]

    # --- images as users name them ---

    def find(self, text: str) -> tuple[str, Descriptor]:
        """Return an image's full name ("" for none) and descriptor.

        `text` is a name, or the beginning of a digest (`sha256:0123`) of its manifest, else of
        its config, which docker calls the image ID. Raises `NameNotFoundError` and `UsageError`.
        """
        if not is_digest(text):
            name = str(parse_reference(text))
            return name, self.names.resolve(name)
        known = [*self.names.list().items(), *(("", item) for item in self.names.unnamed())]
        found = [item for item in known if item[1].digest.startswith(text)]
        found = found or [item for item in known if self._config(item[1]).startswith(text)]
        if not found:
            raise NameNotFoundError(
                f"no such image: {text}", hint="see `imgbuild images` for what is there"
            )
        if len({descriptor.digest for _, descriptor in found}) > 1:
            raise NameNotFoundError(
                f"several images begin with {text}", hint="give more digits of the digest"
            )
        return found[0]

    def remove(self, text: str) -> None:
        """Remove a name, or what `text` is the digest of; its content stays.

        Raises `NameNotFoundError`, and `UsageError` for a digest of an image with several names.
        """
        name, descriptor = self.find(text)
        if not name:
            self.names.forget(descriptor.digest)
            return
        listed = self.names.list().items()
        others = [key for key, item in listed if item.digest == descriptor.digest]
        if is_digest(text) and len(others) > 1:
            raise UsageError(
                f"{text} has {len(others)} names", hint=f"remove them by name: {', '.join(others)}"
            )
        self.names.untag(name)

    def _config(self, descriptor: Descriptor) -> str:
        document = parse_manifest(self.blobs.read(descriptor.digest), descriptor.media_type)
        return document.config.digest if isinstance(document, Manifest) else ""

    # --- where else content is ---

    def note_origin(self, root: Descriptor, repository: str) -> None:
        """Record that what the image `root` is made of is in `repository` (`docker.io/library/debian`)."""
        from imgbuild.oci.graph import walk

        found = [item.digest for item, document in walk(self.blobs, root) if document is None]
        self.cache.add_origin(found, repository)

    # --- emptying ---

    def reset(self, remove_trees: Callable[[], None]) -> None:
        """Empty the store.

        `remove_trees` empties `paths.trees`, which may hold files of mapped ids that only a
        worker can remove. Raises `StoreLockedError` while anyone builds.
        """
        with self.exclusive_lock():
            self.blobs.flush()
            # Names go first: at any moment the images that are listed are complete.
            self.names.clear()
            self.cache.clear()
            _empty_of_files(self.paths.blobs)
            _empty_of_files(self.paths.indexes)
            with explained("remove what was fetched"):
                _remove(self.paths.downloads)
                _remove(self.paths.mirrors)
            remove_trees()
            if left := os.listdir(self.paths.trees):
                raise StoreError(f"cannot remove {self.paths.trees / left[0]}")
            self.paths.scratch.mkdir(0o700)

    # --- the machinery ---

    def _stage(self) -> Path:
        return self.paths.staging / self.session().file_name()

    def _complete(self, descriptor: Descriptor) -> None:
        self.blobs.flush()
        if not self.blobs.exists(descriptor):
            raise StoreError(f"cannot name {descriptor.digest}: it is not in the store")


def _read_version(paths: StorePaths) -> int | None:
    with explained(f"open the store {paths.root}"):
        try:
            text = paths.version.read_text()
        except FileNotFoundError:
            return None
    try:
        return int(text)
    except ValueError:
        raise StoreError(f"{paths.version} holds no version number") from None


def _other_version(paths: StorePaths, version: int) -> StoreError:
    if version > VERSION:
        return StoreError(
            f"the store {paths.root} has format {version}, this imgbuild knows {VERSION}",
            hint="update imgbuild, or choose another store with --store",
        )
    return StoreError(
        f"the store {paths.root} has the old format {version}",
        hint="choose another store with --store, or remove the old one",
    )


def _make(paths: StorePaths) -> None:
    with explained(f"make the store {paths.root}"):
        # For its owner alone: images can hold secrets, and trees of real root hold set-uid programs.
        paths.root.mkdir(0o700, parents=True, exist_ok=True)
        if strangers := set(os.listdir(paths.root)) - paths.top_level():
            raise StoreError(
                f"{paths.root} is no store and is not empty: it has {min(strangers)}",
                hint="choose an empty or new directory with --store",
            )
        _close_to_others(paths.root)
        for directory in paths.directories():
            directory.mkdir(0o700, parents=True, exist_ok=True)
    # Processes may get here at the same time; the version comes last and says that all is there.
    with locked(paths.names_lock, seconds=_PATIENCE, sessions=paths.sessions):
        if paths.version.exists():
            return
        session = Session(paths.sessions)
        try:
            for path, data in (
                (paths.layout, LAYOUT_FILE),
                (paths.names, empty_index()),
                (paths.version, b"%d\n" % VERSION),
            ):
                replace_file(paths.staging / session.file_name(), path, data)
        finally:
            session.close()


def _close_to_others(root: Path) -> None:
    """Do for a directory that was there what is done for a new one, when it is this user's own.

    Others could put directories of theirs in place of ours. In a sticky one they cannot.
    """
    found = root.stat()
    if found.st_uid == os.geteuid() and found.st_mode & 0o077 and not found.st_mode & stat.S_ISVTX:
        root.chmod(0o700)


def _sweep(paths: StorePaths) -> None:
    """Remove staged files and folders, and sessions, of processes that are gone."""
    try:
        files = os.listdir(paths.staging)
        sessions = {session_of(name) for name in files}
        sessions.update(os.listdir(paths.sessions))
    except OSError:
        # Reading a store of another user is possible without being allowed to clean it.
        return
    dead = {session for session in sessions if not is_alive(paths.sessions, session)}
    for name in files:
        if session_of(name) in dead:
            try:
                _remove(paths.staging / name)
            except OSError:
                continue


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        import shutil

        shutil.rmtree(path)


def _empty_of_files(directory: Path) -> None:
    with explained(f"empty {directory}"):
        for parent, _, files in os.walk(directory):
            for name in files:
                os.unlink(os.path.join(parent, name))
