"""`imgbuild doctor`."""

from pathlib import Path

import click

from imgbuild.cli import environment
from imgbuild.cli.arguments import store_option


@click.command("doctor")
@store_option
def doctor_command(store: Path) -> None:
    """Tell what this host allows, which way RUN takes, and what to change for a better one."""
    from imgbuild import api

    report = api.doctor(store=store, search_path=environment.search_path())
    click.echo(f"store     {store}")
    better = True  # than the one that is taken: nobody needs a remedy for the others
    for check in report.checks:
        click.echo(f"{'ok' if check.ok else 'no':9} {check.name}: {check.detail}")
        better = better and not check.ok
        if check.remedy and better:
            click.echo(f"          remedy: {check.remedy}")
    if report.tier is None:
        click.echo("RUN       not possible on this host; builds without RUN work")
        raise click.exceptions.Exit(5)
    click.echo(f"RUN       works, {report.tier.describe()}")
    click.echo(f"network   {report.network}")
    click.echo(f"limits    {report.limits}")
    if report.runtimes:
        click.echo(f"runtimes  {', '.join(report.runtimes)}, for --isolation=oci")
