"""What commands would get beside a sandbox: a network, limits, OCI runtimes; for `imgbuild doctor`."""

from dataclasses import replace

from imgbuild.build.network import find_helpers, why_not
from imgbuild.errors import SandboxError
from imgbuild.options import RunOptions
from imgbuild.sandbox.cgroups import Limits, make_group
from imgbuild.sandbox.probe import Report
from imgbuild.sandbox.runtimes import find_runtimes

_EVERYTHING = Limits(memory=1 << 30, cpus=1.0, pids=1000)
# By the names of the kernel's controllers.
_FLAGS = {"memory": "--memory", "cpu": "--cpus", "pids": "--pids-limit"}
_NO_MOUNTS = frozenset({"D", "D-userns"})


def with_surroundings(report: Report, search_path: str) -> Report:
    """Add to a report what the options about commands find here; helpers are not started."""
    return replace(
        report,
        network=_network(report, search_path),
        limits=_limits(),
        runtimes=_runtimes(search_path),
    )


def _network(report: Report, search_path: str) -> str:
    helpers = find_helpers(search_path)
    problem = why_not(helpers, RunOptions())
    if report.tier is not None and report.tier.name in _NO_MOUNTS:
        problem = f"there is no other one in tier {report.tier.name}"
    if problem is not None:
        return f"that of this machine: {problem}"
    return f"one of the build's own, by {helpers[0].program}"


def _limits() -> str:
    group = make_group(_EVERYTHING)
    held = frozenset[str]()
    if group is not None:
        with group:
            held = group.controllers
    weak = [flag for controller, flag in _FLAGS.items() if controller not in held]
    if not weak:
        return "of a command as a whole, by control groups"
    which = "" if len(weak) == len(_FLAGS) else f"{' and '.join(weak)} "
    return f"{which}of each process by itself: no control group can be made for more"


def _runtimes(search_path: str) -> tuple[str, ...]:
    try:
        return find_runtimes(None, search_path)
    except SandboxError:
        return ()
