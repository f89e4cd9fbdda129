"""A shell in what a failed step left, for the user at the terminal: `--on-fail=shell`."""

from contextlib import closing, suppress
from dataclasses import replace

from imgbuild.build.console import Console, is_possible
from imgbuild.build.runsetup import RunContext, prepared
from imgbuild.errors import ImageError, ImgbuildError, StepFailedError
from imgbuild.events import Notice, ShellOpened
from imgbuild.plan.model import RunStep
from imgbuild.snapshot.workspace import Workspace

_SHELLS = frozenset({"ash", "bash", "dash", "fish", "ksh", "mksh", "sh", "zsh"})
_BETTER = (b"bin/bash", b"usr/bin/bash")
_NO_SHELL = 127


def open_shell(
    step: RunStep, workspace: Workspace, context: RunContext, error: StepFailedError
) -> None:
    """Let the user look around in the failed root; what happens there is thrown away.

    The shell has the environment, mounts, user, working directory and network of the step.
    Without a terminal it is only said why there is no shell: `error` has to be raised anyway.
    """
    streams = context.streams
    if streams is None or not is_possible(streams):
        context.events(Notice("no shell is opened for the failed step: there is no terminal"))
        return
    try:
        status = _run(step, workspace, context, error)
    except ImgbuildError as problem:
        context.events(Notice(f"no shell can be opened for the failed step: {problem.message}"))
        return
    if status == _NO_SHELL:
        context.events(Notice("the shell ended with 127: is there one in the image?"))


def _run(step: RunStep, workspace: Workspace, context: RunContext, error: StepFailedError) -> int:
    assert context.streams is not None  # noqa: S101  asked for by the caller
    workspace.renew()
    shell = find_shell(step, workspace)
    with prepared(step, workspace, context) as failed:
        env = tuple({"TERM": "xterm", **dict(failed.env)}.items())
        spec = replace(failed, argv=(shell,), env=env, interactive=True, terminal=True)
        with (
            context.commands.ready(spec, step.network, step.devices) as command,
            closing(Console(context.streams)) as console,
        ):
            context.events(ShellOpened(context.number, _message(error, shell)))
            running = command.start(workspace, console.streams)
            try:
                with console.joined():
                    return running.wait()
            except BaseException:
                running.kill()
                raise


def find_shell(step: RunStep, workspace: Workspace) -> str:
    """Choose the step's own SHELL, but rather bash than sh where the image has it."""
    name = step.argv[0].rpartition("/")[2]
    if name in _SHELLS - {"sh"}:
        return step.argv[0]
    for path in _BETTER:
        with suppress(ImageError):
            workspace.open(path).close()
            return "/" + path.decode()
    return step.argv[0] if name == "sh" else "/bin/sh"


def _message(error: StepFailedError, shell: str) -> str:
    return (
        f"{error.message}\n"
        f"{shell} in what the step left. What you change is thrown away; "
        "exit (or Ctrl-D) ends the build."
    )
