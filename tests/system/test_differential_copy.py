"""COPY and ADD as other builders do them: random builds, made by both, have to come out the same.

Hypothesis draws contexts, images and instructions; the root file systems are read and compared
without any code of imgbuild. In CI the builds are always the same ones, and few:
`IMGBUILD_DIFFERENTIAL=500` asks for as many new ones. Where a builder is known to do something
else than BuildKit, whose rules are imgbuild's, `KNOWN` says what, and why.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings

from imgbuild import api
from imgbuild.errors import ImgbuildError
from imgbuild.options import Output
from tests.support import flatten
from tests.support.copy_cases import Case, cases
from tests.support.flatten import Node, Tree
from tests.support.peers import Buildah, BuildError, Docker, Peer

pytestmark = pytest.mark.system

ASKED = int(os.environ.get("IMGBUILD_DIFFERENTIAL") or 0)
FEW = 60  # takes half a minute


class Difference(NamedTuple):
    """What is not the same at a path of both images; None where there is nothing."""

    path: str
    ours: Node | None
    theirs: Node | None


class Outcome(NamedTuple):
    """What became of a build: a tree, or an error."""

    tree: Tree | None
    error: str = ""


class Known(NamedTuple):
    """Something that a builder does differently, on purpose or not; `why` names the rule."""

    peer: str
    why: str
    explains: Callable[[Case, Difference], bool]


class KnownError(NamedTuple):
    """An error of one side alone: `ours` and `theirs` are what it says there, "" for success."""

    peer: str
    why: str
    ours: str
    theirs: str
    explains: Callable[[Case], bool] = lambda _case: True


def _made(case: Case, found: Difference) -> bool:
    """Tell whether this is a directory that was made, by the peer with 0755 and nothing inherited."""
    ours, theirs = found.ours, found.theirs
    if ours is None or theirs is None or (ours.type, theirs.type) != ("dir", "dir"):
        return False
    inherits = bool(ours.mode & 0o2000) and theirs.gid == 0
    modes = {0o755} | {int(mode, 8) & 0o777 for mode in case.flags("chmod") if mode.isdecimal()}
    return (
        theirs.mode & 0o777 == 0o755
        and ours.mode & 0o777 in modes
        and ours.uid == theirs.uid
        and (ours.gid == theirs.gid or inherits)
    )


def _socket(case: Case, found: Difference) -> bool:
    name = found.path.rpartition("/")[2]
    sockets = {
        path.rpartition("/")[2] for path, thing in case.context.items() if thing.type == "socket"
    }
    ours, theirs = found.ours, found.theirs
    return (
        name in sockets
        and theirs is None
        and ours is not None
        and (ours.type, ours.size) == ("file", 0)
    )


def _unpacked_at_link(case: Case, found: Difference) -> bool:
    """Tell whether an archive may have met a link where it has a directory."""
    if not any(one.verb == "ADD" and {"arch", "*"} & set(one.sources) for one in case.instructions):
        return False
    ours, theirs = found.ours, found.theirs
    if ours is None or theirs is None:
        return True
    return (ours.type, theirs.type) == ("symlink", "dir")


def _without_set_ids(_case: Case, found: Difference) -> bool:
    ours, theirs = found.ours, found.theirs
    if ours is None or theirs is None or theirs.mode & 0o6000:
        return False
    return ours._replace(mode=ours.mode & ~0o6000) == theirs


def _has_wildcard(case: Case) -> bool:
    return any(set(source) & set("*?[") for one in case.instructions for source in one.sources)


KNOWN = (
    Known(
        "buildah",
        "makes directories with 0755 whatever --chmod says; in BuildKit they follow an octal mode: "
        "golden copy-parents-chown-chmod. Nor do they inherit the group of a set-group-ID directory",
        _made,
    ),
    Known(
        "buildah",
        "leaves sockets out of what it copies; BuildKit makes empty files of them",
        _socket,
    ),
    Known(
        "docker",
        "before BuildKit unpacked archives by itself, a directory of an archive replaced a link; now "
        "it is put where the link leads",
        _unpacked_at_link,
    ),
    Known(
        "buildah",
        "takes set-user-ID and set-group-ID from what comes from the context, as docker did before "
        "BuildKit; BuildKit keeps them: golden copy-modes-umask",
        _without_set_ids,
    ),
)
KNOWN_ERRORS = (
    KnownError(
        "buildah",
        "replaces files by directories and the other way round, which BuildKit refuses: golden "
        "copy-dir-onto-file, copy-file-onto-dir",
        ours=r"^cannot (copy to non-directory|replace to directory)",
        theirs="",
    ),
    KnownError(
        "buildah",
        "refuses wildcards that match nothing; in BuildKit they copy nothing: golden copy-wild",
        ours="",
        theirs=r"copier: (stat|get): .*(no such file or directory|matched nothing)|no items matching glob",
        explains=_has_wildcard,
    ),
    KnownError(
        "buildah",
        "lets a wildcard match nothing beside sources that are there; BuildKit wants the directory "
        "before a wildcard to be there: its file operation walks it",
        ours=r"^lstat .*: no such file or directory$",
        theirs="",
        explains=lambda case: any(len(one.sources) > 1 for one in case.instructions),
    ),
    KnownError(
        "buildah",
        "has no way to copy a socket; BuildKit makes an empty file of it",
        ours="",
        theirs=r"sockets not supported",
    ),
    KnownError(
        "buildah",
        "takes the backslashes out of every source; BuildKit takes a source without a wildcard as it is",
        ours=r"\\.*: not found$",
        theirs="",
    ),
    KnownError(
        "buildah",
        "takes names that a wildcard matched for patterns once more",
        ours="",
        theirs=r"copier: get: glob .*syntax error in pattern",
        explains=_has_wildcard,
    ),
)


@pytest.fixture(scope="module", params=[Buildah, Docker], ids=lambda kind: kind.name)
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    kind: type[Peer] = request.param
    if shutil.which(kind.name) is None:
        pytest.skip(f"{kind.name} is not installed")
    with kind() as opened:
        yield opened


def test_copies_come_out_as_with(peer: Peer) -> None:
    @settings(
        max_examples=ASKED or FEW,
        derandomize=not ASKED,
        database=None,
        deadline=None,
        # Shrinking takes minutes, and starts both builders for each try.
        phases=tuple(Phase) if ASKED else (Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(peer.features))
    def compare(case: Case) -> None:
        with tempfile.TemporaryDirectory(prefix="imgbuild-", ignore_cleanup_errors=True) as folder:
            context = Path(folder, "context")
            context.mkdir()
            case.write(context)
            ours, theirs = _ours(Path(folder), context), _theirs(peer, context)
        note(str(case))
        note(f"ours: {ours.error or 'built'}\n{peer.name}: {theirs.error or 'built'}")
        problems = _compared(peer, case, ours, theirs)
        assert not problems, "\n".join(problems)

    compare()


def _ours(folder: Path, context: Path) -> Outcome:
    output = Output("oci", folder / "ours", tar=False)
    try:
        api.build(context, store=folder / "store", outputs=(output,))
    except ImgbuildError as error:
        return Outcome(None, error.message)
    return Outcome(flatten.layout(output.dest))


def _theirs(peer: Peer, context: Path) -> Outcome:
    try:
        return Outcome(peer.build(context))
    except BuildError as error:
        return Outcome(None, str(error).strip() or "no message")


def _compared(peer: Peer, case: Case, ours: Outcome, theirs: Outcome) -> list[str]:
    """Return what differs and is not known to."""
    if ours.tree is None or theirs.tree is None:
        if ours.tree is None and theirs.tree is None:
            return []
        return [] if _is_known_error(peer, case, ours, theirs) else ["only one of them fails"]
    return [
        f"{found.path!r}: ours {found.ours}, {peer.name}'s {found.theirs}"
        for found in _differences(peer, ours.tree, theirs.tree)
        if not any(k.peer == peer.name and k.explains(case, found) for k in KNOWN)
    ]


def _is_known_error(peer: Peer, case: Case, ours: Outcome, theirs: Outcome) -> bool:
    return any(
        known.peer == peer.name
        and bool(known.ours) == bool(ours.error)
        and bool(known.theirs) == bool(theirs.error)
        and re.search(known.ours, ours.error)
        and re.search(known.theirs, theirs.error)
        and known.explains(case)
        for known in KNOWN_ERRORS
    )


def _differences(peer: Peer, ours: Tree, theirs: Tree) -> Iterator[Difference]:
    for path in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(path), theirs.get(path)
        if not peer.compares_xattrs:
            mine, other = _plain(mine), _plain(other)
        if mine != other:
            yield Difference(path, mine, other)


def _plain(node: Node | None) -> Node | None:
    return node._replace(xattrs=()) if node else None
