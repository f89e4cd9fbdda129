"""`imgbuild run`: an image's command in the sandbox, on an upper directory that is thrown away."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial

from imgbuild.build import netfiles, users
from imgbuild.build.accounts import Accounts
from imgbuild.build.commands import Command, Commands
from imgbuild.build.console import Console, Streams, is_possible, write_all
from imgbuild.build.images import load_image
from imgbuild.build.output import TIMED_OUT, Pipes, Stream, TimedOut, follow
from imgbuild.build.platforms import host_platform
from imgbuild.build.remedies import out_of_memory
from imgbuild.build.rootfs import Rootfs
from imgbuild.errors import StepFailedError, UsageError
from imgbuild.events import EventSink, Notice
from imgbuild.oci.config import RunConfig
from imgbuild.oci.descriptor import Descriptor
from imgbuild.options import STANDARD_PATH, NetworkMode, RunOptions
from imgbuild.sandbox.session import Running
from imgbuild.sandbox.spec import SandboxSpec
from imgbuild.snapshot.workspace import Workspace
from imgbuild.store.store import Store


@dataclass(frozen=True, slots=True)
class Changed:
    """What a caller wants otherwise than the image's config has it; None is as there.

    `command` takes the place of CMD and follows ENTRYPOINT; an `entrypoint` drops CMD. `env` is
    added. `readonly` lets the command write to nothing but volumes and /dev.
    """

    command: Sequence[str] = ()
    entrypoint: Sequence[str] | None = None
    user: str | None = None
    workdir: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    hostname: str | None = None
    readonly: bool = False
    network: NetworkMode = "default"


def run_image(
    store: Store,
    rootfs: Rootfs,
    name: str,
    root: Descriptor,
    changed: Changed,
    options: RunOptions,
    streams: Streams,
    events: EventSink,
    *,
    tty: bool = False,
) -> int:
    """Run an image's command as `changed` and return its exit status (128 + N for signal N).

    `streams` are the descriptors of standard input, output and error; with `tty` the command
    gets a terminal of its own where they are one. Raises `SandboxError`, `UsageError` when there
    is nothing to run, and `StepFailedError` when `options` have a timeout and it is over.
    """
    image = load_image(store.blobs, name, root, host_platform())
    run = image.config.run
    argv = _argv(name, run, changed)
    hostname = changed.hostname or netfiles.HOSTNAME
    with ExitStack() as stack:
        roots = rootfs.open(lambda: commands.files(hostname))
        stack.enter_context(roots)
        commands = Commands(options, rootfs.search_path, lambda: roots.session, events)
        stack.callback(commands.close)
        if changed.network == "default":
            commands.networks.begin()
        workspace = stack.enter_context(roots.workspace(image.layers))
        tier = roots.session.tier
        if tier.enter == "chroot":  # what keeps it apart is not what one expects of `run`
            events(Notice(f"the command runs in {tier.describe()}; {tier.lacks()}"))
        spec = _spec(run, changed, argv, hostname, workspace, terminal=tty and is_possible(streams))
        command = stack.enter_context(commands.ready(spec, changed.network))
        status = _run(workspace, command, streams, options.timeout, tty=tty)
        if status and command.ran_out_of_memory:
            events(Notice(f"the command ran out of memory: {out_of_memory(options.memory)}"))
        return status


def _argv(name: str, run: RunConfig, changed: Changed) -> tuple[str, ...]:
    if changed.entrypoint is not None:
        argv = (*changed.entrypoint, *changed.command)
    else:
        argv = (*(run.entrypoint or ()), *(changed.command or run.cmd or ()))
    if not argv:
        raise UsageError(f"{name} has no command", hint=f"give one: imgbuild run {name} COMMAND")
    if not argv[0]:
        raise UsageError(
            f"the command of {name} is an empty text", hint=f"give one: imgbuild run {name} COMMAND"
        )
    return argv


def _spec(
    run: RunConfig,
    changed: Changed,
    argv: Sequence[str],
    hostname: str,
    workspace: Workspace,
    *,
    terminal: bool,
) -> SandboxSpec:
    user = run.user if changed.user is None else changed.user
    who = users.run_user(Accounts().reader(workspace), user)
    env = {"PATH": STANDARD_PATH, "HOME": who.home, **dict(run.env), **changed.env}
    if terminal:
        env.setdefault("TERM", "xterm")
    return SandboxSpec(
        tuple(argv),
        tuple(env.items()),
        cwd=changed.workdir or run.working_dir or "/",
        uid=who.uid,
        gid=who.gid,
        groups=tuple(who.groups),
        hostname=hostname,
        interactive=True,
        terminal=terminal,
        readonly=changed.readonly,
    )


def _run(
    workspace: Workspace, command: Command, streams: Streams, timeout: float | None, *, tty: bool
) -> int:
    start = partial(command.start, workspace)
    if not (tty and is_possible(streams)):
        return _relayed(start, streams, timeout)
    with closing(Console(streams)) as console:
        running = start(console.streams)
        with console.joined():
            return _wait(running, timeout)


def _relayed(start: Callable[[Streams], Running], streams: Streams, timeout: float | None) -> int:
    """Give the command pipes, as docker does: it could not open /dev/stdout of somebody else."""
    places: Mapping[Stream, int] = {"stdout": streams[1], "stderr": streams[2]}

    def show(stream: Stream, data: bytes) -> None:
        write_all(places[stream], data)

    with Pipes() as pipes:
        # What goes to one place comes in the order in which it was written.
        one = os.path.sameopenfile(streams[1], streams[2])
        running = start(
            (streams[0], pipes.out_writer, pipes.out_writer if one else pipes.err_writer)
        )
        pipes.close_writers()
        try:
            return follow(running, pipes, show, timeout=timeout)[0]
        except BrokenPipeError:  # the reader went away, which ends the command
            return 128 + signal.SIGPIPE
        except TimedOut:
            raise _late(timeout) from None


def _wait(running: Running, timeout: float | None) -> int:
    try:
        status = running.wait(timeout)
        if status is not None:
            return status
        running.kill()
        running.wait()
    except BaseException:
        running.kill()
        raise
    raise _late(timeout)


def _late(timeout: float | None) -> StepFailedError:
    return StepFailedError(
        f"the command timed out after {timeout or 0:g} s",
        status=TIMED_OUT,
        hint="give it more time with --timeout",
    )
