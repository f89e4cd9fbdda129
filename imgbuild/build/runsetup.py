"""What a RUN step gets, from its plan and the options of the build: a spec for the sandbox."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from imgbuild.build import users
from imgbuild.build.accounts import Accounts
from imgbuild.build.commands import Commands
from imgbuild.build.commit import LayerMaker
from imgbuild.build.secrets import Secrets
from imgbuild.dockerfile.quoting import quote
from imgbuild.events import EventSink
from imgbuild.options import STANDARD_PATH, RunOptions
from imgbuild.plan.model import SCRIPTS, RunStep
from imgbuild.sandbox.spec import Mount, SandboxSpec
from imgbuild.snapshot.workspace import Workspace

if TYPE_CHECKING:
    from imgbuild.build.runmounts import Brought


class RunContext(NamedTuple):
    """What a RUN needs beside its step.

    `number` is its number in events; `foreign` the platform of the image when it is not this
    machine's, else empty. `streams` are the user's, for a shell in a step that failed.
    """

    events: EventSink
    number: int
    clamp: int | None
    single_id: bool
    make_layer: Callable[[], LayerMaker]
    accounts: Accounts
    options: RunOptions
    secrets: Secrets
    commands: Commands
    foreign: str = ""
    make_mounts: "Callable[[Workspace, ExitStack], Brought] | None" = None
    streams: tuple[int, int, int] | None = None

    @property
    def has_terminal(self) -> bool:
        """Whether somebody sits there to whom a shell could be given."""
        return self.streams is not None and all(map(os.isatty, self.streams[:2]))


@contextmanager
def prepared(step: RunStep, workspace: Workspace, context: RunContext) -> Iterator[SandboxSpec]:
    """Give the spec of a step; what it needs while the command runs is there inside the block."""
    who = _who(step, workspace, context.accounts)
    env = dict(step.env)
    env.setdefault("PATH", STANDARD_PATH)
    env.setdefault("HOME", who.home)
    pairs = (*env.items(), *(pair for pair in step.hidden_env if pair[0] not in env))
    with ExitStack() as stack:
        mounts: list[Mount] = []
        if step.script is not None:
            target = f"{SCRIPTS}/{step.script.name}"
            mounts.append(workspace.add_script(step.script.content, target))
        if context.make_mounts is not None:
            brought = context.make_mounts(workspace, stack)
            mounts += brought.mounts
            pairs = tuple({**dict(pairs), **dict(brought.env)}.items())
        yield SandboxSpec(
            step.argv,
            pairs,
            cwd=step.cwd or "/",
            uid=who.uid,
            gid=who.gid,
            groups=tuple(who.groups),
            insecure=step.security == "insecure",
            mounts=tuple(mounts),
        )


def shown(step: RunStep) -> str:
    """Return the command as errors show it."""
    return quote(" ".join(step.argv))


def _who(step: RunStep, workspace: Workspace, accounts: Accounts) -> users.RunUser:
    try:
        return users.run_user(accounts.reader(workspace), step.user)
    except users.UnknownUserError as error:
        raise users.UnknownUserError(
            f"process {shown(step)} did not complete successfully: {error.message}",
            hint=error.hint,
        ) from None
