"""`imgbuild run`."""

from pathlib import Path

import click

from imgbuild.cli.arguments import store_option
from imgbuild.errors import ImgbuildError

# docker's own failures in `docker run`, as told from those of the command.
_OWN_FAILURE = 125


# Options end at IMAGE, as with docker: what follows it is the command's.
@click.command("run", context_settings={"allow_interspersed_args": False})
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
@store_option
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run_command(store: Path, tty: bool, image: str, command: tuple[str, ...]) -> None:
    """Run IMAGE's command, or COMMAND, in a throw-away root.

    COMMAND takes the place of CMD and follows ENTRYPOINT, as with docker. Standard input and output are passed through and the exit status is kept; 125 says that
    imgbuild itself failed.
    """
    from imgbuild import api
    from imgbuild.cli import report

    try:
        status = api.run(image, command, store=store, tty=tty)
    except ImgbuildError as error:
        report.show(error)
        status = _OWN_FAILURE
    raise click.exceptions.Exit(status)
