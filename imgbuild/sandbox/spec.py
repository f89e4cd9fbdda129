"""What a sandboxed process gets: plain values that travel as JSON to the child."""

import os
from dataclasses import asdict, dataclass, field
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
DEFAULT_SHM_SIZE = 64 << 20  # bytes, as docker


@dataclass(frozen=True, slots=True)
class OverlayRoot:
    """The root: unpacked layers (top first) below a writable upper directory, host paths all."""

    lowers: tuple[str, ...]
    upper: str
    work: str
    kind: Literal["overlay"] = "overlay"


@dataclass(frozen=True, slots=True)
class DirectoryRoot:
    """The root: one directory that holds a whole file system, a host path."""

    path: str
    kind: Literal["directory"] = "directory"


@dataclass(frozen=True, slots=True)
class FileMount:
    """A host file shown read-only at `target` (absolute, in the root)."""

    source: str
    target: str
    kind: Literal["file"] = "file"

    def describe(self) -> str:
        return f"bind {self.source} at {self.target}, read-only"


@dataclass(frozen=True, slots=True)
class BindMount:
    """A host file or directory shown at `target`; its files have the ids of the session.

    With `path`, what is found there when it is looked up inside `source`. With `straight`, no part
    of `source` may be a symlink: an earlier command could have put it there.
    """

    source: str
    target: str
    readonly: bool = True
    path: str = ""
    straight: bool = False
    kind: Literal["bind"] = "bind"

    def describe(self) -> str:
        return f"bind {self.source} at {self.target}{', read-only' if self.readonly else ''}"


@dataclass(frozen=True, slots=True)
class LayersMount:
    """`path` of the tree that unpacked layers (top first) make together, shown at `target`.

    Read-only without an `upper` and a `work` directory; with them, what is written stays there.
    `path` is looked up inside the tree.
    """

    lowers: tuple[str, ...]
    path: str
    target: str
    upper: str = ""
    work: str = ""
    kind: Literal["layers"] = "layers"

    def describe(self) -> str:
        return f"{self.path} of {len(self.lowers)} layers at {self.target}"


@dataclass(frozen=True, slots=True)
class TmpfsMount:
    """An empty file system in memory; `size` in bytes, None is half of the memory."""

    target: str
    size: int | None = None
    mode: int = 0o1777
    readonly: bool = False
    kind: Literal["tmpfs"] = "tmpfs"

    def describe(self) -> str:
        return f"tmpfs at {self.target}"


@dataclass(frozen=True, slots=True)
class SecretMount:
    """A file in memory that holds `value` (base64); `uid` and `gid` are container ids."""

    target: str
    value: str = field(repr=False)
    mode: int = 0o400
    uid: int = 0
    gid: int = 0
    kind: Literal["secret"] = "secret"

    def describe(self) -> str:
        return f"a secret at {self.target}"


Mount = FileMount | BindMount | LayersMount | TmpfsMount | SecretMount
Root = OverlayRoot | DirectoryRoot
# "private": a network of the session's own that reaches out (see `network`).
Network = Literal["host", "none", "private"]


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One process in a root of its own.

    `argv[0]` is looked up in `env`'s PATH inside the root. `uid`, `gid` and `groups` are container
    ids. `interactive` passes standard input through; otherwise it is /dev/null. With `terminal`
    the streams are a terminal that was made for this command: it gets it. `insecure` gives
    all capabilities (of its user namespace) and no system call filter. `rlimits` are names as
    docker has them with soft and hard limits, -1 for none. `devices` are host paths, the paths in
    the root and some of "rwm". `readonly` lets nothing but mounts be written to. `processors` is
    how many the command may run on, 0 for all. With `runtimes`, paths of OCI runtimes, the first
    of them that can makes the container.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    root: Root | None = None
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    hostname: str = "buildkitsandbox"
    mounts: tuple[Mount, ...] = ()
    network: Network = "host"
    capabilities: tuple[str, ...] = tuple(DEFAULT_CAPABILITIES)
    insecure: bool = False
    interactive: bool = False
    terminal: bool = False
    readonly: bool = False
    shm_size: int = DEFAULT_SHM_SIZE
    rlimits: tuple[tuple[str, int, int], ...] = ()
    devices: tuple[tuple[str, str, str], ...] = ()
    processors: int = 0
    runtimes: tuple[str, ...] = ()

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
