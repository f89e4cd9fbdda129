"""Answers to `--call` as text, as buildx prints them."""

from collections.abc import Iterable, Iterator, Sequence

from imgbuild.cli.report import frame
from imgbuild.cli.text import sanitise
from imgbuild.plan.calls import CheckResult, Outline, OutlineMount, Target

# Lines shown around a single line, and around more than one.
_AROUND_ONE, _AROUND_MANY = 2, 1


def check_text(result: CheckResult) -> str:
    """Return what the checks found, in the order of lines."""
    if result.ok:
        return "Check complete, no warnings found.\n"
    if not result.warnings:
        return ""
    lines = result.source.decode("utf-8", "replace").removeprefix("\ufeff").split("\n")
    count = len(result.warnings)
    many = "1 warning has" if count == 1 else f"{count} warnings have"
    parts = [f"Check complete, {many} been found!\n"]
    for warning in sorted(result.warnings, key=lambda each: each.span.first):
        link = f" - {warning.url}" if warning.url else ""
        span = warning.span
        around = _AROUND_ONE if span.first == span.last else _AROUND_MANY
        parts += [
            f"\nWARNING: {warning.rule}{link}\n",
            f"{sanitise(warning.message)}\n",
            frame(f"{result.path}:{span.first}", span, lines, around),
            "\n",
        ]
    if result.error is not None:
        parts.append("\n")
    return "".join(parts)


def outline_text(outline: Outline) -> str:
    """Return what can be given to a build, as tables; nothing where there is nothing."""
    parts = []
    if outline.name or outline.description:
        rows = [("TARGET:", outline.name or "(default)")]
        if outline.description:
            rows.append(("DESCRIPTION:", outline.description))
        parts.append(_table(rows, gap=1))
    if outline.args:
        rows3 = [(arg.name, arg.value, arg.description) for arg in outline.args]
        parts.append(_table([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows3], gap=3))
    for title, mounts in (("SECRET", outline.secrets), ("SSH", outline.ssh)):
        if mounts:
            parts.append(_table([(title, "REQUIRED"), *_required(mounts)], gap=3))
    return "".join(part + "\n" for part in parts)


def _required(mounts: Iterable[OutlineMount]) -> Iterator[tuple[str, str]]:
    for mount in mounts:
        yield mount.name, "true" if mount.required else ""


def targets_text(targets: Iterable[Target]) -> str:
    """Return the stages as a table."""
    rows = [(_shown(target), target.description) for target in targets]
    return _table([("TARGET", "DESCRIPTION"), *rows], gap=1)


def _shown(target: Target) -> str:
    if not target.default:
        return target.name
    return f"{target.name} (default)" if target.name else "(default)"


def _table(rows: Sequence[Sequence[str]], *, gap: int) -> str:
    """Return rows whose columns are `gap` apart; the last column is not filled up."""
    clean = [[sanitise(cell) for cell in row] for row in rows]
    columns = list(zip(*clean, strict=True))[:-1]
    widths = [max(map(len, column)) + gap for column in columns]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        + row[-1]
        + "\n"
        for row in clean
    )
