"""`imgbuild plan`."""

from typing import Any

import click

from imgbuild.cli.arguments import build_fields, plan_options


@click.command("plan")
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan_command(*, as_json: bool, **flags: Any) -> None:
    """Show what building PATH would do, without doing it."""
    from imgbuild import api
    from imgbuild.options import BuildOptions

    plan = api.plan(BuildOptions(**build_fields(**flags)))
    from imgbuild.plan import render

    click.echo(render.render_json(plan) if as_json else render.render_plan(plan), nl=False)
