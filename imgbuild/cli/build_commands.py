"""`imgbuild build`."""

from pathlib import Path
from typing import Any

import click

from imgbuild.cli.arguments import (
    build_fields,
    output,
    plan_options,
    progress_option,
    store_option,
)
from imgbuild.cli.progress import shown
from imgbuild.cli.sections import SectionedCommand
from imgbuild.errors import StepFailedError
from imgbuild.options import ProgressMode


@click.command("build", cls=SectionedCommand)
@click.option(
    "-t",
    "--tag",
    "tags",
    metavar="NAME[:TAG]",
    multiple=True,
    help="Name the image; may be given more than once.",
)
@plan_options
@click.option("--no-cache", is_flag=True, help="Make every step anew.")
@click.option(
    "-o",
    "--output",
    "outputs",
    metavar="SPEC",
    multiple=True,
    help="Also write type=oci,dest=FILE, type=oci,tar=false,dest=DIR or type=docker,dest=FILE; "
    "dest=- is standard output.",
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
@click.option("--check", is_flag=True, help="Look for mistakes instead: as --call=check.")
@click.option(
    "--call",
    metavar="NAME[,format=json]",
    default="build",
    help="Answer a question instead: check, outline (of --target) or targets.",
)
@progress_option
@click.option("-q", "--quiet", is_flag=True, help="Print the image's digest and nothing else.")
@store_option
def build_command(
    *,
    tags: tuple[str, ...],
    outputs: tuple[str, ...],
    check: bool,
    call: str,
    progress: ProgressMode,
    quiet: bool,
    **flags: Any,
) -> None:
    """Build an image from a Dockerfile and its context.

    The context is a folder (default: .), a git repository, an http(s) URL, or - for standard input: a tar that
    has the Dockerfile, or a Dockerfile alone.
    """
    from imgbuild import api
    from imgbuild.options import STDOUT, BuildOptions

    options = BuildOptions(
        **build_fields(tags=tags, outputs=tuple(output(text) for text in outputs), **flags)
    )
    if check or call != "build":
        from imgbuild.cli.check_commands import answer, read_call

        name, form = read_call(call)
        if name != "build":
            answer(name, form, options)
            return
        if check:
            answer("check", form, options)
            return
    mode: ProgressMode = "quiet" if quiet else progress
    try:
        with shown(mode) as sink:
            result = api.build(options, events=sink, streams=(0, 1, 2))
    except StepFailedError as error:
        if mode != "quiet":
            error.output = b""  # it was shown while the step ran
        raise
    if quiet:
        # Standard output may be an archive.
        archive = any(item.dest == STDOUT for item in options.outputs)
        click.echo(result.digest, err=archive)
