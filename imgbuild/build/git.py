"""Check out git repositories for ADD and for build contexts, with the host's git.

What is fetched is kept in the store, one mirror a repository; a commit that is there already and
is named in full needs no network. See docs/sources-git.md for what is promised.
"""

import threading
from pathlib import Path
from typing import NamedTuple, Self

from imgbuild.build.gitauth import GitSecrets
from imgbuild.build.gitcheckout import Budget, clean_subdir, open_subdir, remove_tree, set_times
from imgbuild.build.gitcommand import Git, GitFailedError
from imgbuild.build.gitconnection import Connection, Reach
from imgbuild.build.giterrors import explained_failure
from imgbuild.build.gitrefs import Found, check_commit, checksums, resolve
from imgbuild.build.gitremote import parse_remote
from imgbuild.build.gittrees import Trees, Wish
from imgbuild.errors import StoreError
from imgbuild.options import STANDARD_PATH, ArchiveLimits, RegistryOptions
from imgbuild.plan.model import GitSource
from imgbuild.store.failure import explained
from imgbuild.store.store import Store

_LIMITS = ArchiveLimits()


class Checkout(NamedTuple):
    """The files of a commit, in a folder that lasts as long as the fetcher.

    `commit_time` is in seconds since 1970; so are the times of the files, unless the address
    says `mtime=checkout`.
    """

    folder: Path
    commit: str
    commit_time: int


class GitFetcher:
    """Fetch and check out; use it as a context manager, or call `close`.

    `known_hosts` is a file with keys of SSH servers; without it the first key that a server
    shows is trusted and kept. `search_path` is where git and ssh are looked for. `limits` are for
    the files of a checkout, `download_limit` is for what is fetched at one go, in bytes.
    """

    def __init__(
        self,
        store: Store,
        secrets: GitSecrets,
        *,
        registry: RegistryOptions | None = None,
        search_path: str = STANDARD_PATH,
        known_hosts: Path | None = None,
        limits: ArchiveLimits = _LIMITS,
        download_limit: int | None = None,
    ) -> None:
        self._store = store
        self._limits = limits
        self._search_path = search_path
        self._reach = Reach(
            secrets,
            registry or RegistryOptions(),
            store.paths.learned_hosts,
            known_hosts,
            download_limit,
        )
        self._lock = threading.Lock()
        self._done: dict[GitSource, Checkout] = {}
        self._resolved: dict[tuple[str, str, tuple[str, ...]], Found] = {}
        self._folders: list[Path] = []
        self._git: Git | None = None

    def checkout(self, source: GitSource) -> Checkout:
        """Return the files that `source` names, fetched where that is needed.

        Raises `ContextError` for what cannot be fetched or is not as it has to be, `StoreError`.
        """
        with self._lock:
            if source not in self._done:
                self._done[source] = self._checkout(source)
            return self._done[source]

    def close(self) -> None:
        """Remove all checkouts."""
        with self._lock:
            self._done.clear()
            while self._folders:
                remove_tree(self._folders.pop())
            self._git = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_details: object) -> None:
        try:
            self.close()
        except StoreError:
            # What went wrong first is what the user has to hear.
            if kind is None:
                raise

    def _checkout(self, source: GitSource) -> Checkout:
        repository = source.repository
        wanted = checksums(source)
        subdir = clean_subdir(repository.subdir)
        top = parse_remote(
            f"https://{repository.remote}" if repository.like_local else repository.remote
        )
        connection = Connection(self._program(), top, top, self._reach)
        found = self._resolve(source, connection, wanted)
        # Told before anything is fetched; what the server says of a tag is looked at again.
        check_commit(wanted, found, found.peeled)
        keep = source.keep_git_dir or repository.keep_git_dir is True
        wish = Wish(subdir, wanted, keep and not subdir, repository.submodules is not False)
        folder = self._new_folder(0o755)
        trees = Trees(self._program(), self._store, self._reach, top, Budget(self._limits))
        commit, seconds = trees.write(connection, found, folder, wish)
        place = open_subdir(folder, subdir, commit)
        if repository.mtime != "checkout":
            set_times(folder, seconds)
        return Checkout(place, commit, seconds)

    def _resolve(self, source: GitSource, connection: Connection, wanted: tuple[str, ...]) -> Found:
        """Ask for a reference once: within a build it does not move."""
        repository = source.repository
        key = repository.remote, repository.ref, wanted if repository.fetch_by_commit else ()
        if key not in self._resolved:
            try:
                self._resolved[key] = resolve(connection, source, wanted)
            except GitFailedError as failure:
                raise explained_failure(failure, connection.remote, connection.private) from None
        return self._resolved[key]

    def _program(self) -> Git:
        if self._git is None:
            with explained("write to the store"):
                self._store.paths.mirrors.mkdir(0o700, exist_ok=True)
            self._git = Git(self._search_path, self._new_folder(0o700))
        return self._git

    def _new_folder(self, mode: int) -> Path:
        path = self._store.paths.staging / self._store.session().file_name()
        with explained("write to the store"):
            path.mkdir()
            self._folders.append(path)
            path.chmod(mode)
        return path
