"""Write the files of a commit into a new folder, as git has them and as every machine gets them."""

import os
import posixpath
import shutil
import signal
import stat
from collections.abc import Iterator
from os import fsdecode, fsencode
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import quote

from imgbuild.build.gitcommand import Access, Git, GitFailedError, Place
from imgbuild.build.gitmirror import ref_of
from imgbuild.build.gitrefs import Found
from imgbuild.errors import ContextError
from imgbuild.options import ArchiveLimits
from imgbuild.store.failure import explained

_GITLINK = b"160000"
_FILES = (b"100644", b"100755")
_MODULES = b".gitmodules"
_DEEPEST = 250  # folders inside each other
_LATEST = 253402300799  # the end of the year 9999
_CHUNK = 1 << 16
_LISTED = 1 << 10  # bytes that a file takes in a list, its path included; most take far less
_MOST_LISTED = 1 << 33


class Submodule(NamedTuple):
    """A commit of another repository at `path`; `url` is as `.gitmodules` has it."""

    path: str
    commit: str
    url: str


class Budget:
    """How many files, of how many bytes together, a checkout may still have."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self._limits = limits
        self._entries = 0
        self._size = 0

    @property
    def listing(self) -> int:
        """How long a list of the files can get that are still allowed, in bytes."""
        return min(self._limits.entries, _MOST_LISTED // _LISTED) * _LISTED

    def take(self, size: int) -> None:
        """Take a file of `size` bytes, raise `ContextError` where that is too much."""
        self._entries += 1
        self._size += size
        if self._entries > self._limits.entries:
            raise _past(f"the repository has more than {self._limits.entries} files", "entries")
        if self._size > self._limits.size:
            raise _past(f"its files are larger than {self._limits.size} bytes", "size")


class _Entry(NamedTuple):
    mode: bytes
    name: str
    path: bytes


def write_files(
    git: Git,
    place: Place,
    commit: str,
    folder: Path,
    subdir: str,
    budget: Budget,
    *,
    submodules: bool,
) -> list[Submodule]:
    """Write the files of `commit` below `subdir` into `folder`; return the submodules among them.

    `place` is a mirror with an index of its own to use, `budget` what it may cost. Raises `GitFailedError`, and
    `ContextError` for what no image should get.
    """
    _check_size(git, place, commit, budget)
    there = place._replace(work_tree=folder)
    git.run("read-tree", commit, place=there)
    links, modules = _special(git, there)
    if subdir:
        with git.spool("ls-files", "-z", "--", subdir, place=there) as names:
            git.spool(
                "checkout-index", "-z", "--stdin", "--quiet", place=there, stdin=names
            ).close()
    else:
        git.run("checkout-index", "--all", "--quiet", place=there)
    wanted = [link for link in links if _related(fsdecode(link.path), subdir)]
    return _described(git, there, wanted, modules) if submodules and wanted else []


def clean_subdir(text: str) -> str:
    """Return a folder of a repository as git writes it; raise `ContextError` for one outside it."""
    parts = [part for part in text.split("/") if part not in {"", "."}]
    if ".." in parts or "\0" in text or ".git" in map(str.lower, parts):
        raise ContextError(
            f"the folder {text} is not inside the repository",
            hint="write it from the top, without ..",
        )
    return posixpath.join("", *parts)


def open_subdir(folder: Path, subdir: str, commit: str) -> Path:
    """Return the folder `subdir` of a checkout; links are not followed."""
    for part in filter(None, subdir.split("/")):
        folder = folder / part
        try:
            mode = folder.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            mode = 0
        if not stat.S_ISDIR(mode):
            why = "it is a link" if stat.S_ISLNK(mode) else "there is no such folder"
            raise ContextError(
                f"failed to open subdir {subdir}: {why} in commit {commit}",
                hint="name a folder of the repository, the one that links lead to",
            )
    return folder


def keep_repository(
    git: Git, place: Place, found: Found, commit: str, url: str, folder: Path
) -> None:
    """Make `folder`, which has the files of `commit`, a repository that has this commit alone.

    The same commit gives the same bytes, as long as git and its zlib are the same: objects are
    packed anew, and the index knows nothing of the files' inodes.
    """
    made = Place(folder / ".git", folder, held=place.held)
    algorithm = "sha256" if len(commit) == 64 else "sha1"
    name = found.name or "refs/imgbuild/commit"
    git.run("init", "--quiet", "--template=", f"--object-format={algorithm}", place=made)
    git.run(
        "fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--update-head-ok",
        "--", f"file://{quote(str(place.git_dir))}", f"{ref_of(found.object)}:{name}",
        place=made,
        access=Access("file"),
    )  # fmt: skip
    git.run("update-ref", "--no-deref", "HEAD", commit, place=made)
    if not found.name:
        git.run("update-ref", "-d", name, place=made)
    git.run("remote", "add", "origin", url, place=made)
    git.run("read-tree", commit, place=made)
    git.run("repack", "-adFnq", "--window=0", "--threads=1", place=made)


def commit_time(git: Git, place: Place, commit: str) -> int:
    """Return when a commit was made, in seconds since 1970."""
    told = git.run("log", "-1", "--no-show-signature", "--format=%ct", commit, place=place)
    return min(max(int(told.strip() or b"0"), 0), _LATEST)


def set_times(root: Path, seconds: int) -> None:
    """Give everything in a folder, and itself, one time."""
    with explained("check out a repository"):
        for parent, folders, files in os.walk(fsencode(root), topdown=False):
            for name in (*folders, *files):
                path = os.path.join(parent, name)
                os.utime(path, (seconds, seconds), follow_symlinks=False)
        os.utime(root, (seconds, seconds))


def remove_tree(folder: Path) -> None:
    """Remove a checkout."""
    empty(folder)
    with explained("remove a checkout"):
        folder.rmdir()


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    with explained("remove a checkout"), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def _check_size(git: Git, place: Place, commit: str, budget: Budget) -> None:
    """Raise `ContextError` for a commit that is past `budget`.

    A few small trees that hold each other many times can have more files than any disk or memory.
    """
    listed = place._replace(largest=budget.listing)
    try:
        listing = git.spool("ls-tree", "-r", "-l", "-z", commit, place=listed)
    except GitFailedError as failure:
        if failure.status != -signal.SIGXFSZ and "File too large" not in failure.said:
            raise
        raise _past("the repository has far too many files", "entries") from None
    with listing:
        for record in _records(listing):
            size = record.partition(b"\t")[0].rpartition(b" ")[2]
            budget.take(int(size) if size.isdigit() else 0)


def _past(what: str, limit: str) -> ContextError:
    return ContextError(
        f"{what}, which is the limit",
        hint=f"if it is meant well, raise --add-limit-{limit} (archive_limits.{limit})",
    )


def _special(git: Git, place: Place) -> tuple[list[_Entry], str]:
    """Return the gitlinks of an index, and the object of its `.gitmodules`."""
    links, modules = [], ""
    with git.spool("ls-files", "--stage", "-z", place=place) as listing:
        for entry in _entries(listing):
            if entry.path.count(b"/") > _DEEPEST:
                raise ContextError(f"the repository has more than {_DEEPEST} folders in each other")
            if entry.mode == _GITLINK:
                links.append(entry)
            elif entry.path == _MODULES and entry.mode in _FILES:
                modules = entry.name
    return links, modules


def _entries(listing: IO[bytes]) -> Iterator[_Entry]:
    for record in _records(listing):
        facts, _, path = record.partition(b"\t")
        mode, name, _stage = facts.split(b" ")
        yield _Entry(mode, name.decode(), path)


def _records(listing: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while chunk := listing.read(_CHUNK):
        *records, rest = (rest + chunk).split(b"\0")
        yield from records


def _related(path: str, subdir: str) -> bool:
    """Tell whether a submodule is inside the folder that is wanted, or has it inside."""
    return not subdir or f"{path}/".startswith(f"{subdir}/") or f"{subdir}/".startswith(f"{path}/")


def _described(git: Git, place: Place, links: list[_Entry], modules: str) -> list[Submodule]:
    named = _modules(git, place, modules) if modules else {}
    by_path = {fields["path"]: fields for fields in named.values() if "path" in fields}
    found = []
    for link in links:
        path = fsdecode(link.path)
        fields = by_path.get(path, {})
        if fields.get("update") == "none":
            continue
        if not fields.get("url"):
            raise ContextError(
                f"no url found for submodule path '{path}' in .gitmodules",
                hint="to leave submodules out, add ?submodules=false to the address",
            )
        found.append(Submodule(path, link.name, fields["url"]))
    return found


def _modules(git: Git, place: Place, modules: str) -> dict[str, dict[str, str]]:
    try:
        told = git.run(
            "config", "--no-includes", "--blob", modules, "-z", "--get-regexp",
            r"^submodule\..*\.(path|url|update)$",
            place=place,
        )  # fmt: skip
    except GitFailedError as failure:
        if failure.status == 1:  # nothing matches
            return {}
        raise ContextError("the repository has a .gitmodules that git cannot read") from None
    named: dict[str, dict[str, str]] = {}
    for record in filter(None, told.split(b"\0")):
        key, _, value = fsdecode(record).partition("\n")
        name, _, field = key.removeprefix("submodule.").rpartition(".")
        named.setdefault(name, {})[field] = value
    return named
