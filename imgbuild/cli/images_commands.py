"""Commands about the images of the local store."""

import json
import sys
from pathlib import Path

import click

from imgbuild.cli.arguments import store_option
from imgbuild.cli.text import size
from imgbuild.errors import UsageError


@click.command("images")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def images_command(store: Path, as_json: bool) -> None:
    """List the images of the local store."""
    from imgbuild import api

    found = api.images(store=store)
    if as_json:
        rows = [
            {"name": i.name or None, "digest": i.digest, "size": i.size, "created": i.created}
            for i in found
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    if not found:
        click.echo("no images yet; build one with: imgbuild -t NAME .")
        return
    width = max(len("NAME"), *(len(i.familiar) for i in found))
    click.echo(f"{'NAME':{width}}  {'DIGEST':19}  {'CREATED':20}  SIZE")
    for i in found:
        short = i.digest[:19]
        click.echo(f"{i.familiar:{width}}  {short}  {_seconds(i.created):20}  {size(i.size)}")


def _seconds(created: str | None) -> str:
    """Return an RFC 3339 time without its fraction of a second."""
    if not created:
        return ""
    return created[:19] + ("Z" if created.endswith("Z") else created[-6:])


@click.command("inspect")
@click.argument("name")
@store_option
@click.option("--raw", is_flag=True, help="Print the manifest's bytes.")
@click.option("--config", is_flag=True, help="Print the config's bytes.")
def inspect_command(name: str, store: Path, raw: bool, config: bool) -> None:
    """Show the manifest and config of NAME as JSON."""
    from imgbuild import api

    details = api.inspect(name, store=store)
    if raw or config:
        click.echo(details.manifest if raw else details.config, nl=False)
        return
    document = {
        "name": details.name or None,
        "digest": details.digest,
        "manifest": json.loads(details.manifest),
        "config": json.loads(details.config),
    }
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


@click.command("tag")
@click.argument("source")
@click.argument("name")
@store_option
def tag_command(source: str, name: str, store: Path) -> None:
    """Give the image SOURCE another NAME."""
    from imgbuild import api

    api.tag(source, name, store=store)


@click.command("rm")
@click.argument("names", nargs=-1, required=True)
@store_option
def rm_command(names: tuple[str, ...], store: Path) -> None:
    """Remove NAMES from the local store; content that nothing names stays until a reset."""
    from imgbuild import api

    for name in names:
        api.remove(name, store=store)


@click.command("reset")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@store_option
def reset_command(yes: bool, store: Path) -> None:
    """Empty the local store: images, cache and unpacked layers."""
    from imgbuild import api

    if not yes and not _is_sure(store):
        click.echo("nothing was removed", err=True)
        raise click.exceptions.Exit(1)
    api.reset(store=store)


def _is_sure(store: Path) -> bool:
    try:
        return click.confirm(f"Remove everything in {store}?", err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo(err=True)
        raise UsageError(
            "nobody answers on standard input", hint="to remove everything, give --yes"
        ) from None
