"""The ways to run commands that this process may have, best first; nothing is started to tell.

A cached build asks for the first one, since its ids are a part of cache keys: little is loaded here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, get_args

from imgbuild.errors import UsageError
from imgbuild.sandbox.idmap import (
    IdMap,
    can_chroot,
    choose_idmap,
    kept_ids,
    own_ids,
    single_idmap,
)
from imgbuild.sandbox.tiers import Candidate, TierName

# As buildah and docker call them; buildah's "chroot" is a tier for root and another one for users.
_ALIASES: Final = {"rootless": "auto", "default": "auto"}
_NOT_ROOT = "only root with CAP_SYS_CHROOT can change its root without a user namespace"
_BE_ROOT = "Be root, or take D-userns; chroot means the one that fits."


def parse_isolation(text: str) -> str:
    """Return "auto", "oci" or the name of a tier; UsageError for anything else."""
    names: tuple[str, ...] = ("auto", *get_args(TierName), "oci")
    chroot = {"chroot": "D" if can_chroot() else "D-userns"}
    known = {name.lower(): name for name in names} | _ALIASES | chroot
    found = known.get(str(text).lower())
    if found is None:
        hint = f"one of {', '.join(names)}; chroot and rootless are understood, too"
        raise UsageError(f"unknown isolation: {text}", hint=hint)
    return found


def candidates(search_path: str, isolation: str = "auto") -> tuple[Candidate, ...]:
    """List the ways that this process may have to run commands, best first.

    `search_path` is where newuidmap is looked for; `isolation` leaves one tier alone. Nothing is
    started. UsageError for an isolation that does not exist.
    """
    wanted = parse_isolation(isolation)
    best = choose_idmap(search_path)
    listed = (*_with_many_ids(best), *_with_less(best))
    if wanted == "oci":  # a runtime makes the containers of a session that has namespaces
        return tuple(one for one in listed if one.name in {"A", "C"})
    return tuple(one for one in listed if wanted in {"auto", one.name})


def expected(listed: Sequence[Candidate]) -> Candidate:
    """Return the candidate that will probably do; cache keys are made from it until one has."""
    likely = [one for one in listed if not one.obstacle]
    certain = [one for one in likely if not one.doubt]
    return (certain or likely or listed)[0]


def _with_many_ids(best: IdMap) -> Iterator[Candidate]:
    if best.kind == "single":
        yield Candidate("A", best, obstacle=best.reason, remedy=best.remedy)
    else:
        yield Candidate("A", best, doubt=best.doubt)
    if best.kind == "subids":
        # One level of user namespaces is all that may be left: root is the user himself then.
        plain = replace(best, shift=0, count=best.count + 1)
        yield Candidate("A", plain, nested=False, doubt=best.doubt)
    if (here := own_ids()) is not None:
        yield Candidate("A", here, userns=False, nested=False)


def _with_less(best: IdMap) -> Iterator[Candidate]:
    reason = best.reason or best.doubt or "many ids cannot be mapped here"
    single = best if best.kind == "single" else single_idmap(reason, best.remedy)
    yield Candidate("C", single)
    if best.kind != "single":
        yield Candidate("D-userns", best, doubt=best.doubt)
    yield Candidate("D-userns", single)
    if can_chroot():
        yield Candidate("D", kept_ids(), userns=False, nested=False)
    else:
        yield Candidate("D", single, obstacle=_NOT_ROOT, remedy=_BE_ROOT)
