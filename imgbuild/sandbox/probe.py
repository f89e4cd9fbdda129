"""Find out what this host allows by doing it: try each way to run commands, and a command in it.

Nothing is concluded from versions or settings, which lie in containers.
"""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgbuild.errors import ImgbuildError, SandboxError
from imgbuild.sandbox.candidates import candidates
from imgbuild.sandbox.choice import start
from imgbuild.sandbox.session import Session
from imgbuild.sandbox.spec import DirectoryRoot, Network, OverlayRoot, Root, SandboxSpec
from imgbuild.sandbox.tiers import Candidate, Tier

_WORKER = "imgbuild.sandbox.child.trial"
_NOT_FOUND = 127  # everything up to execve worked
_NETWORKS: Final[tuple[Network, ...]] = ("host", "none")


@dataclass(frozen=True, slots=True)
class Check:
    """One way that was tried; `remedy` says what to change when it is not possible."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a host allows: `tier` is how RUN steps run, None when they cannot.

    `checks` are of all ways, best first; the first that is possible is taken. `network` and `limits`
    say in words what commands get, `runtimes` are the paths of those for `--isolation=oci`.
    """

    tier: Tier | None
    checks: tuple[Check, ...]
    network: str = ""
    limits: str = ""
    runtimes: tuple[str, ...] = ()


def probe(store_dir: Path, search_path: str, isolation: str = "auto") -> Report:
    """Try every way to run a RUN step, with a store in an existing directory.

    `search_path` is where newuidmap is looked for; `isolation` leaves one tier alone. Nothing is
    left behind.
    """
    checks: list[Check] = []
    taken: Tier | None = None
    for candidate in candidates(search_path, isolation):
        name = candidate.describe()
        try:
            found = _try(candidate, store_dir)
        except ImgbuildError as problem:
            checks.append(Check(name, ok=False, detail=problem.message, remedy=problem.hint or ""))
            continue
        taken = taken or found
        checks.append(Check(name, ok=True, detail=found.lacks() or "possible"))
    return Report(taken, tuple(checks))


def _try(candidate: Candidate, store_dir: Path) -> Tier:
    """Start a session and commands in it; raise what does not work."""
    with tempfile.TemporaryDirectory(prefix="probe-", dir=store_dir) as name:
        place = Path(name)
        steps = place / "steps"
        steps.mkdir()
        with start([candidate], _WORKER, [place], steps) as session:
            try:
                _run_all(session, place, steps)
            finally:
                with contextlib.suppress(ImgbuildError):
                    session.request("empty", {"places": [str(steps), str(place)]})
            return session.tier


def _root(tier: Tier, lower: str, step: str) -> Root:
    if tier.root == "copy":
        return DirectoryRoot(f"{step}/upper")
    return OverlayRoot((lower,), f"{step}/upper", f"{step}/work")


def _run_all(session: Session, place: Path, steps: Path) -> None:
    lower = str(place / "lower")
    # Without a network namespace to give, a command has the host's network or does not start.
    networks = _NETWORKS if session.tier.name != "D" else _NETWORKS[:1]
    names = [f"{network}/{part}" for network in networks for part in ("upper", "work")]
    owner = session.tier.idmap.shift
    params = {"lower": lower, "steps": str(steps), "owner": owner, "names": names}
    session.request("prepare", params)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for network in networks:
            root = _root(session.tier, lower, f"{steps}/{network}")
            spec = SandboxSpec(("/none",), (), root, network=network)
            status = session.run(spec, null, null, null).wait()
            if status != _NOT_FOUND:
                raise SandboxError(f"a command ended in an odd way, with status {status}")
    finally:
        os.close(null)
