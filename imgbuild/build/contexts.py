"""The build contexts of one build, wherever they are: opened when they are first asked for."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self, assert_never

from imgbuild.build.context import ContextTree, open_context
from imgbuild.build.definition import Definition, read_inside, read_local, read_stream
from imgbuild.build.ignorefile import ignored_patterns
from imgbuild.build.places import Place, main_place, tree_places
from imgbuild.build.remotes import Remotes, checked_out
from imgbuild.build.secrets import Secrets
from imgbuild.dockerfile.flags import TRUE
from imgbuild.errors import ContextError, UsageError
from imgbuild.layer.entry import Entry
from imgbuild.options import ArchiveLimits, BuildOptions
from imgbuild.plan.fetching import redacted
from imgbuild.plan.model import GitSource, RemoteSource, UrlSource
from imgbuild.snapshot.view import RootView
from imgbuild.store.store import Store

if TYPE_CHECKING:
    from imgbuild.build.fetch import FetchedFile, UrlFetcher, Web
    from imgbuild.build.git import GitFetcher

Tree = ContextTree | RootView

# What a file from a URL is called in the context that it is (BuildKit, dockerui).
_FILE = b"context"


class _Opened(NamedTuple):
    """A context that is no folder of the caller; `definition` is its Dockerfile, where it is that alone.

    `time` tells what SOURCE_DATE_EPOCH=context means, in seconds since 1970; it may have to read
    an archive. `name` is for errors.
    """

    tree: Tree
    time: Callable[[], int | None]
    name: str
    definition: Definition | None = None


class Contexts:
    """What `options` tell to build from; close it when the build is done.

    `scratch` is where temporary files may be made; `remotes` fetches, `secrets` are what
    the caller lent. Raises `UsageError` for a context that is not
    there, as far as that can be told without asking anybody.
    """

    def __init__(
        self, options: BuildOptions, scratch: Path, remotes: Remotes, secrets: Secrets | None = None
    ) -> None:
        self._scratch = scratch
        self._limits = options.archive_limits
        self.remotes = remotes
        self.secrets = secrets or Secrets()
        self._asked = options.dockerfile
        self._keeps_git_dir = options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "") in TRUE
        self._stream: BinaryIO | None = None
        self._main: Place | None = None
        if isinstance(options.context, str | os.PathLike):
            self._main = main_place(os.fspath(options.context))
        else:
            self._stream = options.context
        self._named = tree_places(options.build_contexts)
        self._opened: dict[str, _Opened] = {}
        self._definition: Definition | None = None
        self._stack = ExitStack()
        if self._stream is not None and self._stream is self._asked:
            raise UsageError(
                "invalid argument: can't use stdin for both build context and dockerfile",
                hint="name a Dockerfile inside the archive with -f PATH",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()
        self._opened.clear()

    def definition(self) -> Definition:
        """Return the Dockerfile; raise `ContextError`, and what fetching a context raises."""
        if self._definition is None:
            self._definition = self._read_definition()
        return self._definition

    def ignored(self) -> tuple[str, ...]:
        """Return the patterns of the main context's ignore file; only a folder has one that counts."""
        if isinstance(self._main, Path):
            return ignored_patterns(self._main, self.definition().place)
        return ()

    def open(self, name: str) -> Tree:
        """Open the main context (empty name) or a named one; the caller closes it."""
        place = self._place(name)
        if isinstance(place, Path):
            return open_context(place, None if name else self.definition().place)
        return self._remote_one(name, place).tree

    def context_time(self, name: str) -> int | None:
        """Return when the content of a context is from, in seconds since 1970; None for a folder."""
        place = self._place(name)
        return None if isinstance(place, Path) else self._remote_one(name, place).time()

    def source_time(self, source: RemoteSource) -> int | None:
        """Return when what ADD names is from, in seconds since 1970; raise what fetching raises."""
        match source:
            case GitSource():
                return self.remotes.checkout(source).commit_time
            case UrlSource():
                file, found = self._fetched(source)
                with file:
                    return _time_of(found, file, self._limits)
            case _:
                assert_never(source)

    # --- below here nothing is public

    def _read_definition(self) -> Definition:
        asked = self._asked
        if isinstance(asked, str):
            file, found = self._fetched(UrlSource(asked))
            with file:
                return read_stream(file, os.fsdecode(found.name), redacted(asked))
        if asked is not None and not isinstance(asked, Path):
            return read_stream(asked, "Dockerfile", "that was given as a file")
        if isinstance(self._main, Path):
            return read_local(self._main, asked)
        opened = self._remote_one("", self._main)
        return opened.definition or read_inside(opened.tree, asked, opened.name)

    def _place(self, name: str) -> Place | None:
        if not name:
            return self._main
        if name not in self._named:
            raise ContextError(f"no build context is called {name}")
        return self._named[name]

    def _remote_one(self, name: str, place: UrlSource | GitSource | None) -> _Opened:
        if name not in self._opened:
            opened = self._open(name, place)
            self._stack.callback(opened.tree.close)
            self._opened[name] = opened
        return self._opened[name]

    def _open(self, name: str, place: UrlSource | GitSource | None) -> _Opened:
        match place:
            case None:
                assert self._stream is not None  # noqa: S101  there is always a main context
                return self._from_stream(self._stream)
            case GitSource():
                return self._from_repository(name, place)
            case UrlSource():
                file, found = self._fetched(place)
                with ExitStack() as guard:
                    guard.callback(file.close)
                    make = self._as_file if name else self._from_url
                    opened = make(place, file, found)
                    guard.pop_all()  # by now the tree closes it, or it is closed
                    return opened
            case _:
                assert_never(place)

    def _from_stream(self, stream: BinaryIO) -> _Opened:
        from imgbuild.build.tarcontext import IndexedTree, Peeked, open_archive

        shown = "standard input" if _is_stdin(stream) else "the file that was given"
        peeked = Peeked(stream, shown)
        if peeked.is_archive:
            tree = open_archive(peeked, shown, self._scratch, self._limits)
            return _Opened(tree, lambda: tree.newest, shown)
        _check_text(peeked.head, shown)
        if self._asked is not None:
            raise UsageError(
                "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
                hint="leave -f out, or send a tar with the files of the context",
            )
        text = read_stream(peeked, "Dockerfile", f"from {shown}")
        nothing = open(os.devnull, "rb")  # noqa: SIM115 - the tree closes it
        empty = f"the build context, which is empty: {shown} is a Dockerfile"
        return _Opened(IndexedTree([], nothing, empty), lambda: None, shown, text)

    def _from_repository(self, name: str, source: GitSource) -> _Opened:
        if self._keeps_git_dir and not name:
            source = GitSource(source.repository, keep_git_dir=True)
        found = self.remotes.checkout(source)
        # As in BuildKit, ignore files are for folders of the caller.
        shown = redacted(source.repository.remote)
        tree = checked_out(source, found, f"the repository {shown}")
        return _Opened(tree, lambda: found.commit_time, shown)

    def _fetched(self, source: UrlSource) -> "tuple[BinaryIO, FetchedFile]":
        found = self.remotes.fetch(source)
        path = os.path.join(os.fsencode(found.folder), found.name)
        return open(path, "rb", buffering=0), found

    def _from_url(self, source: UrlSource, file: BinaryIO, found: "FetchedFile") -> _Opened:
        from imgbuild.build.tarcontext import Peeked, open_archive

        shown = redacted(source.url)
        peeked = Peeked(file, shown)
        if peeked.is_archive:
            with file:
                tree = open_archive(peeked, shown, self._scratch, self._limits)
            time = found.modified if found.modified is not None else tree.newest
            return _Opened(tree, lambda: time, shown)
        _check_text(peeked.head, shown)
        text = read_stream(peeked, os.fsdecode(found.name), shown)
        return self._as_file(source, file, found)._replace(definition=text)

    def _as_file(self, source: UrlSource, file: BinaryIO, found: "FetchedFile") -> _Opened:
        """Return a context that holds one file: what a named URL is in BuildKit, archives included."""
        from imgbuild.build.tarcontext import IndexedTree

        size = os.fstat(file.fileno()).st_size
        entry = Entry(_FILE, "file", 0o600, mtime=found.modified or 0, size=size)
        shown = redacted(source.url)
        where = f"{shown}, which is one file: {_FILE.decode()}"
        tree = IndexedTree([entry._replace(digest=found.digest)], file, where)

        def time() -> int | None:
            with tree.open(_FILE) as stream:
                return _time_of(found, stream, self._limits)

        return _Opened(tree, time, shown)


def _time_of(found: "FetchedFile", stream: BinaryIO, limits: ArchiveLimits) -> int | None:
    """Return when a fetched file is from: by its server, else the newest file of an archive."""
    if found.modified is not None:
        return found.modified
    from imgbuild.build.tarcontext import newest_inside

    return newest_inside(stream, limits)


def _is_stdin(stream: BinaryIO) -> bool:
    return getattr(stream, "name", None) in ("<stdin>", 0)


def _check_text(head: bytes, shown: str) -> None:
    """Raise `ContextError` for what is neither an archive nor text."""
    if not head:
        raise ContextError(f"{shown} is empty", hint="send a Dockerfile, or a tar that has one")
    if not head.strip(b"\0"):
        raise ContextError(
            f"{shown} holds nothing but zeros: an empty archive, or no archive",
            hint="send a Dockerfile, or a tar that has one",
        )
    if b"\0" in head:
        raise ContextError(
            f"{shown} is neither text nor a tar",
            hint="send a Dockerfile, or a tar that has one: plain, gzip, bzip2, xz or zstd",
        )


@contextmanager
def open_contexts(
    options: BuildOptions, store: Store, open_web: Callable[[], "Web"]
) -> Iterator[Contexts]:
    """Open what a build reads from and fetches with; raise what `Contexts` and `Secrets` raise."""
    with ExitStack() as stack:
        secrets = stack.enter_context(Secrets(options.secrets, options.ssh, options.search_path))

        def files() -> "UrlFetcher":
            from imgbuild.build.fetch import UrlFetcher

            return UrlFetcher(store, open_web, secrets, options.download_limit)

        def repositories() -> "GitFetcher":
            from imgbuild.build.git import GitFetcher

            return GitFetcher(
                store,
                secrets,
                registry=options.registry,
                search_path=options.search_path,
                limits=options.archive_limits,
                download_limit=options.download_limit,
            )

        remotes = stack.enter_context(Remotes(files, repositories))
        yield stack.enter_context(Contexts(options, store.paths.staging, remotes, secrets))
