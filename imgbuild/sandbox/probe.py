"""Find out what this host allows by doing it: start a session, mount, run a command.

Nothing is concluded from versions or settings, which lie in containers.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from imgbuild.errors import ImgbuildError
from imgbuild.sandbox.idmap import IdMap, choose_idmap
from imgbuild.sandbox.launch import launch
from imgbuild.sandbox.session import Session
from imgbuild.sandbox.spec import OverlayRoot, SandboxSpec

_WORKER = "imgbuild.sandbox.child.trial"
_NOT_FOUND = 127  # everything up to execve worked
_NETWORKS: tuple[Literal["host", "none"], ...] = ("host", "none")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried; `remedy` says what to change for a better answer."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a host allows: tier "A" runs any RUN step, None runs none."""

    tier: Literal["A"] | None
    idmap: IdMap
    checks: tuple[Check, ...]


def probe(store_dir: Path, search_path: str) -> Report:
    """Try everything that a RUN step needs, with a store in an existing directory.

    `search_path` is where newuidmap is looked for. Nothing is left behind.
    """
    idmap = choose_idmap(search_path)
    checks = [_check_ids(idmap)]
    try:
        session = launch(idmap, _WORKER, [store_dir])
    except ImgbuildError as problem:
        checks.append(_failed("user namespace", problem))
        return Report(None, idmap, tuple(checks))
    checks.append(Check("user namespace", ok=True, detail="entered, with a read-only view"))
    with session, tempfile.TemporaryDirectory(prefix="probe-", dir=store_dir) as place:
        try:
            tried = _try_steps(session, idmap, place)
        finally:
            with contextlib.suppress(ImgbuildError):
                session.request("empty", {"place": place})
    tier: Literal["A"] | None = "A" if all(check.ok for check in tried) else None
    return Report(tier, idmap, (*checks, *tried))


def _check_ids(idmap: IdMap) -> Check:
    if idmap.kind != "single":
        return Check("ids", ok=True, detail=idmap.describe())
    detail = f"{idmap.describe()}: {idmap.reason}"
    return Check("ids", ok=False, detail=detail, remedy=idmap.remedy)


def _try_steps(session: Session, idmap: IdMap, place: str) -> list[Check]:
    names = [f"{step}/{part}" for step in ("trial", *_NETWORKS) for part in ("upper", "work")]
    roots = {
        step: OverlayRoot((f"{place}/lower",), f"{place}/{step}/upper", f"{place}/{step}/work")
        for step in ("trial", *_NETWORKS)
    }

    def overlay() -> str:
        session.request("prepare", {"place": place, "owner": idmap.shift, "steps": names})
        root = roots["trial"]
        params = {"lower": root.lowers[0], "upper": root.upper, "work": root.work}
        session.request("overlay", params)
        return "overlays work in the store"

    def run(network: Literal["host", "none"]) -> str:
        spec = SandboxSpec(("/none",), (), roots[network], network=network)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            status = session.run(spec, null, null, null).wait()
        finally:
            os.close(null)
        return "a command can start" if status == _NOT_FOUND else f"odd status {status}"

    tried = [_try("overlay", overlay)]
    if tried[0].ok:
        tried += [_try(f"RUN, network {network}", partial(run, network)) for network in _NETWORKS]
    return tried


def _try(name: str, act: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, detail=act())
    except ImgbuildError as problem:
        return _failed(name, problem)


def _failed(name: str, problem: ImgbuildError) -> Check:
    return Check(name, ok=False, detail=problem.message, remedy=problem.hint or "")
