"""Flags about how commands run, shared by `build`, `plan`, `check` and `run`, and their values."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from imgbuild.errors import UsageError
from imgbuild.options import RunOptions, Volume

F = TypeVar("F", bound=Callable[..., Any])
Flag = Callable[[Any], Any]

_SELINUX = Path("/sys/fs/selinux/enforce")
_VOLUME = "write it as SOURCE:TARGET or SOURCE:TARGET:ro"
_HOST = "write it as NAME:ADDRESS or NAME=ADDRESS; host-gateway is this machine"


def run_options(function: F) -> F:
    """Add the flags of `RunOptions` that all commands have; `run_fields` reads them."""
    return _with(function, _sandbox_flags(), _host_flags(), _limit_flags(), _reach_flags())


def step_options(function: F) -> F:
    """Add those that are for the steps of a build alone."""
    return _with(function, _step_flags())


def _with(function: F, *groups: list[Flag]) -> F:
    for flag in reversed([flag for group in groups for flag in group]):
        function = flag(function)
    return function


def _sandbox_flags() -> list[Flag]:
    return [
        _one("--isolation", "isolation", "TIER", "How commands are kept apart: auto, or one of the tiers of doctor; oci uses --runtime."),
        _one("--runtime", "runtime", "NAME|PATH", "The OCI runtime for --isolation oci: crun, runc, runsc."),
    ]  # fmt: skip


def _step_flags() -> list[Flag]:
    return [
        _many("--allow", "allow", "ENTITLEMENT", "Allow network.host, security.insecure or device[=NAME]."),
        click.option(
            "--on-fail",
            type=click.Choice(["stop", "shell"]),
            default="stop",
            show_default=True,
            help="After a step that fails, open a shell in what it left.",
        ),
        click.option(
            "--allow-secret-in-layer",
            is_flag=True,
            help="Keep a layer that has the value of a secret in it.",
        ),
    ]  # fmt: skip


def _host_flags() -> list[Flag]:
    return [
        _many("--add-host", "add_hosts", "NAME:ADDRESS", "One more name for /etc/hosts; host-gateway is this machine."),
        _many("--dns", "dns", "ADDRESS", "The name server to ask; none leaves the image's /etc/resolv.conf."),
        _many("--dns-search", "dns_search", "DOMAIN", "A domain to look names up in; . is none."),
        _many("--dns-option", "dns_options", "OPTION", "An option of resolv.conf."),
    ]  # fmt: skip


def _limit_flags() -> list[Flag]:
    return [
        _one("--shm-size", "shm_size", "SIZE", "The size of /dev/shm (default: 64m)."),
        _many("--ulimit", "ulimits", "NAME=SOFT[:HARD]", "A limit of each process, such as nofile=1024:2048."),
        _one("--memory", "memory", "SIZE", "How much memory a command may use.", "-m"),
        _one("--cpus", "cpus", "NUMBER", "How many processors a command may keep busy, such as 1.5."),
        _one("--cpu-quota", "cpu_quota", "MICROSECONDS", "The same, as time in each --cpu-period."),
        _one("--cpu-period", "cpu_period", "MICROSECONDS", "The period of --cpu-quota (default: 100000)."),
        _one("--pids-limit", "pids_limit", "NUMBER", "How many processes a command may have; -1 is any."),
        _one("--timeout", "timeout", "TIME", "How long a step may take: 90, 90s, 5m, 1h30m."),
    ]  # fmt: skip


def _reach_flags() -> list[Flag]:
    return [
        _many("--cap-add", "cap_add", "NAME", "A capability more than docker's default ones; ALL is all."),
        _many("--cap-drop", "cap_drop", "NAME", "A capability less; ALL is all."),
        _many("--device", "devices", "PATH[:PATH]|CDI-NAME", "A device of this machine for commands."),
        _many("--volume", "volumes", "SOURCE:TARGET[:ro]", "A directory of this machine for commands; in no layer.", "-v"),
    ]  # fmt: skip


def _one(flag: str, name: str, metavar: str, text: str, *more: str) -> Flag:
    return click.option(*more, flag, name, metavar=metavar, help=text)


def _many(flag: str, name: str, metavar: str, text: str, *more: str) -> Flag:
    return click.option(*more, flag, name, metavar=metavar, multiple=True, help=text)


def run_fields(flags: dict[str, Any]) -> RunOptions:
    """Take the flags of `run_options` out of `flags`; raise `UsageError` for what is malformed."""
    taken = {name: flags.pop(name, None) for name in _NAMES}
    readers: dict[str, Callable[[Any], Any]] = {
        "add_hosts": lambda texts: tuple(map(_add_host, texts)),
        "shm_size": lambda text: size(text, "--shm-size"),
        "memory": lambda text: size(text, "--memory"),
        "ulimits": lambda texts: tuple(map(_ulimit, texts)),
        "pids_limit": lambda text: _integer(text, "--pids-limit"),
        "timeout": _timeout,
        "volumes": lambda texts: tuple(map(_volume, texts)),
    }
    cpus = _cpus(taken.pop("cpus"), taken.pop("cpu_quota"), taken.pop("cpu_period"))
    given = {name: value for name, value in taken.items() if value is not None}
    read = {name: readers.get(name, _same)(value) for name, value in given.items()}
    return RunOptions(cpus=cpus, **read)


_NAMES = (
    *("allow", "isolation", "runtime", "on_fail", "allow_secret_in_layer"),
    *("add_hosts", "dns", "dns_search", "dns_options", "shm_size", "ulimits", "memory"),
    *("cpus", "cpu_quota", "cpu_period", "pids_limit", "timeout"),
    *("cap_add", "cap_drop", "devices", "volumes"),
)


def _same(value: Any) -> Any:
    return value


def size(text: str, flag: str) -> int:
    """Read a size as docker writes it, in bytes."""
    from imgbuild.dockerfile.sizes import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"invalid {flag}: {error}", hint="write it as 500m or 2g") from None


def _add_host(text: str) -> tuple[str, str]:
    # As docker: NAME=ADDRESS, or NAME:ADDRESS, where an address of IPv6 has colons itself.
    name, sign, address = text.partition("=" if "=" in text else ":")
    if not (name and sign and address):
        raise UsageError(f"bad format for add-host: {text!r}", hint=_HOST)
    return name, address


def _ulimit(text: str) -> tuple[str, int, int]:
    from imgbuild.build.ulimits import parse_ulimit

    try:
        return parse_ulimit(text)
    except ValueError as error:
        raise UsageError(str(error), hint="write it as nofile=1024 or nofile=1024:2048") from None


def _timeout(text: str) -> float:
    from imgbuild.dockerfile.durations import parse_duration

    try:
        return float(text) if text.isdecimal() else parse_duration(text) / 1e9
    except ValueError as error:
        raise UsageError(
            f"invalid --timeout: {error}", hint="write it as 90, 90s, 5m or 1h30m"
        ) from None


def _cpus(cpus: str | None, quota: str | None, period: str | None) -> float | None:
    if cpus is None and quota is None:
        if period is not None:
            raise UsageError("--cpu-period says nothing without --cpu-quota", hint="give --cpus")
        return None
    if cpus is not None and (quota is not None or period is not None):
        raise UsageError(
            "conflicting options: --cpus and --cpu-quota or --cpu-period", hint="give --cpus alone"
        )
    if cpus is not None:
        try:
            return float(cpus)
        except ValueError:
            raise UsageError(f"invalid --cpus: {cpus!r}", hint="give a number: 1.5") from None
    time = _integer(quota or "", "--cpu-quota")
    each = 100_000 if period is None else _integer(period, "--cpu-period")
    if time == -1:  # docker's word for no limit
        return None
    if not 1000 <= each <= 1_000_000:
        raise UsageError(
            f"--cpu-period {each} is not between 1000 and 1000000", hint="the usual one is 100000"
        )
    return time / each


def _integer(text: str, flag: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"invalid {flag}: {text!r}", hint="give a whole number") from None


def _volume(text: str) -> Volume:
    source, _, rest = text.partition(":")
    target, _, words = rest.partition(":")
    if not (source and target):
        raise UsageError(f"invalid --volume: {text!r}", hint=_VOLUME)
    if source[0] not in "/.":
        raise UsageError(
            f"there are no volumes with names, such as {source}", hint=f"give a path: ./{source}"
        )
    readonly = False
    for word in filter(None, words.split(",")):
        if word in {"ro", "rw"}:
            readonly = word == "ro"
        elif word in {"z", "Z"}:
            _check_label(text, word)
        else:
            hint = "options are ro, rw, z and Z"
            raise UsageError(f"invalid --volume: {text!r}: unknown option {word}", hint=hint)
    return Volume(Path(source), target, readonly)


def _check_label(text: str, word: str) -> None:
    """Refuse to relabel where there are labels; elsewhere the word has nothing to say."""
    if _SELINUX.exists():
        raise UsageError(
            f"--volume {text}: files are not relabelled for {word}",
            hint="leave it out, and label the files: chcon -R -t container_file_t SOURCE",
        )


def environment_pairs(texts: Sequence[str], files: Sequence[Path]) -> dict[str, str]:
    """Read --env-file and --env as docker does: NAME alone is the caller's; later ones win."""
    from imgbuild.cli import environment

    lines: list[str] = []
    for file in files:
        lines += _env_lines(file)
    return dict(filter(None, (environment.build_arg(text) for text in (*lines, *texts))))


def _env_lines(file: Path) -> list[str]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(
            f"cannot read --env-file {file}: {problem}", hint="name a file of lines NAME=VALUE"
        ) from None
    lines = [line.lstrip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
