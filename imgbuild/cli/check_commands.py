"""`imgbuild check`, and `--call` of `imgbuild build`."""

from typing import Any

import click

from imgbuild.cli.arguments import build_fields, plan_options, store_option
from imgbuild.cli.progress import shown
from imgbuild.cli.sections import SectionedCommand
from imgbuild.errors import UsageError
from imgbuild.options import BuildOptions

_CALLS = ("build", "check", "outline", "targets")
_FORMATS = ("text", "json")


@click.command("check", cls=SectionedCommand)
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@store_option
def check_command(*, as_json: bool, **flags: Any) -> None:
    """Look for mistakes in the Dockerfile in PATH without building anything.

    Every stage is checked, or with --target that one and what it needs. The exit status is 1 when
    anything was found. The checks are those of docker build --check.
    """
    answer("check", "json" if as_json else "text", BuildOptions(**build_fields(**flags)))


def read_call(text: str) -> tuple[str, str]:
    """Read `--call`: a name and maybe `,format=text|json`; return both."""
    name, comma, rest = text.partition(",")
    key, _, form = rest.partition("=")
    name = "check" if name == "lint" else name
    if name not in _CALLS:
        raise UsageError(f"unknown --call: {name}", hint=f"calls are {', '.join(_CALLS)}")
    if comma and (key != "format" or form not in _FORMATS):
        raise UsageError(f"invalid --call: {rest}", hint="write it as check,format=json")
    return name, form or "text"


def answer(call: str, form: str, options: BuildOptions) -> None:
    """Print the answer to `call` in the format `form`; exit with 1 when checks found anything."""
    as_json = form == "json"
    if call == "check":
        _check(options, as_json=as_json)
    elif call == "outline":
        _outline(options, as_json=as_json)
    else:
        _targets(options, as_json=as_json)


def _check(options: BuildOptions, *, as_json: bool) -> None:
    from imgbuild import api
    from imgbuild.cli.calls_text import check_text
    from imgbuild.plan.calls_json import check_json

    with shown("auto") as sink:
        found = api.check(options, events=sink)
    click.echo(check_json(found) if as_json else check_text(found), nl=False)
    if found.error is not None and not as_json:
        raise found.error
    if not found.ok:
        raise click.exceptions.Exit(1 if found.error is None else found.error.exit_code)


def _outline(options: BuildOptions, *, as_json: bool) -> None:
    from imgbuild import api
    from imgbuild.cli.calls_text import outline_text
    from imgbuild.plan.calls_json import outline_json

    with shown("auto") as sink:
        outline = api.outline(options, events=sink)
    click.echo(outline_json(outline) if as_json else outline_text(outline), nl=False)


def _targets(options: BuildOptions, *, as_json: bool) -> None:
    from imgbuild import api
    from imgbuild.cli.calls_text import targets_text
    from imgbuild.plan.calls_json import targets_json

    with shown("auto") as sink:
        targets = api.targets(options, events=sink)
    click.echo(targets_json(targets) if as_json else targets_text(targets), nl=False)
