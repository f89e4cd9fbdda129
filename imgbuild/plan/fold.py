"""What each instruction makes of the image's config, and the line of history it leaves.

Config is never executed: ENV, CMD and the like are folded here, when the plan is made.
Texts are BuildKit's to the letter (convert.go, commitToHistory).
"""

from collections.abc import Iterable, Mapping

from imgbuild.dockerfile.instructions import (
    Cmd,
    Command,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    Maintainer,
    OnBuild,
    Shell,
    StopSignal,
    User,
    Volume,
)
from imgbuild.dockerfile.quoting import quote_list
from imgbuild.errors import DockerfileError
from imgbuild.oci import config as oci
from imgbuild.oci.platform import Platform
from imgbuild.options import STANDARD_PATH
from imgbuild.plan.goformat import duration, plain_list
from imgbuild.plan.ports import expand_ports
from imgbuild.plan.scope import Scope
from imgbuild.plan.signals import check_signal

_SHELLS: Mapping[str, tuple[str, ...]] = {"windows": ("cmd", "/S", "/C")}
# What older builders noted about the container a base was committed from: true of that base alone.
_OF_THE_BASE = frozenset(
    ["container", "container_config", "docker_version", "id", "parent", "moby.buildkit.cache.v0"]
)
_OF_THE_BASE_RUN = frozenset(
    [
        "AttachStderr",
        "AttachStdin",
        "AttachStdout",
        "Domainname",
        "Hostname",
        "Image",
        "MacAddress",
        "NetworkDisabled",
        "OpenStdin",
        "StdinOnce",
        "Tty",
    ]
)

ConfigInstruction = (
    Env
    | Label
    | Maintainer
    | Cmd
    | Entrypoint
    | User
    | Expose
    | Volume
    | StopSignal
    | Shell
    | Healthcheck
    | OnBuild
)


def scratch_config(platform: Platform) -> oci.ImageConfig:
    """Return the config that `FROM scratch` starts with."""
    return oci.ImageConfig(platform, oci.RunConfig(working_dir="/"))


class Config:
    """An image config while a stage is folded into it."""

    __slots__ = (
        "_args_escaped",
        "_author",
        "_cmd",
        "_cmd_is_own",
        "_entrypoint",
        "_extra",
        "_healthcheck",
        "_labels",
        "_on_build",
        "_platform",
        "_ports",
        "_run_extra",
        "_shell",
        "_stop_signal",
        "_volumes",
        "env",
        "user",
        "working_dir",
    )

    def __init__(self, base: oci.ImageConfig, default: Platform) -> None:
        run = base.run
        self._platform = _complete(base.platform, default)
        self._author = base.author
        self._extra = {k: v for k, v in base.extra.items() if k not in _OF_THE_BASE}
        self._run_extra = {k: v for k, v in run.extra.items() if k not in _OF_THE_BASE_RUN}
        self.user = run.user
        self.env = dict(run.env)
        if "PATH" not in self.env and self._platform.os != "windows":
            self.env["PATH"] = STANDARD_PATH
        self.working_dir = run.working_dir
        self._entrypoint = run.entrypoint
        self._cmd = run.cmd
        self._cmd_is_own = False
        self._args_escaped = run.args_escaped
        self._labels = dict(run.labels)
        self._ports = dict.fromkeys(run.exposed_ports)
        self._volumes = dict.fromkeys(run.volumes)
        self._stop_signal = run.stop_signal
        self._shell = run.shell
        self._healthcheck = run.healthcheck
        # The base's own triggers have fired; they are not handed on.
        self._on_build: list[str] = []

    def add_labels(self, labels: Mapping[str, str]) -> None:
        """Set the labels of the command line: they win, and leave no history."""
        self._labels.update(labels)

    def finished(self) -> oci.ImageConfig:
        """Return the config as it is now."""
        run = oci.RunConfig(
            user=self.user,
            exposed_ports=tuple(self._ports),
            env=tuple(self.env.items()),
            entrypoint=self._entrypoint,
            cmd=self._cmd,
            volumes=tuple(self._volumes),
            working_dir=self.working_dir,
            labels=dict(self._labels),
            stop_signal=self._stop_signal,
            args_escaped=self._args_escaped,
            healthcheck=self._healthcheck,
            on_build=tuple(self._on_build),
            shell=self._shell,
            extra=self._run_extra,
        )
        return oci.ImageConfig(self._platform, run, author=self._author, extra=self._extra)

    def command_line(self, command: Command) -> tuple[str, ...]:
        """Return the argument list of a command; the shell form goes to the shell."""
        if not command.shell:
            return command.args
        shell = self._shell or _SHELLS.get(self._platform.os, ("/bin/sh", "-c"))
        return (*shell, " ".join(command.args))

    def fold(self, instruction: ConfigInstruction, scope: Scope) -> str | None:
        """Apply `instruction` and return its history text, None when it leaves none.

        Raises `DockerfileError` in BuildKit's words.
        """
        match instruction:
            case Env(pairs=pairs):
                return self._fold_env(pairs, scope)
            case Label(pairs=pairs):
                expanded = _expanded(pairs, scope)
                self._labels.update(expanded)
                return f"LABEL {_assignments(expanded)}"
            case Maintainer(name=name):
                self._author = name
                return f"MAINTAINER {name}"
            case Cmd(command=command):
                return self._fold_cmd(command)
            case Entrypoint(command=command):
                return self._fold_entrypoint(command)
            case User(user=user):
                self.user = scope.expand(user)
                return f"USER {self.user}"
            case Expose(ports=ports):
                return self._fold_expose(ports, scope)
            case Volume(paths=paths):
                return self._fold_volume(paths, scope)
            case StopSignal(signal=signal):
                name = scope.expand(signal)
                check_signal(name)
                self._stop_signal = name
                return f"STOPSIGNAL {name}"
            case Shell(args=args):
                self._shell = args or None
                return f"SHELL {plain_list(args)}"
            case Healthcheck():
                return self._fold_healthcheck(instruction)
            case OnBuild(text=text):
                self._on_build.append(text)
                return None

    def _fold_env(self, pairs: tuple[tuple[str, str], ...], scope: Scope) -> str:
        # All words see the environment as it was before the instruction.
        expanded = _expanded(pairs, scope)
        self.env.update(expanded)
        scope.values.update(expanded)
        return f"ENV {_assignments(expanded)}"

    def _fold_cmd(self, command: Command) -> str:
        line = self.command_line(command)
        # BuildKit leaves an empty list out of its JSON.
        self._cmd = line or None
        self._cmd_is_own = True
        self._args_escaped = True
        return f"CMD {quote_list(line)}"

    def _fold_entrypoint(self, command: Command) -> str:
        line = self.command_line(command)
        self._entrypoint = line or None
        if not self._cmd_is_own:
            self._cmd = None
        return f"ENTRYPOINT {quote_list(line)}"

    def _fold_expose(self, ports: tuple[str, ...], scope: Scope) -> str:
        # BuildKit sorts the words as written, so that what a variable holds keeps its order.
        specs = [word for port in sorted(ports) for word in scope.words(port)]
        expanded = expand_ports(specs)
        self._ports.update(dict.fromkeys(expanded))
        return f"EXPOSE {plain_list(expanded)}"

    def _fold_volume(self, paths: tuple[str, ...], scope: Scope) -> str:
        expanded = [scope.expand(path) for path in paths]
        if not all(expanded):
            raise DockerfileError(
                "VOLUME specified can not be an empty string",
                hint="a variable in it is not set; give it a value with ARG or ENV",
            )
        self._volumes.update(dict.fromkeys(expanded))
        return f"VOLUME {plain_list(expanded)}"

    def _fold_healthcheck(self, check: Healthcheck) -> str:
        self._healthcheck = oci.Healthcheck(
            check.test,
            check.interval,
            check.timeout,
            check.start_period,
            check.start_interval,
            check.retries,
        )
        return (
            f"HEALTHCHECK {{Test:{plain_list(check.test)} Interval:{duration(check.interval)}"
            f" Timeout:{duration(check.timeout)} StartPeriod:{duration(check.start_period)}"
            f" StartInterval:{duration(check.start_interval)} Retries:{check.retries}}}"
        )


def _complete(platform: Platform, default: Platform) -> Platform:
    if platform.os and platform.architecture:
        return platform.normalised()
    return default


def _expanded(pairs: Iterable[tuple[str, str]], scope: Scope) -> list[tuple[str, str]]:
    return [(scope.expand(name), scope.expand(value)) for name, value in pairs]


def _assignments(pairs: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"{name}={value}" for name, value in pairs)
