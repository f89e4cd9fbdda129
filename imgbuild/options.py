"""Frozen option records: the only home of defaults. The command line adds flags, nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

NetworkMode = Literal["default", "host", "none"]
ProgressMode = Literal["auto", "tty", "plain", "quiet"]
# PATH where nobody gave one: in images, and for what is looked for on this machine.
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# As `Output.dest`: an archive goes to standard output.
STDOUT = Path("-")


@dataclass(frozen=True, slots=True)
class Output:
    """One `--output`: an OCI layout (`oci`, a tar or a directory) or a `docker load` tar (`docker`).

    `dest` is a path, `-` standard output.
    """

    type: Literal["oci", "docker"]
    dest: Path
    tar: bool = True


@dataclass(frozen=True, slots=True)
class Secret:
    """One `--secret`: `value`, else what the file `path` holds (by default the one called `id`)."""

    id: str
    path: Path | None = None
    value: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SshAgent:
    """One `--ssh`: the socket of an agent, or private keys that an agent is started for."""

    id: str = "default"
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How registries are reached.

    `docker_config` is the folder of docker's `config.json`; its `proxies` for `docker_host`, else
    for `default`, are given to RUN as docker does. `proxies` maps `http`, `https`
    and `no` to what `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` would hold.
    """

    docker_config: Path | None = None
    docker_host: str = "unix:///var/run/docker.sock"
    proxies: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    jobs: int = 4


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive that ADD unpacks may cost: far more than one that is meant well.

    `entries` is how many members it has, `size` how many bytes it is unpacked, `ratio` how many
    times more than packed, counted from 1 GiB on (0: any).
    """

    entries: int = 1_000_000
    size: int = 64 << 30
    ratio: int = 10_000


@dataclass(frozen=True, slots=True)
class Volume:
    """One `--volume`: a host directory or file that commands find at `target`, read-only or not."""

    source: Path
    target: str
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How commands run: those of RUN, and of `run`.

    `isolation` is a tier of the sandbox, `oci` for an installed `runtime` (its name or path), or
    `auto`. `allow` holds what a Dockerfile may ask for beyond the usual: `network.host`,
    `security.insecure`, `device`, `device=NAME`. `add_hosts` are names and addresses for
    /etc/hosts; `dns`, `dns_search` and `dns_options` make /etc/resolv.conf. `shm_size`, `memory`
    and a limit of `ulimits` (name, soft, hard; -1 is none) are in bytes where they are sizes, `cpus`
    counts processors, `pids_limit` processes, `timeout` seconds for each step. `cap_add` and
    `cap_drop` change docker's capabilities. `devices` are written HOST[:TARGET[:rwm]] or are CDI
    names. With `on_fail` "shell", a step that fails is followed by a shell in what it left.
    """

    isolation: str = "auto"
    runtime: str | None = None
    allow: tuple[str, ...] = ()
    add_hosts: tuple[tuple[str, str], ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    shm_size: int = 64 << 20
    ulimits: tuple[tuple[str, int, int], ...] = ()
    memory: int | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    volumes: tuple[Volume, ...] = ()
    timeout: float | None = None
    on_fail: Literal["stop", "shell"] = "stop"
    allow_secret_in_layer: bool = False


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Everything a build can be told.

    `context` is a folder, the text of a URL or git repository, or an open file with a tar or a
    Dockerfile. `dockerfile` is a path, a URL or an open file; it defaults to `Dockerfile` (then
    `dockerfile`) in the context. `build_contexts` maps a name of FROM or COPY --from to a source
    (`oci-layout://`, `docker-image://`, `host://`, a directory, a URL or a git repository). `source_date_epoch` clamps newer times of what the build makes,
    in seconds since 1970, and is the build argument SOURCE_DATE_EPOCH unless `build_args` has
    one. `search_path` is where `host://` looks for programs. `secrets` and `ssh` are lent to ADD
    of URLs and repositories and to RUN; they are never part of what is built. `download_limit`
    is the largest file that ADD fetches, in bytes. `run` says how RUN steps run.
    """

    context: Path | str | BinaryIO
    dockerfile: Path | str | BinaryIO | None = None
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str] = field(default_factory=dict)
    build_contexts: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    platform: str | None = None
    no_cache: bool = False
    pull: bool = False
    push: bool = False
    network: NetworkMode = "default"
    outputs: tuple[Output, ...] = ()
    iidfile: Path | None = None
    metadata_file: Path | None = None
    source_date_epoch: int | None = None
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[SshAgent, ...] = ()
    download_limit: int = 16 << 30
    store: Path | None = None
    registry: RegistryOptions = field(default_factory=RegistryOptions)
    search_path: str = STANDARD_PATH
    archive_limits: ArchiveLimits = field(default_factory=ArchiveLimits)
    run: RunOptions = field(default_factory=RunOptions)
