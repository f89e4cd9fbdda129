"""What a build reports while it goes on: frozen values, given to an `EventSink`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from imgbuild.errors import Span

# "canceled": the build was interrupted in it.
Verdict = Literal["cached", "done", "failed", "canceled"]


@dataclass(frozen=True, slots=True)
class BuildStarted:
    """The plan is made: `total` steps will be shown, numbered from 1."""

    total: int
    platform: str


@dataclass(frozen=True, slots=True)
class StepStarted:
    number: int
    name: str


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Bytes as the command of a step wrote them; decoding is the sink's business."""

    number: int
    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True, slots=True)
class StepFinished:
    """`seconds` is wall time."""

    number: int
    name: str
    verdict: Verdict
    seconds: float


@dataclass(frozen=True, slots=True)
class ShellOpened:
    """The step failed, and until it is finished its user has a shell in what it left.

    `message` says what failed and how to leave the shell.
    """

    number: int
    message: str


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """`done` of `total` bytes of `what` were moved; `done == total` ends it."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know that is not an error; a `detail` is for logs alone."""

    message: str
    detail: bool = False


@dataclass(frozen=True, slots=True)
class CheckWarning:
    """A build check found something in the Dockerfile.

    `message` is about this place, `detail` about the `rule`; `url` is a page that explains the rule,
    empty where there is none.
    """

    rule: str
    message: str
    detail: str
    url: str
    span: Span


@dataclass(frozen=True, slots=True)
class BuildFinished:
    digest: str
    names: tuple[str, ...]
    seconds: float


Event = (
    BuildStarted
    | StepStarted
    | StepOutput
    | StepFinished
    | ShellOpened
    | TransferProgress
    | Notice
    | CheckWarning
    | BuildFinished
)
EventSink = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Take an event and do nothing with it: the sink of a caller who gave none."""
