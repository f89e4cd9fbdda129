"""Write a repository and its submodules, each from the mirror of its own.

Submodules are not left to git: every address among them is checked, every one gets the
credentials of its own server only, and no `.git` of theirs ever lies among the files.
"""

import os
from pathlib import Path
from typing import NamedTuple

from imgbuild import inroot
from imgbuild.build.gitcheckout import (
    Budget,
    Submodule,
    commit_time,
    empty,
    keep_repository,
    write_files,
)
from imgbuild.build.gitcommand import Git, GitFailedError
from imgbuild.build.gitconnection import Connection, Reach
from imgbuild.build.giterrors import explained_failure, is_damage
from imgbuild.build.gitmirror import Mirror, discard, opened
from imgbuild.build.gitrefs import Found, check_commit
from imgbuild.build.gitremote import Remote, relative_remote
from imgbuild.errors import ContextError
from imgbuild.store.failure import explained
from imgbuild.store.store import Store

_DEEPEST = 16  # submodules of submodules
_MOST_SUBMODULES = 1000  # in all


class Wish(NamedTuple):
    """What is wanted of a repository: a folder of it, a commit that begins so, its `.git`, submodules."""

    subdir: str = ""
    checksums: tuple[str, ...] = ()
    keep: bool = False
    submodules: bool = True


class _Written(NamedTuple):
    commit: str
    seconds: int
    submodules: list[Submodule]


class Trees:
    """Write what is reached from the repository `top`, all of it within one `budget`."""

    def __init__(self, git: Git, store: Store, reach: Reach, top: Remote, budget: Budget) -> None:
        self._git = git
        self._store = store
        self._reach = reach
        self._top = top
        self._budget = budget
        self._submodules = 0

    def write(
        self, connection: Connection, found: Found, folder: Path, wish: Wish, depth: int = 0
    ) -> tuple[str, int]:
        """Write files into the empty `folder`; return the commit and its time.

        Raises `ContextError` and `StoreError`.
        """
        written = self._write_one(connection, found, folder, wish)
        for submodule in written.submodules:
            if depth == _DEEPEST:
                raise ContextError(f"there are more than {_DEEPEST} submodules in each other")
            self._submodules += 1
            if self._submodules > _MOST_SUBMODULES:
                raise ContextError(f"there are more than {_MOST_SUBMODULES} submodules")
            self._write_submodule(connection.remote, submodule, folder, wish, depth + 1)
        return written.commit, written.seconds

    def _write_submodule(
        self, parent: Remote, submodule: Submodule, folder: Path, wish: Wish, depth: int
    ) -> None:
        path = submodule.path
        remote = relative_remote(parent, submodule.url)
        connection = Connection(self._git, remote, self._top, self._reach)
        inside = wish.subdir.removeprefix(f"{path}/") if wish.subdir.startswith(f"{path}/") else ""
        target = _made(folder, os.fsencode(path))
        self.write(connection, Found(submodule.commit), target, Wish(inside), depth)

    def _write_one(
        self, connection: Connection, found: Found, folder: Path, wish: Wish
    ) -> _Written:
        """Write the files of one repository; what is kept of it is fetched anew when it is damaged."""
        address = connection.remote.url
        algorithm = "sha256" if len(found.object) == 64 else "sha1"
        for last in (False, True):
            with opened(self._store, self._git, address, algorithm) as mirror:
                try:
                    return self._from_mirror(mirror, connection, found, folder, wish)
                except GitFailedError as failure:
                    if last or not is_damage(failure):
                        raise explained_failure(
                            failure, connection.remote, connection.private
                        ) from None
                    discard(self._store, mirror)
                    empty(folder)
        raise AssertionError("the last attempt returns or raises")

    def _from_mirror(
        self, mirror: Mirror, connection: Connection, found: Found, folder: Path, wish: Wish
    ) -> _Written:
        git, place = self._git, mirror.place
        commit = mirror.obtain(found, connection)
        check_commit(wish.checksums, found, commit)
        seconds = commit_time(git, place, commit)
        submodules = write_files(
            git, place, commit, folder, wish.subdir, self._budget, submodules=wish.submodules
        )
        if wish.keep:
            keep_repository(git, place, found, commit, connection.remote.url, folder)
        return _Written(commit, seconds, submodules)


def _made(folder: Path, path: bytes) -> Path:
    """Return the folder of a submodule, which no link leads to."""
    with explained("check out a repository"):
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(inroot.make_dirs(root, path, follow=False))
        finally:
            os.close(root)
    return folder / os.fsdecode(path)
