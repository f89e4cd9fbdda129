"""The ways to run a command on a host, from the best to the least: values, nothing is tried here."""

from dataclasses import dataclass
from typing import Literal

from imgbuild.sandbox.idmap import IdMap

# A: namespaces and many ids. C: namespaces and one id. D-userns: a user namespace without mounts.
# D: root of a container that has no namespaces to give.
TierName = Literal["A", "C", "D-userns", "D"]

_TITLES: dict[TierName, str] = {
    "A": "in namespaces of their own",
    "C": "in namespaces of their own",
    "D-userns": "in a user namespace, without mounts",
    "D": "in a changed root, without namespaces",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way that may work here.

    Without `userns` the session enters no user namespace, since it is in one already. `nested`
    wants a user namespace for each step below the session's. `obstacle` says why it need not be
    tried, `remedy` what to do about that; `doubt` why it is not expected to work.
    """

    name: TierName
    idmap: IdMap
    userns: bool = True
    nested: bool = True
    obstacle: str = ""
    remedy: str = ""
    doubt: str = ""

    def describe(self) -> str:
        """Say which one this is, in a few words."""
        if self.name == "A" and self.idmap.kind == "single":
            return "tier A"  # there are not the ids for it
        details = [self.idmap.describe()]
        if self.name != "D" and not self.userns:
            details.append("in the user namespace that is there already")
        elif self.name == "A" and not self.nested:
            details.append("one user namespace for all")
        return f"tier {self.name} ({', '.join(details)})"


@dataclass(frozen=True, slots=True)
class Tier:
    """The way that a running session has, as it turned out when it was tried.

    `proc`: whether a step sees its own processes, all of the session's surroundings, or what
    imgbuild makes up. `root`: an overlay; one whose upper directories are in memory since the
    store cannot hold them; or a directory with everything. `enter`: how a step's root is
    entered. `nested`: each step has a user namespace below the session's. `reasons` say why
    nothing better was taken.
    """

    name: TierName
    idmap: IdMap
    proc: Literal["own", "shared", "emulated"] = "own"
    root: Literal["overlay", "memory", "copy"] = "overlay"
    enter: Literal["pivot_root", "move", "chroot"] = "pivot_root"
    nested: bool = True
    reasons: tuple[str, ...] = ()

    @property
    def single_id(self) -> bool:
        return self.idmap.kind == "single"

    @property
    def is_best(self) -> bool:
        """Tell whether nothing is missing."""
        whole = (self.proc, self.root, self.enter) == ("own", "overlay", "pivot_root")
        return self.name == "A" and whole and self.nested

    def describe(self) -> str:
        """Say how steps run."""
        return f"tier {self.name}: {_TITLES[self.name]} ({self.idmap.describe()})"

    def lacks(self) -> str:
        """Say what the tier could have and has not, in words; empty when it has everything."""
        missing = []
        if self.name == "D":
            missing.append("the container around imgbuild is the only security boundary")
        if self.name == "D-userns":
            missing.append("the user namespace is the only security boundary")
        if self.proc == "emulated":
            missing.append("/proc and /dev are made up")
        if self.proc == "shared":
            missing.append("/proc shows the processes around")
        if self.root == "memory":
            missing.append("changes are kept in memory while a step runs")
        if self.root == "copy" and self.name in {"A", "C"}:
            missing.append("the store holds no overlays, so that whole roots are copied")
        if self.enter == "move":
            missing.append("pivot_root is refused")
        if not self.nested and self.name in {"A", "C"}:
            missing.append("steps have no user namespace of their own")
        return "; ".join(missing)
