"""The entry point: a table of commands, and the one place where exceptions become exit codes."""

import gc
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from types import FrameType

import click

from imgbuild.errors import ImgbuildError, UsageError

# name: (module, one line of help); the function is named like the command, with _command behind it.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "build": ("build", "Build an image from a Dockerfile (the default command)."),
    "run": ("run", "Run a command in a throw-away root made of an image."),
    "images": ("images", "List the images of the local store."),
    "inspect": ("images", "Show an image's manifest and config as JSON."),
    "tag": ("images", "Give an image another name."),
    "rm": ("images", "Remove names from the local store."),
    "pull": ("transfers", "Copy an image from a registry into the local store."),
    "push": ("transfers", "Copy an image from the local store to a registry."),
    "check": ("check", "Look for mistakes in a Dockerfile, without building it."),
    "context": ("context", "Show what a build can read of its context, and why."),
    "cache": ("cache", "Look after what is kept from build to build."),
    "plan": ("plan", "Show what a build would do, without doing it."),
    "doctor": ("doctor", "Tell what this host allows, and what to change."),
    "reset": ("images", "Empty the local store."),
}


def _means_build(first: str) -> bool:
    """Tell whether a command line that starts with `first` leaves the command out: a flag or a path."""
    if first.startswith("-"):
        return first not in {"--help", "-h", "--version"}
    return first in {".", ".."} or "/" in first


def _instead_of(name: str) -> str:
    from difflib import get_close_matches

    from imgbuild.cli.foreign import foreign_command

    if hint := foreign_command(name):
        return hint
    near = get_close_matches(name, COMMANDS, n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else "see imgbuild --help"


class CommandTable(click.Group):
    """Commands that are imported when chosen; `imgbuild -t NAME .` means `imgbuild build -t NAME .`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"imgbuild.cli.{COMMANDS[cmd_name][0]}_commands")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)  # noqa: S101  the table is ours
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            raise UsageError(f"no such command: {args[0]}", hint=_instead_of(args[0]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] == "help":
            args = [*args[1:], "--help"]
        elif _means_build(args[0]):
            args = ["build", *args]
        return super().parse_args(ctx, args)


@click.command(
    cls=CommandTable,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="'imgbuild -t NAME .' is short for 'imgbuild build -t NAME .'.",
)
@click.version_option(
    import_module("imgbuild").__version__, message="imgbuild %(version)s", prog_name="imgbuild"
)
def command_line() -> None:
    """Build OCI images from Dockerfiles without a daemon and without root."""


def _terminated(number: int, _frame: FrameType | None) -> None:
    """Unwind on SIGTERM and SIGHUP as on Ctrl-C, so that nothing half made is left."""
    raise SystemExit(128 + number)


def _refuse(error: click.ClickException) -> int:
    """Show what click found wrong as every other error is shown; return the exit status."""
    from imgbuild.cli import report

    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "imgbuild"
    message = error.format_message().replace(". (Did", " (did").rstrip(".")
    hint = f"see {path} --help"
    if isinstance(error, click.NoSuchOption):
        from imgbuild.cli.foreign import foreign_hint

        # What click takes for near names is beside the point then.
        if known := foreign_hint(path, error.option_name):
            return report.show(UsageError(f"no such option '{error.option_name}'", hint=known))
    elif isinstance(error, click.BadOptionUsage) and "not take a value" in message:
        hint = f"write {error.option_name} alone, or leave it out"
    return report.show(UsageError(message[:1].lower() + message[1:], hint=hint))


def main(args: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # else it is ignored, as by nohup
        signal.signal(signal.SIGHUP, _terminated)
    # Importing makes many objects and hardly any cycles: looking for these costs a tenth of a
    # cached build. Memory stays flat, reference counts free what a build lets go.
    gc.set_threshold(100_000)
    try:
        status = command_line.main(args=args, prog_name="imgbuild", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _refuse(error)
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our standard output went away; Python would complain once more at exit.
        sys.stdout = None
        return 128 + signal.SIGPIPE
    except ImgbuildError as error:
        from imgbuild.cli import report

        return report.show(error)
    except Exception as error:
        from imgbuild.cli import report

        return report.show_bug(error)
    return status if isinstance(status, int) else 0
