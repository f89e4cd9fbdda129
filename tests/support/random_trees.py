"""Random trees of files, and what lays them out in a directory or packs them as a tar."""

import io
import os
import socket
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

# Few names, so that trees meet; the last is not UTF-8.
PLAIN_NAMES = ("a", "b", "c", "d", "a.txt", "b.txt", ".h")
ODD_NAMES = ("é", "x y", "s*r", "b[a", "k\\a", "n" * 120, "\udcff")
NAMES = (*PLAIN_NAMES, *ODD_NAMES)
# Mostly those of directories: where a file and a directory meet, a build ends.
FOLDERS = frozenset(("a", "b", "c", "x y", "k\\a", "n" * 120))
FILE_MODES = (0o644, 0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1644, 0o444, 0o7777, 0o664)
DIR_MODES = (0o755, 0o755, 0o700, 0o1777, 0o2755, 0o777, 0o555, 0o6755)
LINKS = ("a", "b", "c", "d", "../a", "../b", "/a", "/b", "/c/a", "a/b", ".", "..", "/", "nowhere", "/no/where", "../../../c")  # fmt: skip
# cap_net_bind_service=ep, as setcap(8) writes it.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


class Thing(NamedTuple):
    """One thing of a tree: `link` is where a symlink points, or the other name of a hard link."""

    type: str
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    data: bytes = b""
    link: str = ""
    capable: bool = False  # it has a security.capability, which takes root to set


Things = Mapping[str, Thing]

_OWNERS = st.sampled_from(((0, 0), (0, 0), (1, 2), (7, 0), (1000, 1000)))
_CONTENTS = st.sampled_from((b"", b"one", b"two", b"x" * 600))


def files() -> st.SearchStrategy[Thing]:
    capable = st.sampled_from((False, False, True)) if os.geteuid() == 0 else st.just(False)
    parts = st.tuples(st.sampled_from(FILE_MODES), _OWNERS, _CONTENTS, capable)
    return parts.map(lambda drawn: Thing("file", *drawn[:3], capable=drawn[3]))


def directories() -> st.SearchStrategy[Thing]:
    parts = st.tuples(st.sampled_from(DIR_MODES), _OWNERS)
    return parts.map(lambda drawn: Thing("dir", *drawn))


def links() -> st.SearchStrategy[Thing]:
    parts = st.tuples(_OWNERS, st.sampled_from(LINKS))
    return parts.map(lambda drawn: Thing("symlink", 0o777, drawn[0], link=drawn[1]))


def specials(*types: str) -> st.SearchStrategy[Thing]:
    parts = st.tuples(st.sampled_from(types), st.sampled_from((0o644, 0o600)), _OWNERS)
    return parts.map(lambda drawn: Thing(*drawn))


@st.composite
def trees(
    draw: st.DrawFn,
    names: tuple[str, ...] = NAMES,
    special: tuple[str, ...] = ("fifo",),
    *,
    most: int = 7,
) -> dict[str, Thing]:
    """Draw a tree: by path, directories before what they hold."""
    kinds = st.one_of(files(), files(), directories(), links(), specials("hard", *special))
    folders = st.sampled_from([name for name in names if name in FOLDERS])
    found: dict[str, Thing] = {}
    for _ in range(draw(st.integers(0, most))):
        name = draw(st.sampled_from(names))
        path = [*draw(st.lists(folders, max_size=2)), name]
        usual = draw(st.integers(0, 7)) != 5
        thing = draw(directories() if usual and name in FOLDERS else kinds)
        if usual and thing.type == "dir" and name not in FOLDERS:
            continue
        above = ["/".join(path[:end]) for end in range(1, len(path))]
        if any(up in found and found[up].type != "dir" for up in above) or "/".join(path) in found:
            continue
        if thing.type == "hard":
            targets = [name for name, other in found.items() if other.type == "file"]
            if not targets:
                continue
            thing = thing._replace(link=draw(st.sampled_from(targets)))
        for up in above:
            found.setdefault(
                up, draw(directories()) if draw(st.booleans()) else Thing("dir", 0o755)
            )
        found["/".join(path)] = thing
    return found


def lay(tree: Things, root: Path) -> None:
    """Make a tree below `root`, all owned by the caller."""
    for path, thing in tree.items():
        at = root / path
        if thing.type == "dir":
            at.mkdir()
        elif thing.type == "symlink":
            at.symlink_to(thing.link)
        elif thing.type == "hard":
            os.link(root / thing.link, at)
        else:
            _MAKERS[thing.type](at, thing)
            at.chmod(thing.mode)
    for path, thing in reversed(tree.items()):
        if thing.type == "dir":
            (root / path).chmod(thing.mode)


def _make_file(at: Path, thing: Thing) -> None:
    at.write_bytes(thing.data)
    if thing.capable:
        os.setxattr(at, "security.capability", CAPABILITY)


def _make_fifo(at: Path, _thing: Thing) -> None:
    os.mkfifo(at)


def _make_socket(at: Path, _thing: Thing) -> None:
    # Under a short name by a short way, since the path of a socket has at most 108 bytes.
    with _short_path(at.parent) as folder, socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{folder}/.new")
    at.with_name(".new").rename(at)


@contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """Give a short path of a directory."""
    fd = os.open(folder, os.O_PATH)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


_MAKERS: dict[str, Callable[[Path, Thing], None]] = {
    "file": _make_file,
    "fifo": _make_fifo,
    "socket": _make_socket,
}


def pack(tree: Things, compression: str = "") -> bytes:
    """Return a tree as a tar, compressed with `gz`, `bz2` or `xz` where that is said."""
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as tar:
        for path, thing in tree.items():
            member = tarfile.TarInfo(path)
            member.type = _TAR_TYPES[thing.type]
            member.mode, member.mtime = thing.mode, 1_600_000_000
            member.uid, member.gid = thing.owner
            member.linkname = thing.link
            member.size = len(thing.data)
            if thing.capable:
                member.pax_headers = {"SCHILY.xattr.security.capability": CAPABILITY.decode()}
            if thing.type == "char":
                member.devmajor, member.devminor = 1, 3
            tar.addfile(member, io.BytesIO(thing.data))
    return _compressed(out.getvalue(), compression)


_TAR_TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "char": tarfile.CHRTYPE,
}


def _compressed(data: bytes, compression: str) -> bytes:
    import bz2
    import gzip
    import lzma

    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(compression)
    return compress(data) if compress else data
