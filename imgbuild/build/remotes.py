"""What ADD fetches, as trees that can be copied from."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, assert_never

from imgbuild.build.context import ContextTree
from imgbuild.plan.model import GitSource, RemoteSource, UrlSource

if TYPE_CHECKING:
    from imgbuild.build.fetch import FetchedFile

# The folder of a fetched file has no other, whatever it is called.
_ONLY_FILE = "*"
_EVERYTHING = ""


class Opened(NamedTuple):
    """A tree, and the pattern that selects in it what was fetched."""

    tree: ContextTree
    pattern: str


class Checkout(Protocol):
    """A repository that was checked out: `commit` is its full name, `commit_time` in seconds since 1970."""

    @property
    def folder(self) -> Path: ...
    @property
    def commit(self) -> str: ...
    @property
    def commit_time(self) -> int: ...


class Files(Protocol):
    """Fetches files; `fetch.UrlFetcher` does."""

    def fetch(self, source: UrlSource) -> "FetchedFile": ...
    def close(self) -> None: ...


class Repositories(Protocol):
    """Checks repositories out."""

    def checkout(self, source: GitSource) -> Checkout: ...
    def close(self) -> None: ...


def checked_out(source: GitSource, found: Checkout, where: str = "") -> ContextTree:
    """Return the files of a repository as a tree; `where` is what errors call it."""
    tree = ContextTree(found.folder, where=where)
    tree.identity = repr((source, found.commit))
    return tree


class Remotes:
    """Fetches for one build what ADD names; each port is opened when it is needed. Close it at the end."""

    def __init__(
        self, open_files: Callable[[], Files], open_repositories: Callable[[], Repositories]
    ) -> None:
        self._open_files = open_files
        self._open_repositories = open_repositories
        self._files: Files | None = None
        self._repositories: Repositories | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    def close(self) -> None:
        for port in (self._files, self._repositories):
            if port is not None:
                port.close()
        self._files = self._repositories = None

    def fetch(self, source: UrlSource) -> "FetchedFile":
        """Return the file that a URL names; raise what fetching raises."""
        self._files = self._files or self._open_files()
        return self._files.fetch(source)

    def checkout(self, source: GitSource) -> Checkout:
        """Return the files of a repository; raise what fetching raises."""
        self._repositories = self._repositories or self._open_repositories()
        return self._repositories.checkout(source)

    def open(self, source: RemoteSource) -> Opened:
        """Return what `source` names as a tree, which is to be closed; raise what fetching raises."""
        match source:
            case UrlSource():
                return Opened(ContextTree(self.fetch(source).folder), _ONLY_FILE)
            case GitSource():
                return Opened(checked_out(source, self.checkout(source)), _EVERYTHING)
            case _:
                assert_never(source)
