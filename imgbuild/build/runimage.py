"""`imgbuild run`: an image's command in the sandbox, on an upper directory that is thrown away."""

import os
from collections.abc import Sequence
from contextlib import closing

from imgbuild.build import users
from imgbuild.build.accounts import Accounts
from imgbuild.build.console import Console, Streams, is_possible
from imgbuild.build.images import load_image
from imgbuild.build.platforms import host_platform
from imgbuild.build.rootfs import Rootfs
from imgbuild.errors import UsageError
from imgbuild.oci.descriptor import Descriptor
from imgbuild.options import STANDARD_PATH
from imgbuild.sandbox.session import Running
from imgbuild.sandbox.spec import SandboxSpec
from imgbuild.store.store import Store


def run_image(
    store: Store,
    rootfs: Rootfs,
    name: str,
    root: Descriptor,
    command: Sequence[str],
    streams: Streams,
    *,
    tty: bool = False,
) -> int:
    """Run `command`, or the image's own, and return its exit status (128 + N for signal N).

    As with `docker run`, a command takes the place of CMD and follows ENTRYPOINT. `streams` are
    the descriptors of standard input, output and error; with `tty` the command gets a terminal
    of its own where they are one. Raises `SandboxError`, and `UsageError` when there is nothing
    to run.
    """
    image = load_image(store.blobs, name, root, host_platform())
    run = image.config.run
    argv = (*(run.entrypoint or ()), *(command or run.cmd or ()))
    if not argv:
        raise UsageError(f"{name} has no command", hint=f"give one: imgbuild run {name} COMMAND")
    if not argv[0]:
        raise UsageError(
            f"the command of {name} is an empty text", hint=f"give one: imgbuild run {name} COMMAND"
        )
    with rootfs.open() as roots, roots.workspace(image.layers) as workspace:
        who = users.run_user(Accounts().reader(workspace), run.user)
        env = {"PATH": STANDARD_PATH, "HOME": who.home, **dict(run.env)}
        if os.isatty(streams[1]):
            env.setdefault("TERM", "xterm")

        def start(given: Streams) -> Running:
            spec = SandboxSpec(
                argv,
                tuple(env.items()),
                cwd=run.working_dir or "/",
                uid=who.uid,
                gid=who.gid,
                groups=tuple(who.groups),
                interactive=True,
            )
            return workspace.run(spec, stdin=given[0], stdout=given[1], stderr=given[2])

        if not (tty and is_possible(streams)):
            return _wait(start(streams))
        with closing(Console(streams)) as console:
            running = start(console.streams)
            with console.joined():
                return _wait(running)


def _wait(running: Running) -> int:
    try:
        return running.wait()
    except BaseException:
        running.kill()
        raise
