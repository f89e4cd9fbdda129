"""RUN: a command in the sandbox, its output as events, its changes as a layer."""

import os
import selectors

from imgbuild.build.remedies import remedy
from imgbuild.build.runsetup import RunContext, prepared, shown
from imgbuild.errors import StepFailedError
from imgbuild.events import StepOutput
from imgbuild.layer.entry import Entry
from imgbuild.oci.descriptor import Layer
from imgbuild.plan.model import RunStep
from imgbuild.sandbox.session import Running
from imgbuild.snapshot.workspace import Workspace

# How much of the last output an error keeps.
_TAIL = 64 << 10
_CHUNK = 64 << 10


def run_layer(step: RunStep, workspace: Workspace, context: RunContext) -> Layer:
    """Run the command of `step` and return the layer of its changes.

    Raises `StepFailedError` when the command fails, `SandboxError` when it cannot be started.
    """
    status, tail = _run(step, workspace, context)
    if status != 0:
        raise StepFailedError(
            f"process {shown(step)} did not complete successfully: exit code: {status}",
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


def _run(step: RunStep, workspace: Workspace, context: RunContext) -> tuple[int, bytes]:
    out, err = _Pipe(), _Pipe()
    stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with prepared(step, workspace, context) as spec:
            running = workspace.run(spec, stdin=stdin, stdout=out.writer, stderr=err.writer)
            out.close_writer()
            err.close_writer()
            return _follow(running, out, err, context)
    finally:
        os.close(stdin)
        out.close()
        err.close()


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
