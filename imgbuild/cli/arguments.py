"""Command-line flags that several commands share, and the values they are turned into."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from imgbuild.cli import environment
from imgbuild.cli.lending import agent, secret
from imgbuild.cli.running import run_fields, run_options, size, step_options
from imgbuild.errors import UsageError
from imgbuild.options import ArchiveLimits, Output

F = TypeVar("F", bound=Callable[..., Any])


def store_option(function: F) -> F:
    """Add `--store`; the value is a path, the environment's choice by default."""
    return click.option(
        "--store",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        default=environment.default_store,
        help="The folder that keeps images and the cache (default: $IMGBUILD_STORE, else "
        "$XDG_DATA_HOME/imgbuild).",
    )(function)


def progress_option(function: F) -> F:
    """Add `--progress`."""
    return click.option(
        "--progress",
        type=click.Choice(["auto", "tty", "plain", "quiet"]),
        default="auto",
        show_default=True,
        help="How to show what goes on.",
    )(function)


def plan_options(function: F) -> F:
    """Add the flags that decide what is built; `build`, `plan` and `check` share them."""
    for flag in reversed([*_source_flags(), *_target_flags(), *_loan_flags(), *_limit_flags()]):
        function = flag(function)
    return step_options(run_options(function))


def _source_flags() -> list[Callable[[F], F]]:
    return [
        click.argument(
            "context",
            metavar="[PATH|URL|-]",
            type=click.Path(path_type=str, readable=False, allow_dash=True),
            default=".",
        ),
        click.option(
            "-f",
            "--file",
            "dockerfile",
            metavar="PATH",
            type=click.Path(path_type=str),
            help="The Dockerfile, or its URL (default: Dockerfile in the context); - is standard input.",
        ),
        click.option(
            "--build-arg",
            "build_args",
            metavar="NAME[=VALUE]",
            multiple=True,
            help="Set an ARG; without a value, from the environment.",
        ),
        click.option(
            "--build-context",
            "build_contexts",
            metavar="NAME[::PLATFORM]=SOURCE",
            multiple=True,
            help="Name a source for FROM and COPY --from: a directory, oci-layout://PATH[:TAG][@DIGEST], "
            "docker-image://NAME, a git repository, an http(s) URL or host://PROGRAM,….",
        ),
    ]


def _target_flags() -> list[Callable[[F], F]]:
    return [
        click.option(
            "--label", "labels", metavar="NAME[=VALUE]", multiple=True, help="Label the image."
        ),
        click.option("--target", metavar="STAGE", help="The stage to build."),
        click.option("--platform", metavar="OS/ARCH", help="The platform of the image."),
        click.option(
            "--network",
            type=click.Choice(["default", "host", "none"]),
            default="default",
            show_default=True,
            help="The network that RUN sees; with default and none, RUN --network=host needs --allow.",
        ),
        click.option("--pull", is_flag=True, help="Ask the registry for base images again."),
        click.option(
            "--timestamp",
            metavar="SECONDS",
            help="Clamp newer times of what is built (default: $SOURCE_DATE_EPOCH).",
        ),
    ]


def _loan_flags() -> list[Callable[[F], F]]:
    return [
        click.option(
            "--secret",
            "secrets",
            metavar="id=NAME[,src=FILE|,env=NAME]",
            multiple=True,
            help="Lend a secret to the build, from a file or a variable.",
        ),
        click.option(
            "--ssh",
            metavar="default|ID[=SOCKET|=KEY,…]",
            multiple=True,
            help="Lend an SSH agent to the build: $SSH_AUTH_SOCK, a socket, or one for key files.",
        ),
    ]


def _limit_flags() -> list[Callable[[F], F]]:
    defaults = ArchiveLimits()
    return [
        click.option(
            "--download-limit",
            metavar="SIZE",
            help="The largest file that is fetched from a URL (default: 16g).",
        ),
        click.option(
            "--add-limit-size",
            metavar="SIZE",
            default=f"{defaults.size >> 30}g",
            show_default=True,
            help="How large an archive may be that ADD unpacks, or that is the context.",
        ),
        click.option(
            "--add-limit-entries",
            metavar="NUMBER",
            type=int,
            default=defaults.entries,
            show_default=True,
            help="How many members it may have.",
        ),
        click.option(
            "--add-limit-ratio",
            metavar="NUMBER",
            type=int,
            default=defaults.ratio,
            show_default=True,
            help="How many times larger than packed it may be, counted from 1 GiB on; 0 is any.",
        ),
    ]


def pairs(texts: tuple[str, ...], flag: str, form: str = "NAME=VALUE") -> dict[str, str]:
    """Read `NAME=VALUE` texts of `flag`; `form` is how a hint writes them."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"invalid {flag}: {text!r}", hint=f"write it as {form}")
        found[name] = value
    return found


def build_fields(
    *,
    context: str,
    dockerfile: str | None,
    build_args: tuple[str, ...],
    build_contexts: tuple[str, ...],
    labels: tuple[str, ...],
    secrets: tuple[str, ...],
    ssh: tuple[str, ...],
    download_limit: str | None,
    add_limit_size: str,
    add_limit_entries: int,
    add_limit_ratio: int,
    timestamp: str | None,
    **rest: Any,
) -> dict[str, Any]:
    """Turn the flags of `plan_options` into fields of `BuildOptions`."""
    given = dict(filter(None, map(environment.build_arg, build_args)))
    epoch = _epoch(timestamp, given)
    run = run_fields(rest)
    if download_limit is not None:
        rest["download_limit"] = size(download_limit, "--download-limit")
    return {
        "context": environment.standard_input() if context == "-" else context,
        "dockerfile": environment.standard_input() if dockerfile == "-" else dockerfile,
        "build_args": given,
        "build_contexts": pairs(build_contexts, "--build-context", "NAME=SOURCE"),
        # As with docker, a label without a value is an empty one.
        "labels": pairs(tuple(t if "=" in t else f"{t}=" for t in labels), "--label"),
        "secrets": tuple(map(secret, secrets)),
        "ssh": tuple(map(agent, ssh)),
        "archive_limits": ArchiveLimits(
            add_limit_entries, size(add_limit_size, "--add-limit-size"), add_limit_ratio
        ),
        "source_date_epoch": epoch,
        "registry": environment.registry_options(),
        "search_path": environment.search_path(),
        "run": run,
        **rest,
    }


def _epoch(timestamp: str | None, given: dict[str, str]) -> int | None:
    """Return the seconds that times are clamped to; what SOURCE_DATE_EPOCH names goes to `given`."""
    if timestamp is not None:
        if given.get("SOURCE_DATE_EPOCH", timestamp) != timestamp:
            raise UsageError(
                "--timestamp and --build-arg SOURCE_DATE_EPOCH differ", hint="give one of them"
            )
        return environment.parse_epoch(timestamp, "--timestamp")
    epoch = environment.source_date_epoch()
    if isinstance(epoch, str):
        # As buildx: a build finds out what it names.
        given.setdefault("SOURCE_DATE_EPOCH", epoch)
        return None
    return epoch


_OUTPUT_KEYS = frozenset({"type", "dest", "tar"})


def output(text: str) -> Output:
    """Read one `--output`: `type=oci|docker,dest=PATH[,tar=false]`; `-` is standard output."""
    fields = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in _OUTPUT_KEYS:
            raise UsageError(
                f"invalid --output: {part!r}",
                hint="write it as type=oci,dest=FILE, type=oci,tar=false,dest=DIR or type=docker,dest=FILE",
            )
        fields[key] = value
    kind, dest = fields.get("type"), fields.get("dest")
    if kind not in {"oci", "docker"}:
        raise UsageError(
            f"unsupported --output type: {kind or 'none given'}",
            hint="types are oci and docker; every build is kept in the store as well",
        )
    if not dest:
        raise UsageError("--output needs dest=PATH", hint=f"for example type={kind},dest=image.tar")
    if fields.get("tar", "true") not in {"true", "false"}:
        raise UsageError(f"invalid --output: tar={fields['tar']}", hint="tar is true or false")
    tar = fields.get("tar", "true") == "true"
    if kind == "docker" and not tar:
        raise UsageError("--output type=docker is always a tar", hint="use type=oci,tar=false")
    return Output("oci" if kind == "oci" else "docker", Path(dest), tar)
