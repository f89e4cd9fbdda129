"""What was fetched of a repository, kept in the store so that the next build fetches little or nothing.

A mirror is a bare repository. `refs/imgbuild/OBJECT` says that an object is there with all that a
checkout of it needs: git writes it last, so a process that is killed leaves either that or
something that is fetched again. `refs/all/` is there where a server gave out whole branches only.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from imgbuild.build.gitcommand import Git, GitFailedError, Place
from imgbuild.build.gitconnection import Connection
from imgbuild.build.gitrefs import Found
from imgbuild.errors import ContextError
from imgbuild.store.failure import explained
from imgbuild.store.locks import locked
from imgbuild.store.store import Store

_PATIENCE = 1800.0  # seconds; another build may be fetching a large repository
_FETCH = [
    "fetch",
    "--quiet",
    "--force",
    "--no-tags",
    "--no-write-fetch-head",
    "--no-recurse-submodules",
    "--no-auto-gc",
]
_NOT_GIVEN = re.compile(
    r"not our ref|unadvertised object|not advertised|no such remote ref|couldn't find remote ref"
)
INDEX = "checkout.index"
# Whose credentials the server took, one hash a line.
_ADMITTED = "imgbuild-admitted"
_NOBODY = "nobody"
_MOST_KNOWN = 100
_ALL = ("+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*")


class Mirror:
    """A mirror that this process alone uses at the moment."""

    def __init__(self, git: Git, git_dir: Path, lock: int) -> None:
        self._git = git
        self.place = Place(git_dir, index_file=git_dir / INDEX, held=lock)
        self.git_dir = git_dir

    def commit_of(self, name: str) -> str:
        """Return the commit that the object `name` is or is a tag of; empty when it is not there."""
        try:
            told = self._git.run(
                "rev-parse", "--verify", "--quiet", f"{ref_of(name)}^{{commit}}", place=self.place
            )
        except GitFailedError:
            return ""
        return told.decode().strip()

    def obtain(self, found: Found, connection: Connection) -> str:
        """Fetch an object where it is missing and return its commit.

        Raises `GitFailedError`, and `ContextError` when the server does not have it.
        """
        if commit := self.commit_of(found.object):
            self._admit(connection)
            return commit
        self._fetch(found, connection)
        self._admit(connection)
        commit = self.commit_of(found.object)
        if not commit:
            raise ContextError(
                f"repository does not contain commit {found.object}",
                hint=f"see that it was pushed to {connection.remote.url}",
            )
        # Asked for by its own name, the commit of a tag is there as well.
        self._git.run("update-ref", ref_of(commit), commit, place=self.place)
        return commit

    def _admit(self, connection: Connection) -> None:
        """See that the server lets these credentials, or nobody's, at what is kept here.

        What somebody fetched with a secret is not for others who know the commit. Raises
        `GitFailedError`.
        """
        path = self.git_dir / _ADMITTED
        with explained("read a git mirror"):
            known = path.read_text().splitlines() if path.exists() else []
        ours = connection.credentials() or _NOBODY
        if ours in known or _NOBODY in known:
            return
        if not connection.is_admitted:
            connection.run(["ls-remote", "--quiet"], "HEAD")
        with explained("write to the store"):
            path.write_text("".join(f"{one}\n" for one in [*known[-_MOST_KNOWN:], ours]))

    def _fetch(self, found: Found, connection: Connection) -> None:
        try:
            self._fetch_shallow(f"{found.object}:{ref_of(found.object)}", connection)
        except GitFailedError as failure:
            if not _NOT_GIVEN.search(failure.said):
                raise
            self._fetch_all(found.object, connection)

    def _fetch_shallow(self, spec: str, connection: Connection) -> None:
        try:
            connection.run([*_FETCH, "--depth=1"], spec, place=self.place)
        except GitFailedError as failure:
            if "shallow" not in failure.said and "depth" not in failure.said:
                raise
            connection.run(_FETCH, spec, place=self.place)

    def _fetch_all(self, name: str, connection: Connection) -> None:
        """Fetch all branches and tags: the only way to some commits on some servers."""
        deepen = ["--unshallow"] if (self.git_dir / "shallow").exists() else []
        connection.run([*_FETCH, "--prune", *deepen], *_ALL, place=self.place)
        try:
            self._git.run("cat-file", "-e", f"{name}^{{commit}}", place=self.place)
        except GitFailedError:
            return
        self._git.run("update-ref", ref_of(name), name, place=self.place)


@contextmanager
def opened(store: Store, git: Git, url: str, algorithm: str) -> Iterator[Mirror]:
    """Give the mirror of the repository at `url`, made where it is missing; others wait.

    `algorithm` is that of object names, `sha1` or `sha256`. Raises `StoreLockedError` when
    another process uses it for half an hour.
    """
    git_dir = store.paths.mirrors / sha256(f"{algorithm} {url}".encode()).hexdigest()
    lock = git_dir.with_suffix(".lock")
    session = store.session()
    with locked(lock, seconds=_PATIENCE, sessions=store.paths.sessions, own=session.name) as handle:
        if not git_dir.exists():
            staged = store.paths.staging / session.file_name()
            _init(git, staged, algorithm)
            with explained("write to the store"):
                os.rename(staged, git_dir)
        _remove_leftovers(git_dir)
        yield Mirror(git, git_dir, handle)
        with explained("clear a git mirror"):
            (git_dir / INDEX).unlink(missing_ok=True)


def discard(store: Store, mirror: Mirror) -> None:
    """Remove a mirror that is of no use; the next opening makes a new one."""
    staged = store.paths.staging / store.session().file_name()
    with explained("remove a git mirror"):
        os.rename(mirror.git_dir, staged)
        shutil.rmtree(staged)


def _init(git: Git, git_dir: Path, algorithm: str) -> None:
    git.run(
        "init", "--quiet", "--bare", "--template=", f"--object-format={algorithm}", str(git_dir)
    )


def _remove_leftovers(git_dir: Path) -> None:
    """Remove what git left when it was killed; nobody works here while we have the lock."""
    with explained("clear a git mirror"):
        for pattern in (INDEX, "*.lock", "refs/**/*.lock", "objects/**/tmp_*"):
            for path in git_dir.glob(pattern):
                path.unlink(missing_ok=True)


def ref_of(name: str) -> str:
    """Return the reference that says that an object is there."""
    return f"refs/imgbuild/{name}"
