"""`imgbuild run`."""

from pathlib import Path
from typing import Any

import click

from imgbuild.cli.arguments import store_option
from imgbuild.cli.running import environment_pairs, run_fields, run_options
from imgbuild.cli.sections import SectionedCommand
from imgbuild.errors import ImgbuildError
from imgbuild.options import NetworkMode

# docker's own failures in `docker run`, as told from those of the command.
_OWN_FAILURE = 125
_FILE = click.Path(dir_okay=False, path_type=Path)


# Options end at IMAGE, as with docker: what follows it is the command's.
@click.command("run", cls=SectionedCommand, context_settings={"allow_interspersed_args": False})
@click.option("--rm", is_flag=True, expose_value=False, help="For docker's sake: always so.")
@click.option(
    "-i",
    "--interactive",
    is_flag=True,
    expose_value=False,
    help="For docker's sake: standard input is always passed through.",
)
@click.option(
    "-t",
    "--tty",
    is_flag=True,
    help="Give the command a terminal of its own, with job control, where this is one.",
)
@click.option("-u", "--user", metavar="USER[:GROUP]", help="The user of the command.")
@click.option("-w", "--workdir", metavar="DIR", help="Its directory; made where it is missing.")
@click.option(
    "-e",
    "--env",
    metavar="NAME[=VALUE]",
    multiple=True,
    help="Set a variable; without a value, to that of the environment.",
)
@click.option(
    "--env-file",
    "env_files",
    metavar="FILE",
    type=_FILE,
    multiple=True,
    help="Set the variables that stand in a file, one a line.",
)
@click.option("--entrypoint", metavar="PROGRAM", help="Take the place of ENTRYPOINT and CMD.")
@click.option("--hostname", metavar="NAME", help="The name of the host in there.")
@click.option("--read-only", is_flag=True, help="Let the command write to volumes and /dev only.")
@click.option(
    "--network",
    type=click.Choice(["default", "host", "none"]),
    default="default",
    show_default=True,
    help="The network of the command.",
)
@run_options
@store_option
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run_command(
    *,
    store: Path,
    tty: bool,
    image: str,
    command: tuple[str, ...],
    user: str | None,
    workdir: str | None,
    env: tuple[str, ...],
    env_files: tuple[Path, ...],
    entrypoint: str | None,
    hostname: str | None,
    read_only: bool,
    network: NetworkMode,
    **flags: Any,
) -> None:
    """Run IMAGE's command, or COMMAND, in a throw-away root.

    COMMAND takes the place of CMD and follows ENTRYPOINT, as with docker. Standard input and output are passed through and the exit status is kept; 125 says that
    imgbuild itself failed.
    """
    from imgbuild import api
    from imgbuild.cli import environment, report
    from imgbuild.cli.progress import shown
    from imgbuild.errors import StepFailedError

    try:
        with shown("plain") as sink:
            status = api.run(
                image,
                command,
                store=store,
                tty=tty,
                options=run_fields(flags),
                entrypoint=None if entrypoint is None else tuple(filter(None, [entrypoint])),
                user=user,
                workdir=workdir,
                env=environment_pairs(env, env_files),
                hostname=hostname,
                network=network,
                readonly=read_only,
                search_path=environment.search_path(),
                events=sink,
            )
    except ImgbuildError as error:
        report.show(error)
        status = error.status if isinstance(error, StepFailedError) else _OWN_FAILURE
    raise click.exceptions.Exit(status)
