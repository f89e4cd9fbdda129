"""`--help` of commands with many flags: the flags by what they are for."""

from collections.abc import Mapping

import click

# Parameters by their names; what is in no section comes last, with --help.
SECTIONS: Mapping[str, frozenset[str]] = {
    "The image": frozenset(
        {"tags", "dockerfile", "build_args", "build_contexts", "labels", "target", "platform"}
        | {"timestamp"}
    ),
    "How it is built": frozenset({"pull", "no_cache", "secrets", "ssh"}),
    "How commands run": frozenset(
        {
            "network",
            "rm",
            "interactive",
            "allow",
            "isolation",
            "runtime",
            "on_fail",
            "allow_secret_in_layer",
            "timeout",
        }
        | {"user", "workdir", "env", "env_files", "entrypoint", "hostname", "read_only", "tty"}
        | {"add_hosts", "dns", "dns_search", "dns_options", "devices", "volumes"}
        | {"cap_add", "cap_drop"}
    ),
    "Limits of commands": frozenset(
        {"shm_size", "ulimits", "memory", "cpus", "cpu_quota", "cpu_period", "pids_limit"}
    ),
    "Where it goes": frozenset({"outputs", "push", "iidfile", "metadata_file", "store"}),
    "Limits of what is read": frozenset(
        {"download_limit", "add_limit_size", "add_limit_entries", "add_limit_ratio"}
    ),
    "Questions instead of a build": frozenset({"check", "call"}),
}
_REST = "What is shown"


class SectionedCommand(click.Command):
    """A command whose help has a section for each kind of flag."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {title: [] for title in (*SECTIONS, _REST)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                rows[_section(parameter.name)].append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _section(name: str | None) -> str:
    return next((title for title, names in SECTIONS.items() if name in names), _REST)
