"""One frozen record per Dockerfile instruction, as written: nothing here is expanded.

Source of the rules: https://docs.docker.com/reference/dockerfile/ and BuildKit's
frontend/dockerfile/instructions.
"""

from dataclasses import dataclass

from imgbuild.errors import Span


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document: `expand` is false when its delimiter was quoted; `chomp` for `<<-`.

    Of a `<<-` document, COPY and ADD have the content without leading tabs, RUN as it stands.
    """

    name: str
    content: str
    expand: bool
    chomp: bool
    fd: int = 0


@dataclass(frozen=True, slots=True)
class Command:
    """The argument of RUN, CMD and ENTRYPOINT.

    The shell form has one element, the text; the exec form has the JSON array's elements.
    """

    args: tuple[str, ...]
    shell: bool
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class From:
    span: Span
    image: str
    name: str | None = None
    platform: str | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Arg:
    """`args` holds (name, default); a default of None means none was written.

    `comments` holds a description for each of `args`, from comments of the form `# name text`;
    `comment` is the first of them.
    """

    span: Span
    args: tuple[tuple[str, str | None], ...]
    comment: str = ""
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Env:
    """`legacy` tells the form `ENV key rest of line`."""

    span: Span
    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    span: Span
    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Maintainer:
    span: Span
    name: str


@dataclass(frozen=True, slots=True)
class Run:
    """`mounts` and `devices` hold the raw text of each --mount and --device, in order."""

    span: Span
    command: Command
    mounts: tuple[str, ...] = ()
    network: str | None = None
    security: str | None = None
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cmd:
    span: Span
    command: Command


@dataclass(frozen=True, slots=True)
class Entrypoint:
    span: Span
    command: Command


@dataclass(frozen=True, slots=True)
class Copy:
    """`sources` leaves out here-documents, which are in `heredocs`."""

    span: Span
    sources: tuple[str, ...]
    dest: str
    heredocs: tuple[Heredoc, ...] = ()
    from_: str | None = None
    chown: str | None = None
    chmod: str | None = None
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Add:
    span: Span
    sources: tuple[str, ...]
    dest: str
    heredocs: tuple[Heredoc, ...] = ()
    chown: str | None = None
    chmod: str | None = None
    link: bool = False
    exclude: tuple[str, ...] = ()
    keep_git_dir: bool | None = None
    checksum: str | None = None
    unpack: bool | None = None


@dataclass(frozen=True, slots=True)
class Workdir:
    span: Span
    path: str


@dataclass(frozen=True, slots=True)
class User:
    span: Span
    user: str


@dataclass(frozen=True, slots=True)
class Expose:
    span: Span
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Volume:
    span: Span
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopSignal:
    span: Span
    signal: str


@dataclass(frozen=True, slots=True)
class Shell:
    span: Span
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """`test` is the config's Test list; durations are in nanoseconds, 0 where not given."""

    span: Span
    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class OnBuild:
    """`text` is the trigger as written, here-documents included."""

    span: Span
    text: str


StageInstruction = (
    Arg
    | Env
    | Label
    | Maintainer
    | Run
    | Cmd
    | Entrypoint
    | Copy
    | Add
    | Workdir
    | User
    | Expose
    | Volume
    | StopSignal
    | Shell
    | Healthcheck
    | OnBuild
)
Instruction = From | StageInstruction


@dataclass(frozen=True, slots=True)
class StageText:
    """A FROM and what follows it up to the next one."""

    from_: From
    instructions: tuple[StageInstruction, ...]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A parsed Dockerfile.

    `source` is the text it was parsed from, `file` its name for messages. `global_args`
    are the ARGs before the first FROM. `directives` are the parser directives found at the top.
    """

    file: str
    source: str
    escape: str
    global_args: tuple[Arg, ...]
    stages: tuple[StageText, ...]
    directives: tuple[tuple[str, str], ...] = ()
