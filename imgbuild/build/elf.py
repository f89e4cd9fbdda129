"""What an ELF file loads: its interpreter and its libraries, read from the file itself.

Never by ldd, which runs the program. Search order: ld.so(8); for musl, ldso/dynlink.c.
"""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MAGIC = b"\x7fELF"
_DEFAULT = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")
_MUSL_DEFAULT = ("/lib", "/usr/local/lib", "/usr/lib")
# ld.so.conf files may include each other.
_MOST_INCLUDES = 8


class Elf(NamedTuple):
    """The dynamic part of an ELF file; `machine` tells architectures and word sizes apart."""

    machine: tuple[int, str]
    interpreter: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


def read_elf(path: str) -> Elf | None:
    """Return what the file at `path` loads; None when it is no ELF file or a damaged one."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    with open(path, "rb") as stream:
        if stream.read(4) != _MAGIC:
            return None
        stream.seek(0)
        try:
            return _read(ELFFile(stream))
        except (ELFError, UnicodeDecodeError, AssertionError):
            return None


def _read(elf: "object") -> Elf:
    interpreter = None
    tags: dict[str, list[str]] = {"DT_NEEDED": [], "DT_RPATH": [], "DT_RUNPATH": []}
    for segment in elf.iter_segments():  # type: ignore[attr-defined]  # pyelftools has no types
        kind = segment["p_type"]
        if kind == "PT_INTERP":
            interpreter = segment.get_interp_name()
        elif kind == "PT_DYNAMIC":
            for tag in segment.iter_tags():
                name = tag.entry.d_tag
                if name in tags:
                    tags[name].append(getattr(tag, name.removeprefix("DT_").lower()))
    return Elf(
        (elf.elfclass, elf["e_machine"]),  # type: ignore[attr-defined, index]  # as above
        interpreter,
        tuple(tags["DT_NEEDED"]),
        _paths(tags["DT_RPATH"]),
        _paths(tags["DT_RUNPATH"]),
    )


def _paths(values: list[str]) -> tuple[str, ...]:
    return tuple(item for value in values for item in value.split(":") if item)


class Loader:
    """Find libraries as the dynamic loader `interpreter` would, without its cache file."""

    def __init__(self, interpreter: str) -> None:
        self.interpreter = interpreter
        self.is_musl = os.path.basename(interpreter).startswith("ld-musl-")
        own = os.path.dirname(os.path.realpath(interpreter))
        # What the loader knows without a cache; Debian's adds the directory it lives in.
        self.built_in = frozenset(os.path.realpath(d) for d in (*_DEFAULT, own))
        if self.is_musl:
            self._directories = tuple(_musl_directories(interpreter))
        else:
            listed = tuple(_configured(Path("/etc/ld.so.conf")))
            self._directories = tuple(dict.fromkeys((*listed, *_DEFAULT, own)))
        self._elves: dict[str, Elf | None] = {}

    def elf(self, path: str) -> Elf | None:
        """Return what `path` loads, read once."""
        if path not in self._elves:
            self._elves[path] = read_elf(path)
        return self._elves[path]

    def find(self, name: str, path: str, elf: Elf, outer: tuple[str, ...]) -> str | None:
        """Return where the library `name` that the file at `path` needs is; None if nowhere.

        `outer` are the RPATHs of what loaded that file, which are searched as well.
        """
        if "/" in name:
            return name if os.path.exists(name) else None
        if self.is_musl and name in ("libc.so", os.path.basename(self.interpreter)):
            return self.interpreter
        rpath = () if elf.runpath else (*own_rpath(path, elf), *outer)
        runpath = tuple(_origin(item, path) for item in elf.runpath)
        for directory in (*rpath, *runpath, *self._directories):
            candidate = os.path.join(directory, name)
            if os.path.isfile(candidate):
                found = self.elf(candidate)
                # A library of another word size is passed over.
                if found is not None and found.machine == elf.machine:
                    return candidate
        return None

    def is_found_without_cache(self, library: str) -> bool:
        """Tell whether the loader looks into the library's directory by itself."""
        return os.path.realpath(os.path.dirname(library)) in self.built_in


def own_rpath(path: str, elf: Elf) -> tuple[str, ...]:
    """Return the RPATH of a file, which its libraries inherit (RUNPATH is not inherited)."""
    return () if elf.runpath else tuple(_origin(item, path) for item in elf.rpath)


def _origin(item: str, path: str) -> str:
    home = os.path.dirname(os.path.realpath(path))
    lib = "lib64" if os.path.isdir("/lib64") else "lib"
    for word, value in (("ORIGIN", home), ("LIB", lib), ("PLATFORM", os.uname().machine)):
        item = item.replace("${%s}" % word, value).replace(f"${word}", value)  # noqa: UP031 - braces
    return os.path.normpath(item)


def _musl_directories(interpreter: str) -> Iterator[str]:
    architecture = os.path.basename(interpreter).removeprefix("ld-musl-").split(".")[0]
    try:
        text = Path(f"/etc/ld-musl-{architecture}.path").read_text()
    except OSError:
        yield from _MUSL_DEFAULT
        return
    yield from (item for item in text.replace("\n", ":").split(":") if item)


def _configured(path: Path, depth: int = 0) -> Iterator[str]:
    """Give the directories of an ld.so.conf, includes followed."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.partition("#")[0].replace(",", " ").replace(":", " ").split()
        if words[:1] == ["include"]:
            for pattern in words[1:]:
                for found in sorted(glob.glob(os.path.join(path.parent, pattern))):
                    if depth < _MOST_INCLUDES:
                        yield from _configured(Path(found), depth + 1)
        elif words[:1] != ["hwcap"]:
            yield from (word for word in words if os.path.isdir(word))
