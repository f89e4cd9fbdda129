"""`imgbuild cache`."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import click

from imgbuild.cli.arguments import store_option
from imgbuild.cli.text import escaped, size
from imgbuild.errors import UsageError


@click.group("cache", invoke_without_command=True)
@click.pass_context
def cache_command(context: click.Context) -> None:
    """Look after what is kept from build to build."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cache_command.group(
    "mount",
    short_help="Look after what RUN --mount=type=cache keeps.",
    invoke_without_command=True,
)
@click.pass_context
def mount_command(context: click.Context) -> None:
    """List, export, import and remove what RUN --mount=type=cache keeps.

    ID is that of the mount, which is its target unless it has an id.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@mount_command.command("ls")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls_command(store: Path, as_json: bool) -> None:
    """List cache mounts, with the space they take."""
    from imgbuild import api

    with api.cache_mounts(store=store) as mounts:
        found = mounts.list()
    if as_json:
        click.echo(json.dumps([asdict(mount) for mount in found], indent=2))
        return
    if not found:
        click.echo("no cache mounts yet; RUN --mount=type=cache,target=DIR makes one")
        return
    shown = [escaped(mount.id) for mount in found]
    width = max(len("ID"), *map(len, shown))
    click.echo(f"{'ID':{width}}  {'LAST USED':20}  {'SIZE':>8}")
    for text, mount in zip(shown, found, strict=True):
        used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(mount.used))
        state = "  in use" if mount.in_use else ""
        click.echo(f"{text:{width}}  {used:20}  {size(mount.size):>8}{state}")


@mount_command.command("export")
@click.argument("name", metavar="ID")
@click.argument("file", metavar="FILE|-", type=click.Path(path_type=Path, allow_dash=True))
@store_option
def export_command(name: str, file: Path, store: Path) -> None:
    """Write what ID holds to FILE (- is standard output), as a tar."""
    from imgbuild import api

    if str(file) == "-" and sys.stdout.isatty():
        raise UsageError("a tar is not for a terminal", hint="name a file, or use a pipe")
    with api.cache_mounts(store=store) as mounts:
        if str(file) == "-":
            mounts.export(name, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        mounts.export_to(name, file)


@mount_command.command("import")
@click.argument("name", metavar="ID")
@click.argument("file", metavar="FILE|-", type=click.Path(path_type=Path, allow_dash=True))
@store_option
def import_command(name: str, file: Path, store: Path) -> None:
    """Let ID hold what the tar FILE (- is standard input) has, and nothing else."""
    from imgbuild import api

    with api.cache_mounts(store=store) as mounts, _opened(file) as stream:
        mounts.import_(name, stream)


@mount_command.command("rm")
@click.argument("names", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove all cache mounts.")
@store_option
def rm_command(names: tuple[str, ...], everything: bool, store: Path) -> None:
    """Remove cache mounts; the next build starts them anew."""
    from imgbuild import api

    if everything == bool(names):
        raise UsageError("name either cache mounts or --all", hint="see imgbuild cache mount ls")
    with api.cache_mounts(store=store) as mounts:
        if everything:
            mounts.remove_all()
        else:
            mounts.remove(names)


def _opened(file: Path) -> BinaryIO:
    if str(file) == "-":
        return sys.stdin.buffer
    try:
        return file.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", hint="name a tar") from None
