"""What a sandboxed process gets: plain values that travel as JSON to the child."""

import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

from imgbuild.errors import SandboxError

_MOST_GROUPS = 65536  # NGROUPS_MAX

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

    def check(self) -> None:
        """Raise `SandboxError` for what no program can be started with."""
        if not self.argv or not self.argv[0]:
            raise SandboxError(
                "the command is empty", hint="check RUN, and SHELL of the base image"
            )
        pairs = [text for pair in self.env for text in pair]
        if any(_is_impossible(text) for text in (*self.argv, *pairs, self.cwd)) or any(
            not name or "=" in name for name, _ in self.env
        ):
            raise SandboxError(
                "the command, its environment or its directory holds what no program can be given",
                hint="a NUL, half of a character or an empty name: check the Dockerfile, the "
                "config of the base image and its /etc/passwd",
            )
        if len(self.groups) > _MOST_GROUPS:
            raise SandboxError(
                f"the user of the command is in {len(self.groups)} groups; Linux allows {_MOST_GROUPS}",
                hint="check /etc/group of the image",
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _is_impossible(text: str) -> bool:
    try:
        return b"\0" in os.fsencode(text)
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return True
