"""`imgbuild pull` and `imgbuild push`."""

from pathlib import Path

import click

from imgbuild.cli import environment
from imgbuild.cli.arguments import progress_option, store_option
from imgbuild.cli.progress import shown
from imgbuild.options import ProgressMode


@click.command("pull")
@click.argument("name")
@click.option("--platform", metavar="OS/ARCH", help="The platform to pull (default: this host's).")
@store_option
@progress_option
def pull_command(name: str, platform: str | None, store: Path, progress: ProgressMode) -> None:
    """Copy the image NAME from its registry into the local store."""
    from imgbuild import api

    registry = environment.registry_options()
    with shown(progress) as sink:
        info = api.pull(name, platform=platform, store=store, registry=registry, events=sink)
    click.echo(info.name if "@" in info.name else f"{info.name}@{info.digest}")


@click.command("push")
@click.argument("name")
@click.argument("dest", required=False)
@store_option
@progress_option
def push_command(name: str, dest: str | None, store: Path, progress: ProgressMode) -> None:
    """Copy the image NAME to its registry, or to DEST."""
    from imgbuild import api

    registry = environment.registry_options()
    with shown(progress) as sink:
        digest = api.push(name, dest, store=store, registry=registry, events=sink)
    click.echo(f"{dest or name}@{digest}")
