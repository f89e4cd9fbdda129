"""`imgbuild context`."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imgbuild.cli import environment
from imgbuild.cli.text import escaped, size

if TYPE_CHECKING:
    from imgbuild.build.sent import ContextEntry

# Lines that are written together: one write for each takes longer than finding the file.
_TOGETHER = 500
_ENDS = {"dir": "/", "symlink": "@", "fifo": "|"}


@click.group("context", invoke_without_command=True)
@click.pass_context
def context_command(context: click.Context) -> None:
    """Show what a build can read of its context."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@context_command.command("ls", short_help="List what a build can read, and why.")
@click.argument(
    "context", metavar="[PATH]", type=click.Path(path_type=str, readable=False), default="."
)
@click.option(
    "-f",
    "--file",
    "dockerfile",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The Dockerfile, which may have an ignore file beside it (default: Dockerfile in PATH).",
)
@click.option(
    "--explain",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Tell whether FILE of the context is sent, and which line decides. The exit status is 1 "
    "when it is not.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls_command(
    *, context: str, dockerfile: Path | None, explain: Path | None, as_json: bool
) -> None:
    """List what COPY and ADD can read of the context PATH, which is what its ignore file leaves."""
    from imgbuild import api

    given = environment.standard_input() if str(dockerfile) == "-" else dockerfile
    place = environment.standard_input() if context == "-" else context
    if explain is not None:
        verdict = api.explain_context(explain, place, dockerfile=given)
        click.echo(json.dumps(asdict(verdict), indent=2) if as_json else escaped(verdict.reason))
        if not verdict.sent:
            raise click.exceptions.Exit(1)
        return
    found = api.list_context(place, dockerfile=given)
    _print(_json(found) if as_json else _rows(found))


def _print(lines: Iterable[str]) -> None:
    held: list[str] = []
    for line in lines:
        held.append(line)
        if len(held) >= _TOGETHER:
            click.echo("\n".join(held))
            held.clear()
    if held:
        click.echo("\n".join(held))


class _Totals:
    """Counts entries while they pass."""

    def __init__(self) -> None:
        self.files = self.directories = self.others = self.size = 0

    def of(self, found: "Iterable[ContextEntry]") -> "Iterator[ContextEntry]":
        for entry in found:
            self.files += entry.type == "file"
            self.directories += entry.type == "dir"
            self.others += entry.type not in {"file", "dir"}
            self.size += entry.size
            yield entry


def _rows(found: "Iterable[ContextEntry]") -> Iterator[str]:
    totals = _Totals()
    for entry in totals.of(found):
        amount = size(entry.size) if entry.type == "file" else ""
        yield f"{amount:>8}  {escaped(entry.path)}{_ENDS.get(entry.type, '')}"
    counts = [
        _count(totals.files, "file", "files"),
        _count(totals.directories, "directory", "directories"),
    ]
    if totals.others:
        counts.append(_count(totals.others, "other", "others"))
    yield f"{size(totals.size)} in {', '.join(counts)}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _json(found: "Iterable[ContextEntry]") -> Iterator[str]:
    """Yield the lines of one document, entry by entry."""
    totals = _Totals()
    yield '{"entries": ['
    before = ""
    for entry in totals.of(found):
        if before:
            yield f"{before},"
        before = f"  {json.dumps({'path': entry.path, 'type': entry.type, 'size': entry.size})}"
    if before:
        yield before
    yield f'], "totals": {json.dumps(vars(totals))}}}'
