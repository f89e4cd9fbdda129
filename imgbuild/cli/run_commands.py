"""`imgbuild run`."""

from pathlib import Path

import click

from imgbuild.cli.arguments import store_option
from imgbuild.errors import ImgbuildError

# docker's own failures in `docker run`, as told from those of the command.
_OWN_FAILURE = 125


@click.command("run", context_settings={"ignore_unknown_options": True})
@store_option
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run_command(store: Path, image: str, command: tuple[str, ...]) -> None:
    """Run IMAGE's command, or COMMAND, in a throw-away root.

    Standard input and output are passed through and the exit status is kept; 125 says that
    imgbuild itself failed.
    """
    from imgbuild import api
    from imgbuild.cli import report

    try:
        status = api.run(image, command, store=store)
    except ImgbuildError as error:
        report.show(error)
        status = _OWN_FAILURE
    raise click.exceptions.Exit(status)
