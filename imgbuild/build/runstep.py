"""RUN: a command in the sandbox, its output as events, its changes as a layer."""

import os
import selectors
from collections.abc import Callable
from typing import NamedTuple

from imgbuild.build import users
from imgbuild.build.accounts import Accounts
from imgbuild.build.commit import LayerMaker
from imgbuild.build.remedies import remedy
from imgbuild.dockerfile.quoting import quote
from imgbuild.errors import StepFailedError
from imgbuild.events import EventSink, StepOutput
from imgbuild.layer.entry import Entry
from imgbuild.oci.descriptor import Layer
from imgbuild.options import STANDARD_PATH
from imgbuild.plan.model import SCRIPTS, RunStep
from imgbuild.sandbox.session import Running
from imgbuild.snapshot.workspace import Workspace

# How much of the last output an error keeps.
_TAIL = 64 << 10
_CHUNK = 64 << 10


class RunContext(NamedTuple):
    """What a RUN needs beside its step.

    `number` is its number in events; `foreign` the platform of the image when it is not this
    machine's, else empty.
    """

    events: EventSink
    number: int
    clamp: int | None
    single_id: bool
    make_layer: Callable[[], LayerMaker]
    accounts: Accounts
    foreign: str = ""


def run_layer(step: RunStep, workspace: Workspace, context: RunContext) -> Layer:
    """Run the command of `step` and return the layer of its changes.

    Raises `StepFailedError` when the command fails, `SandboxError` when it cannot be started.
    """
    status, tail = _run(step, workspace, context)
    if status != 0:
        raise StepFailedError(
            f"process {_shown(step)} did not complete successfully: exit code: {status}",
            status=status,
            output=tail,
            hint=remedy(status, tail, single_id=context.single_id, foreign=context.foreign),
            span=step.span,
        )
    with context.make_layer() as maker:

        def index(entry: Entry) -> None:
            context.accounts.note(entry)
            maker.index.add(entry)

        workspace.changes(maker.write, index, clamp=context.clamp, settle=True)
        layer = maker.finish()
    workspace.keep(layer.diff_id)
    return layer


def _shown(step: RunStep) -> str:
    return quote(" ".join(step.argv))


def _run(step: RunStep, workspace: Workspace, context: RunContext) -> tuple[int, bytes]:
    who = _who(step, workspace, context.accounts)
    env = dict(step.env)
    env.setdefault("PATH", STANDARD_PATH)
    env.setdefault("HOME", who.home)
    pairs = (*env.items(), *(pair for pair in step.hidden_env if pair[0] not in env))
    mounts = []
    if step.script is not None:
        target = f"{SCRIPTS}/{step.script.name}"
        mounts.append(workspace.add_script(step.script.content, target))
    out, err = _Pipe(), _Pipe()
    stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        running = workspace.run(
            step.argv,
            pairs,
            stdin=stdin,
            stdout=out.writer,
            stderr=err.writer,
            cwd=step.cwd or "/",
            uid=who.uid,
            gid=who.gid,
            groups=who.groups,
            network="none" if step.network == "none" else "host",
            mounts=mounts,
        )
        out.close_writer()
        err.close_writer()
        return _follow(running, out, err, context)
    finally:
        os.close(stdin)
        out.close()
        err.close()


def _who(step: RunStep, workspace: Workspace, accounts: Accounts) -> users.RunUser:
    try:
        return users.run_user(accounts.reader(workspace), step.user)
    except users.UnknownUserError as error:
        raise users.UnknownUserError(
            f"process {_shown(step)} did not complete successfully: {error.message}",
            hint=error.hint,
        ) from None


class _Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        self.close_writer()
        os.close(self.reader)


def _follow(running: Running, out: _Pipe, err: _Pipe, context: RunContext) -> tuple[int, bytes]:
    """Pass output on until both streams end; return the status and the last of the output."""
    tail = bytearray()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(out.reader, selectors.EVENT_READ, "stdout")
            selector.register(err.reader, selectors.EVENT_READ, "stderr")
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, _CHUNK)
                    if not data:
                        selector.unregister(key.fd)
                        continue
                    context.events(StepOutput(context.number, key.data, data))
                    tail += data
                    del tail[:-_TAIL]
        return running.wait(), bytes(tail)
    except BaseException:
        running.kill()
        raise
