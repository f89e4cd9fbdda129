"""Options as callers give them, checked and made uniform before anything is done."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgbuild.build.homes import registry_options, store_path
from imgbuild.build.places import URL
from imgbuild.build.runrequest import settled_network, settled_run
from imgbuild.errors import UsageError
from imgbuild.oci.reference import Reference, is_digest, parse_reference
from imgbuild.options import STDOUT, BuildOptions, Output, Secret, SshAgent


def asked(context: Any, fields: Mapping[str, Any]) -> BuildOptions:
    """Return the options of a call: those that `context` is, else it and `fields` by name.

    Raises `UsageError` for what is wrong.
    """
    if isinstance(context, BuildOptions):
        if fields:
            raise UsageError("give a BuildOptions or single options, not both")
        options = context
    else:
        _check_names(fields)
        options = BuildOptions(context, **fields)
    return replace(
        settled(options),
        store=store_path(options.store),
        registry=registry_options(options.registry),
    )


def _check_names(fields: Mapping[str, Any]) -> None:
    known = BuildOptions.__dataclass_fields__
    if unknown := sorted(set(fields) - set(known)):
        from difflib import get_close_matches

        near = get_close_matches(unknown[0], known, n=1)
        raise UsageError(
            f"unknown build option: {unknown[0]}", hint=f"did you mean {near[0]}?" if near else None
        )


def settled(options: BuildOptions) -> BuildOptions:
    """Let callers write text for paths and lists for tuples; raise `UsageError` for what is wrong."""
    settled_network(options.network)
    _check_numbers(options)
    tags: Any = options.tags
    # A lone text is a sequence too, of letters.
    tags = (tags,) if isinstance(tags, str) else tags
    return replace(
        options,
        context=_context(options.context),
        dockerfile=_dockerfile(options.dockerfile),
        tags=tuple(str(taggable(name)) for name in tags),
        build_args=_texts("build_args", options.build_args),
        build_contexts=_texts(
            "build_contexts",
            {name: _fspath(value) for name, value in options.build_contexts.items()},
        ),
        labels=_texts("labels", options.labels),
        outputs=tuple(replace(output, dest=Path(output.dest)) for output in options.outputs),
        iidfile=_path(options.iidfile),
        metadata_file=_path(options.metadata_file),
        secrets=tuple(map(_secret, options.secrets)),
        ssh=_agents(options.ssh),
        run=settled_run(options.run),
    )


def _check_numbers(options: BuildOptions) -> None:
    epoch: Any = options.source_date_epoch
    if epoch is not None and not isinstance(epoch, int):
        raise UsageError(
            f"source_date_epoch is no number: {epoch!r}",
            hint="the name of what has the time is a build argument: "
            'build_args={"SOURCE_DATE_EPOCH": "context"}',
        )
    if epoch is not None and epoch < 0:
        raise UsageError("source_date_epoch is before 1970", hint="give seconds since 1970")
    largest: Any = options.download_limit
    if not isinstance(largest, int) or largest <= 0:
        raise UsageError("the limit of downloads has to be above 0", hint="give a size: 500m, 16g")
    limits = options.archive_limits
    if min(limits.entries, limits.size) < 1 or limits.ratio < 0:
        raise UsageError(
            "the limits of archives have to be positive", hint="a ratio may be 0, which is any"
        )


def taggable(name: str) -> Reference:
    """Return the name that an image can be given; raise `UsageError` for one with a digest."""
    reference = parse_reference(name)
    if reference.digest:
        raise UsageError(
            f"{name}: a name with a digest cannot be given", hint="leave @sha256:… out"
        )
    if is_digest(name):
        raise UsageError(f"{name}: a name like a digest cannot be given", hint="choose another one")
    return reference


def check_deliveries(options: BuildOptions) -> None:
    """Raise `UsageError` for what would fail only after the build."""
    if options.push and not options.tags:
        raise UsageError("--push needs a name", hint="give one: -t registry.example.com/name:tag")
    for output in options.outputs:
        _check_output(output)
    for flag, path in (("--iidfile", options.iidfile), ("--metadata-file", options.metadata_file)):
        if path is not None:
            _check_file(flag, path)


def _check_output(output: Output) -> None:
    if output.dest == STDOUT:
        if not output.tar:
            raise UsageError("--output: a directory cannot go to standard output")
        if os.isatty(1):
            raise UsageError(
                "--output: an archive would garble the terminal",
                hint="send it on: imgbuild … | docker load, or name a file with dest=",
            )
    elif output.tar:
        _check_file("--output", output.dest)
    elif output.dest.exists() and not output.dest.is_dir():
        raise UsageError(f"--output: {output.dest} is not a directory", hint="name another one")
    else:
        _check_folder("--output", output.dest)


def _check_file(flag: str, path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{flag}: {path} is a directory", hint="name a file")
    _check_folder(flag, path)


def _check_folder(flag: str, path: Path) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{flag}: there is no folder {parent}", hint="make it first")


def _context(value: Any) -> Any:
    """Return a file as it is, and text too: it may be a URL."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str) or _is_file(value):
        return value
    raise UsageError(
        f"a context cannot be {type(value).__name__}", hint="give a path, a URL or an open file"
    )


def _dockerfile(value: Any) -> Any:
    if value is None or _is_file(value) or str(value).startswith(URL):
        return value
    if str(value) == "-":
        raise UsageError(
            "the library does not read standard input by itself",
            hint="give the file as dockerfile: sys.stdin.buffer",
        )
    return Path(value)


def _is_file(value: Any) -> bool:
    return callable(getattr(value, "read", None))


def _secret(secret: Any) -> Secret:
    # What is shown is never the value.
    if not isinstance(secret, Secret):
        raise UsageError(
            f"secrets has no Secret, but a {type(secret).__name__}",
            hint='give imgbuild.Secret("NAME", value=b"…") or imgbuild.Secret("NAME", path)',
        )
    value: Any = secret.value
    if value is not None and not isinstance(value, bytes):
        raise UsageError(f"the value of the secret {secret.id} is no bytes", hint="encode it")
    return replace(secret, path=_path(secret.path))


def _agents(agents: Iterable[Any]) -> tuple[SshAgent, ...]:
    found: dict[str, SshAgent] = {}
    for agent in agents:
        if not isinstance(agent, SshAgent):
            raise UsageError(
                f"ssh has no SshAgent, but a {type(agent).__name__}",
                hint='give imgbuild.SshAgent("default", [SOCKET])',
            )
        name = agent.id or "default"
        if name in found:
            raise UsageError(f'duplicate agent ID: "{name}"', hint="give each --ssh its own name")
        found[name] = SshAgent(name, tuple(map(Path, agent.paths)))
    return tuple(found.values())


def _path(value: Path | None) -> Path | None:
    return None if value is None else Path(value)


def _fspath(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _texts(option: str, pairs: Mapping[str, Any]) -> dict[str, str]:
    for name, value in pairs.items():
        if not isinstance(value, str):
            raise UsageError(f"{option}[{name!r}] is no text: {value!r}", hint="give a str")
    return dict(pairs)
