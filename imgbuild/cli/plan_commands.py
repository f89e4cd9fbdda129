"""`imgbuild plan`."""

from typing import Any

import click

from imgbuild.cli.arguments import build_fields, plan_options, store_option
from imgbuild.cli.progress import shown
from imgbuild.cli.sections import SectionedCommand


@click.command("plan", cls=SectionedCommand)
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@store_option
def plan_command(*, as_json: bool, **flags: Any) -> None:
    """Show what building PATH would do, without doing it."""
    from imgbuild import api
    from imgbuild.options import BuildOptions

    # A base that is not in the store is pulled, which may take a while.
    with shown("auto") as sink:
        plan = api.plan(BuildOptions(**build_fields(**flags)), events=sink)
    from imgbuild.plan import render

    click.echo(render.render_json(plan) if as_json else render.render_plan(plan), nl=False)
