"""Collect programs of this machine with all they load, for `host://` images.

Every path keeps its place; symlinks stay symlinks. What programs load is read from them (`elf`).
"""

import os
import re
import stat
import sys
from collections.abc import Iterator

from imgbuild.build.elf import Elf, Loader, own_rpath, read_elf
from imgbuild.errors import UsageError
from imgbuild.options import STANDARD_PATH

_PYTHON = re.compile(r"python[0-9.]*[a-z]*")
_VERSION = re.compile(r"python(\d+\.\d+)")
# Loaded by glibc at run time, so that no file names them as needed: host names, thread ends.
_DLOPENED = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1")
_LEFT_OUT = frozenset(
    [
        "__pycache__",
        "test",
        "tests",
        "site-packages",
        "dist-packages",
        "idlelib",
        "turtledemo",
        "tkinter",
        "ensurepip",
        "lib2to3",
    ]
)
_LEFT_OUT_PREFIXES = ("config-", "_test", "_tkinter", "xxlimited", "_xxtest", "_ctypes_test")
_MOST_LINKS = 40


class HostTree:
    """What goes into the image: paths (absolute, as on this machine) and links made for it.

    `library_path` lists the directories that the loader would not search by itself.
    """

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.links: dict[str, str] = {}
        self.library_path: dict[str, None] = {}
        self.has_python = False
        self._loaders: dict[str, Loader] = {}
        self._loaded: set[str] = set()

    def add_program(self, name: str, search_path: str) -> None:
        """Add a program by name or absolute path; raise `UsageError` when there is none."""
        path = find_program(name, search_path)
        real = os.path.realpath(path)
        if os.path.dirname(path) in STANDARD_PATH.split(":"):
            self.add_path(path)
        else:
            # Found in some other folder, such as a virtual environment's: only its real file is
            # wanted, under a name that the image's PATH leads to.
            self.add_path(real)
            self.links[f"/usr/local/bin/{os.path.basename(path)}"] = real
        if script := _interpreter_of_script(real):
            for word in script:
                self.add_program(word, search_path)
            return
        self._add_loaded(real, name)
        if _PYTHON.fullmatch(os.path.basename(real)):
            self._add_python(real)

    def add_path(self, path: str) -> None:
        """Add a file, and the directories and symlinks that lead to it, symlinks followed."""
        at, todo, links = "/", _elements(path), 0
        while todo:
            name = todo.pop()
            if name == "..":
                at = os.path.dirname(at)
                continue
            here = os.path.join(at, name)
            self.paths.add(here)
            if os.path.islink(here):
                links += 1
                if links > _MOST_LINKS:
                    raise UsageError(f"too many levels of symbolic links: {path}")
                target = os.readlink(here)
                at = "/" if target.startswith("/") else at
                todo.extend(_elements(target))
            else:
                at = here

    def _add_loaded(self, path: str, name: str) -> None:
        """Add the loader and the libraries of a program; a static one has none."""
        elf = read_elf(path)
        if elf is None:
            raise UsageError(f"host://: {path} is neither an ELF program nor a script")
        if elf.interpreter is None:
            return
        loader = self._loader(elf.interpreter)
        self.add_path(elf.interpreter)
        if missing := self._add_needed(loader, path, elf, ()):
            raise UsageError(
                f"host://: {name} needs {missing}, which is not on this machine",
                hint="the program cannot run here either",
            )
        if not loader.is_musl:
            for library in _DLOPENED:
                if found := loader.find(library, path, elf, ()):
                    self._add_library(loader, found, ())

    def _loader(self, interpreter: str) -> Loader:
        if interpreter not in self._loaders:
            self._loaders[interpreter] = Loader(interpreter)
        return self._loaders[interpreter]

    def _add_needed(
        self, loader: Loader, path: str, elf: Elf, outer: tuple[str, ...]
    ) -> str | None:
        """Add what a file needs, with all that needs in turn; return the name of what is missing."""
        inherited = (*own_rpath(path, elf), *outer)
        found = [(name, loader.find(name, path, elf, outer)) for name in elf.needed]
        if missing := next((name for name, library in found if library is None), None):
            return missing
        for _, library in found:
            if library and (missing := self._add_library(loader, library, inherited)):
                return missing
            by_itself = {*own_rpath(path, elf), *elf.runpath}
            if library and not by_itself and not loader.is_found_without_cache(library):
                self.library_path[os.path.dirname(library)] = None
        return None

    def _add_library(self, loader: Loader, library: str, outer: tuple[str, ...]) -> str | None:
        if library in self._loaded:
            return None
        self._loaded.add(library)
        elf = loader.elf(library)
        if elf is None:
            return None
        self.add_path(library)
        return self._add_needed(loader, library, elf, outer)

    # --- Python

    def _add_python(self, program: str) -> None:
        """Add the standard library that belongs to an interpreter, found as it finds it itself."""
        self.has_python = True
        elf = read_elf(program)
        library = _standard_library(program, elf)
        if library is None:
            raise UsageError(
                f"host://: no standard library belongs to {program}",
                hint="give the path of a complete Python installation",
            )
        loader = self._loader(elf.interpreter) if elf and elf.interpreter else None
        self.add_path(library)
        for path in _library_files(library):
            usable = not path.endswith(".so") or (
                loader is not None and self._add_extension(loader, path, program, elf)
            )
            if usable:
                self.add_path(path)

    def _add_extension(self, loader: Loader, path: str, program: str, main: Elf | None) -> bool:
        """Add what an extension module loads; False when it could not be imported here either."""
        elf = read_elf(path)
        if elf is None:
            return False
        outer = own_rpath(program, main) if main else ()
        return self._add_needed(loader, path, elf, outer) is None


def find_program(name: str, search_path: str) -> str:
    """Return where `name` is in `search_path`; raise `UsageError` when it is not."""
    if name.startswith("/"):
        candidates = [name]
    elif "/" in name:
        raise UsageError(f"host://: {name} is neither a name nor an absolute path")
    else:
        candidates = [os.path.join(d, name) for d in search_path.split(":") if d.startswith("/")]
    python = _PYTHON.fullmatch(name)
    for path in candidates:
        # A version manager's shim is a script that finds the interpreter by its own files.
        if _is_program(path) and not (python and _interpreter_of_script(path)):
            return path
    if python and name in ("python", "python3") and sys.executable:
        return sys.executable
    raise UsageError(
        f"host://: there is no program {name} on this machine",
        hint=f"looked in {search_path}" if not name.startswith("/") else None,
    )


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _elements(path: str) -> list[str]:
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _interpreter_of_script(path: str) -> list[str] | None:
    """Return the programs that a script's first line names; None for what is no script."""
    try:
        with open(path, "rb") as stream:
            line = stream.readline(512)
    except OSError as problem:
        raise UsageError(f"host://: cannot read {path}: {problem.strerror}") from None
    if not line.startswith(b"#!"):
        return None
    words = os.fsdecode(line[2:]).split()
    if not words:
        raise UsageError(f"host://: {path} names no interpreter")
    if os.path.basename(words[0]) == "env":
        rest = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        return [words[0], *rest[:1]]
    return words[:1]


def _standard_library(program: str, elf: Elf | None) -> str | None:
    """Return the directory with os.py, by the landmarks that Python itself uses (getpath.py)."""
    names = [os.path.basename(program), *(elf.needed if elf else ())]
    versions = [found[1] for name in names if (found := _VERSION.search(name))]
    prefix = os.path.dirname(os.path.dirname(program))
    for lib in ("lib", "lib64"):
        folder = os.path.join(prefix, lib)
        try:
            present = sorted(n for n in os.listdir(folder) if _VERSION.fullmatch(n))
        except OSError:
            continue
        for name in present:
            wanted = not versions or name.removeprefix("python") in versions
            if wanted and os.path.isfile(os.path.join(folder, name, "os.py")):
                return os.path.join(folder, name)
    return None


def _library_files(folder: str) -> Iterator[str]:
    """Give the files of a standard library, without tests, caches and what others installed."""
    with os.scandir(folder) as listing:
        children = sorted(listing, key=lambda child: child.name)
    for child in children:
        if child.name in _LEFT_OUT or child.name.startswith(_LEFT_OUT_PREFIXES):
            continue
        if child.is_dir(follow_symlinks=False):
            yield from _library_files(child.path)
        elif child.is_file() and not child.name.endswith((".pyc", ".a", ".exe")):
            yield child.path


def status(path: str) -> os.stat_result:
    """Return the status of what is at `path` itself; raise `UsageError` when it cannot be had."""
    try:
        found = os.lstat(path)
    except OSError as problem:
        raise UsageError(f"host://: cannot read {path}: {problem.strerror}") from None
    if not (
        stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode)
    ):
        raise UsageError(f"host://: {path} is no file, directory or symbolic link")
    return found
