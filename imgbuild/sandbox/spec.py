"""What a sandboxed process gets: plain values that travel as JSON to the child."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

# docker's default set; RUN gets these inside its own user namespace.
DEFAULT_CAPABILITIES = [
    "audit_write",
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "mknod",
    "net_bind_service",
    "net_raw",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_chroot",
]


@dataclass(frozen=True, slots=True)
class OverlayRoot:
    """The root: unpacked layers (top first) below a writable upper directory, host paths all."""

    lowers: tuple[str, ...]
    upper: str
    work: str


@dataclass(frozen=True, slots=True)
class FileMount:
    """A host file shown read-only at `target` (absolute, in the root)."""

    source: str
    target: str

    def describe(self) -> str:
        return f"bind {self.source} at {self.target}, read-only"


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One process in a root of its own.

    `argv[0]` is looked up in `env`'s PATH inside the root. `uid`, `gid` and `groups` are container
    ids. `interactive` passes standard input through; otherwise it is /dev/null.
    """

    root: OverlayRoot
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    hostname: str = "buildkitsandbox"
    mounts: tuple[FileMount, ...] = ()
    network: Literal["host", "none"] = "host"
    capabilities: tuple[str, ...] = tuple(DEFAULT_CAPABILITIES)
    interactive: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
