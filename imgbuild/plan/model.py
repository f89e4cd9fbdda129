"""The build plan: values that say everything about a build before anything of it runs."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, NewType

from imgbuild.errors import Span
from imgbuild.oci.config import HistoryEntry, ImageConfig
from imgbuild.oci.descriptor import Layer
from imgbuild.oci.digest import Digest
from imgbuild.oci.platform import Platform
from imgbuild.plan.gitref import GitRef

CacheKey = NewType("CacheKey", str)

# Where a command finds the here-document that is its script.
SCRIPTS = "/dev/pipes"


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image that FROM or COPY --from names, resolved: its config and layers, bottom first."""

    name: str
    digest: Digest | None
    config: ImageConfig
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class ContextSource:
    """Files come from a build context; the empty name is the main one."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class StageSource:
    """Files come from an earlier stage of this build."""

    index: int


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Files come from an image that is no stage."""

    image: BaseImage


Source = ContextSource | StageSource | ImageSource


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file that ADD fetches; `checksum` is a digest (`sha256:…`), or empty."""

    url: str
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class GitSource:
    """A repository that ADD checks out; `checksum` is a commit or the start of one, or empty."""

    repository: GitRef
    keep_git_dir: bool = False
    checksum: str = ""


RemoteSource = UrlSource | GitSource


class Document(NamedTuple):
    """A here-document as it is used: variables filled in, tabs taken off."""

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class PlannedBind:
    """Files of a source at `target`; what is written there, unless `readonly`, is thrown away.

    `path` is relative to the source's root, "" is all of it. All targets are absolute and cleaned.
    """

    source: Source
    path: str
    target: str
    readonly: bool = True


@dataclass(frozen=True, slots=True)
class PlannedCache:
    """A directory that lasts from build to build: `path` of what is kept by the name `id`.

    `mode` and the owner are of a new one; with `source`, a new one starts with its `path`.
    """

    id: str
    target: str
    sharing: Literal["shared", "private", "locked"] = "shared"
    source: Source | None = None
    path: str = ""
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class PlannedTmpfs:
    """An empty directory in memory; `size` in bytes, None for no limit of its own."""

    target: str
    size: int | None = None
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class PlannedSecret:
    """A secret as a file at `target`, in the variable `env`, or both."""

    id: str
    target: str | None
    env: str | None = None
    required: bool = False
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class PlannedSsh:
    """A socket that leads to an SSH agent of the caller."""

    id: str
    target: str
    required: bool = False
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


PlannedMount = PlannedBind | PlannedCache | PlannedTmpfs | PlannedSecret | PlannedSsh


@dataclass(frozen=True, slots=True)
class RunStep:
    """Run `argv`. `env` is complete and in order; `hidden_env` (proxies) is set but in no key or history.

    `user` is as USER has it, looked up in the root when it runs; empty is root. `script` is a
    here-document that the command finds as an executable file at `SCRIPTS/name`. `devices` are
    as --device has them. `mounts` are in the order in which they are mounted.
    """

    span: Span
    name: str
    created_by: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    hidden_env: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    network: Literal["default", "host", "none"]
    script: Document | None = None
    security: Literal["sandbox", "insecure"] = "sandbox"
    devices: tuple[str, ...] = ()
    mounts: tuple[PlannedMount, ...] = ()


@dataclass(frozen=True, slots=True)
class CopyStep:
    """COPY or ADD (`unpack`: local archives are extracted; `unpack_fetched`: those of URLs, too).

    `sources` are relative to the source's root, without leading slash, or what ADD fetches;
    `dest` is absolute and keeps a trailing slash. `documents` are copied after the sources. `chmod` is a mode, or the
    text of a symbolic one. `exclude` holds patterns, relative to each directory among the
    sources. With `link`, the layer does not depend on what is below it. With `parents`, each of
    `pivots` tells what of the source to keep: the source is then where it is relative to.
    """

    span: Span
    name: str
    created_by: str
    source: Source
    sources: tuple[str | RemoteSource, ...]
    dest: str
    chown: str | None
    chmod: int | str | None
    unpack: bool
    documents: tuple[Document, ...] = ()
    exclude: tuple[str, ...] = ()
    link: bool = False
    pivots: tuple[str, ...] | None = None
    unpack_fetched: bool = False


@dataclass(frozen=True, slots=True)
class WorkdirStep:
    """Make `path` (absolute, cleaned, not `/`) where it does not exist, owned by `user`."""

    span: Span
    name: str
    created_by: str
    path: str
    user: str


@dataclass(frozen=True, slots=True)
class MetaStep:
    """Only a line of history: the config was folded when the plan was made."""

    span: Span
    created_by: str


Step = RunStep | CopyStep | WorkdirStep | MetaStep


@dataclass(frozen=True, slots=True)
class ScratchBase:
    """FROM scratch: no layers."""


@dataclass(frozen=True, slots=True)
class StageBase:
    """FROM an earlier stage."""

    index: int


Base = ScratchBase | StageBase | BaseImage


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage that the target needs.

    `config` is final but for diff ids, history and times, which the engine fills in;
    `base_history` is what a base image brought: empty for scratch and for a stage as the base,
    whose history, with its times, is known once that stage is built. `title` is the progress name
    of its FROM (`[build 1/5] FROM docker.io/library/debian:12@sha256:…`), None where there is
    nothing to fetch: scratch, a stage, an image without layers.
    """

    index: int
    name: str
    span: Span
    base: Base
    title: str | None
    steps: tuple[Step, ...]
    config: ImageConfig
    base_history: tuple[HistoryEntry, ...]


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """The stages that the target needs, in the order in which they can be built.

    `source_date_epoch` is what the Dockerfile or a build argument sets, in seconds since 1970.
    """

    platform: Platform
    stages: tuple[Stage, ...]
    target: int
    source_date_epoch: int | None = None

    def stage(self, index: int) -> Stage:
        """Return the stage with the Dockerfile's number `index`."""
        return next(stage for stage in self.stages if stage.index == index)
