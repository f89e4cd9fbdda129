"""`imgbuild build`."""

from pathlib import Path
from typing import Any

import click

from imgbuild.cli import progress as progress_sinks
from imgbuild.cli.arguments import build_fields, output, plan_options, progress_option
from imgbuild.options import ProgressMode


@click.command("build")
@plan_options
@click.option("-t", "--tag", "tags", metavar="NAME", multiple=True, help="Name the image.")
@click.option("--no-cache", is_flag=True, help="Make every step anew.")
@click.option(
    "-o",
    "--output",
    "outputs",
    metavar="SPEC",
    multiple=True,
    help="Also write type=oci,dest=FILE, type=oci,tar=false,dest=DIR or type=docker,dest=FILE.",
)
@click.option("--push", is_flag=True, help="Push every name once the image is built.")
@click.option(
    "--iidfile",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the image ID to a file.",
)
@click.option(
    "--metadata-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write digests and names as JSON to a file.",
)
@progress_option
@click.option("-q", "--quiet", is_flag=True, help="Print the image's digest and nothing else.")
def build_command(
    *,
    tags: tuple[str, ...],
    outputs: tuple[str, ...],
    progress: ProgressMode,
    quiet: bool,
    **flags: Any,
) -> None:
    """Build an image from the Dockerfile in PATH."""
    from imgbuild import api
    from imgbuild.options import BuildOptions

    options = BuildOptions(
        **build_fields(tags=tags, outputs=tuple(output(text) for text in outputs), **flags)
    )
    sink = progress_sinks.choose("quiet" if quiet else progress)
    try:
        result = api.build(options, events=sink)
    finally:
        close = getattr(sink, "close", None)
        if close is not None:
            close()
    if quiet:
        click.echo(result.digest)
