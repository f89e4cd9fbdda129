"""Choose the way to run commands on this host: the candidates in order, each by starting it.

Only what a host says for certain is taken from it; the rest is found out by trying.
"""

from collections.abc import Sequence
from pathlib import Path

from imgbuild.errors import SandboxError
from imgbuild.sandbox.failures import RefusedError
from imgbuild.sandbox.launch import launch
from imgbuild.sandbox.session import Session
from imgbuild.sandbox.tiers import Candidate


def start(
    listed: Sequence[Candidate], entry: str, writable: Sequence[Path], steps: Path | None = None
) -> Session:
    """Start a session in the first way that works; see `launch` for the other arguments.

    SandboxError says what stood in the way of each and how to allow the best.
    """
    failed: list[tuple[Candidate, SandboxError]] = []
    for candidate in listed:
        obstacle = _foreseen(candidate, failed)
        if obstacle is None:
            reasons = tuple(f"{one.describe()}: {problem.message}" for one, problem in failed)
            try:
                return launch(candidate, entry, writable, steps=steps, reasons=reasons)
            except RefusedError as problem:
                obstacle = problem
        failed.append((candidate, obstacle))
    raise _summary(failed)


def _foreseen(
    candidate: Candidate, failed: Sequence[tuple[Candidate, SandboxError]]
) -> SandboxError | None:
    """Return why a candidate need not be tried."""
    if candidate.obstacle:
        return SandboxError(candidate.obstacle, hint=candidate.remedy or None)
    for other, problem in failed:
        refused = isinstance(problem, RefusedError) and problem.operation == "unshare"
        if refused and candidate.userns and other.userns and candidate.name != "D":
            return problem
    return None


def _summary(failed: Sequence[tuple[Candidate, SandboxError]]) -> SandboxError:
    """Make one error of all: what the best needed is the remedy."""
    tried = [problem for one, problem in failed if not one.obstacle]
    first = tried[0] if tried else failed[0][1]
    others = dict.fromkeys(
        f"{one.describe()}: {problem.message}" for one, problem in failed if problem is not first
    )
    hint = first.hint or ""
    if others:
        hint += f" (Not possible either: {'; '.join(others)}.)"
    return SandboxError(first.message, hint=hint.strip() or None)
