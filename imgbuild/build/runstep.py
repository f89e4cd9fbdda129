"""RUN: a command in the sandbox, its output as events, its changes as a layer."""

import os
from typing import NamedTuple

from imgbuild.build.output import TIMED_OUT, Pipes, Stream, TimedOut, follow
from imgbuild.build.remedies import remedy
from imgbuild.build.runsetup import RunContext, prepared, shown
from imgbuild.errors import StepFailedError
from imgbuild.events import StepOutput
from imgbuild.layer.entry import Entry
from imgbuild.oci.descriptor import Layer
from imgbuild.plan.model import RunStep
from imgbuild.snapshot.workspace import Workspace


class _Outcome(NamedTuple):
    """How a command ended; `tail` is the last of its output."""

    status: int
    tail: bytes
    out_of_memory: bool


def run_layer(step: RunStep, workspace: Workspace, context: RunContext) -> Layer:
    """Run the command of `step` and return the layer of its changes.

    Raises `StepFailedError` when the command fails or takes too long, `SandboxError` when it
    cannot be started.
    """
    try:
        _succeed(step, workspace, context)
    except StepFailedError as error:
        if context.options.on_fail == "shell":
            from imgbuild.build.aftermath import open_shell

            open_shell(step, workspace, context, error)
        raise
    with context.make_layer() as maker:

        def index(entry: Entry) -> None:
            context.accounts.note(entry)
            maker.index.add(entry)

        workspace.changes(maker.write, index, clamp=context.clamp, settle=True)
        layer = maker.finish()
    workspace.keep(layer.diff_id)
    return layer


def _succeed(step: RunStep, workspace: Workspace, context: RunContext) -> None:
    ended = _run(step, workspace, context)
    if ended.status != 0:
        raise StepFailedError(
            f"process {shown(step)} did not complete successfully: exit code: {ended.status}",
            status=ended.status,
            output=ended.tail,
            hint=_hint(ended, context),
            span=step.span,
        )


def _hint(ended: _Outcome, context: RunContext) -> str | None:
    known = remedy(
        ended.status,
        ended.tail,
        single_id=context.single_id,
        foreign=context.foreign,
        memory=context.options.memory if ended.out_of_memory else None,
    )
    if known or context.options.on_fail == "shell" or not context.has_terminal:
        return known
    return "--on-fail=shell opens a shell in what a failed step left"


def _run(step: RunStep, workspace: Workspace, context: RunContext) -> _Outcome:
    def show(stream: Stream, data: bytes) -> None:
        context.events(StepOutput(context.number, stream, data))

    commands, timeout = context.commands, context.options.timeout
    stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with (
            Pipes() as pipes,
            prepared(step, workspace, context) as spec,
            commands.ready(spec, step.network, step.devices) as command,
        ):
            running = command.start(workspace, (stdin, pipes.out_writer, pipes.err_writer))
            pipes.close_writers()
            secrets = context.secrets.lent.values()
            status, tail = follow(running, pipes, show, secrets=secrets, timeout=timeout)
            return _Outcome(status, tail, command.ran_out_of_memory)
    except TimedOut as late:
        raise StepFailedError(
            f"process {shown(step)} timed out after {timeout:g} s",
            status=TIMED_OUT,
            output=late.tail,
            hint="give it more time with --timeout, or see above what it was waiting for",
            span=step.span,
        ) from None
    finally:
        os.close(stdin)
