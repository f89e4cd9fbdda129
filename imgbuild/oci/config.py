"""Image configs: what a container runs with, and how the image came to be (image-spec config.md).

Key order and omitted fields follow what BuildKit writes, byte for byte.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imgbuild.errors import ImageError
from imgbuild.oci.codec import (
    dump_compact,
    expect,
    load_object,
    optional,
    rest,
    string_list,
    string_map,
)
from imgbuild.oci.digest import Digest, parse_digest
from imgbuild.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """Durations are in nanoseconds; 0 means inherited."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How a container is run. None tells "never set" from an empty list."""

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of `docker history`. `created` is RFC 3339."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    platform: Platform
    run: RunConfig = RunConfig()
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    created: str | None = None
    author: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


_RUN_FIELDS = frozenset(
    [
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
        "ArgsEscaped",
        "Healthcheck",
        "OnBuild",
        "Shell",
    ]
)
_TOP_FIELDS = frozenset(
    [
        "architecture",
        "author",
        "config",
        "created",
        "history",
        "os",
        "rootfs",
        "variant",
        "os.version",
        "os.features",
    ]
)
_HISTORY_FIELDS = frozenset(["created", "created_by", "author", "comment", "empty_layer"])


def parse_config(data: bytes) -> ImageConfig:
    """Read an image config; raise `ImageError` when a field has the wrong type."""
    document = load_object(data, "image config")
    rootfs = optional(document.get("rootfs"), dict, "rootfs", {})
    diff_ids = optional(rootfs.get("diff_ids"), list, "rootfs diff_ids", [])
    history = optional(document.get("history"), list, "history", [])
    return ImageConfig(
        platform=Platform(
            optional(document.get("os"), str, "os", ""),
            optional(document.get("architecture"), str, "architecture", ""),
            optional(document.get("variant"), str, "variant", ""),
            optional(document.get("os.version"), str, "os.version", ""),
            string_list(document.get("os.features"), "os.features") or (),
        ),
        run=_parse_run(optional(document.get("config"), dict, "config", {})),
        diff_ids=tuple(parse_digest(item) for item in diff_ids),
        history=tuple(_parse_history(item) for item in history),
        created=optional(document.get("created"), str, "created", "") or None,
        author=optional(document.get("author"), str, "author", ""),
        extra=rest(document, _TOP_FIELDS),
    )


def _parse_run(data: Mapping[str, Any]) -> RunConfig:
    env = string_list(data.get("Env"), "Env") or ()
    health = data.get("Healthcheck")
    return RunConfig(
        user=optional(data.get("User"), str, "User", ""),
        exposed_ports=tuple(optional(data.get("ExposedPorts"), dict, "ExposedPorts", {})),
        env=tuple((name, value) for name, _, value in (item.partition("=") for item in env)),
        entrypoint=string_list(data.get("Entrypoint"), "Entrypoint"),
        cmd=string_list(data.get("Cmd"), "Cmd"),
        volumes=tuple(optional(data.get("Volumes"), dict, "Volumes", {})),
        working_dir=_working_dir(data.get("WorkingDir")),
        labels=string_map(data.get("Labels"), "Labels"),
        stop_signal=optional(data.get("StopSignal"), str, "StopSignal", ""),
        args_escaped=optional(data.get("ArgsEscaped"), bool, "ArgsEscaped", False),
        healthcheck=None if health is None else _parse_health(expect(health, dict, "Healthcheck")),
        on_build=string_list(data.get("OnBuild"), "OnBuild") or (),
        shell=string_list(data.get("Shell"), "Shell"),
        extra=rest(data, _RUN_FIELDS),
    )


def _parse_health(data: Mapping[str, Any]) -> Healthcheck:
    def number(key: str) -> int:
        return optional(data.get(key), int, f"Healthcheck {key}", 0)

    return Healthcheck(
        test=string_list(data.get("Test"), "Healthcheck Test") or (),
        interval=number("Interval"),
        timeout=number("Timeout"),
        start_period=number("StartPeriod"),
        start_interval=number("StartInterval"),
        retries=number("Retries"),
    )


def _parse_history(value: object) -> HistoryEntry:
    data = expect(value, dict, "history entry")
    return HistoryEntry(
        created=optional(data.get("created"), str, "history created", "") or None,
        created_by=optional(data.get("created_by"), str, "history created_by", ""),
        author=optional(data.get("author"), str, "history author", ""),
        comment=optional(data.get("comment"), str, "history comment", ""),
        empty_layer=optional(data.get("empty_layer"), bool, "history empty_layer", False),
        extra=rest(data, _HISTORY_FIELDS),
    )


def dump_config(config: ImageConfig) -> bytes:
    """Write an image config with BuildKit's key order: the top level alphabetical, `config` as Go's struct."""
    out: dict[str, Any] = {"architecture": config.platform.architecture}
    if config.author:
        out["author"] = config.author
    out["config"] = _dump_run(config.run)
    if config.created:
        out["created"] = config.created
    if config.history:
        out["history"] = [_dump_history(entry) for entry in config.history]
    out["os"] = config.platform.os
    if config.platform.os_features:
        out["os.features"] = list(config.platform.os_features)
    if config.platform.os_version:
        out["os.version"] = config.platform.os_version
    out["rootfs"] = {
        "type": "layers",
        "diff_ids": [str(item) for item in config.diff_ids] or None,
    }
    if config.platform.variant:
        out["variant"] = config.platform.variant
    for key in config.extra:
        out[key] = config.extra[key]
    return dump_compact(dict(sorted(out.items())))


def _dump_run(run: RunConfig) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if run.user:
        out["User"] = run.user
    if run.exposed_ports:
        out["ExposedPorts"] = {port: {} for port in sorted(run.exposed_ports)}
    if run.env:
        out["Env"] = [f"{name}={value}" for name, value in run.env]
    if run.entrypoint is not None:
        out["Entrypoint"] = list(run.entrypoint)
    if run.cmd is not None:
        out["Cmd"] = list(run.cmd)
    if run.volumes:
        out["Volumes"] = {path: {} for path in sorted(run.volumes)}
    if run.working_dir:
        out["WorkingDir"] = run.working_dir
    if run.labels:
        out["Labels"] = dict(sorted(run.labels.items()))
    if run.stop_signal:
        out["StopSignal"] = run.stop_signal
    if run.args_escaped:
        out["ArgsEscaped"] = True
    if run.healthcheck is not None:
        out["Healthcheck"] = _dump_health(run.healthcheck)
    if run.on_build:
        out["OnBuild"] = list(run.on_build)
    if run.shell is not None:
        out["Shell"] = list(run.shell)
    out.update(run.extra)
    return out


def _dump_health(health: Healthcheck) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if health.test:
        out["Test"] = list(health.test)
    numbers = {
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
        "Retries": health.retries,
    }
    out.update({key: value for key, value in numbers.items() if value})
    return out


def _dump_history(entry: HistoryEntry) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if entry.created:
        out["created"] = entry.created
    if entry.created_by:
        out["created_by"] = entry.created_by
    if entry.author:
        out["author"] = entry.author
    if entry.comment:
        out["comment"] = entry.comment
    if entry.empty_layer:
        out["empty_layer"] = True
    out.update(entry.extra)
    return out


def check_history(config: ImageConfig) -> None:
    """Raise `ImageError` when the history names more or fewer layers than `diff_ids` has."""
    filled = sum(not entry.empty_layer for entry in config.history)
    if config.history and filled != len(config.diff_ids):
        raise ImageError(
            f"the image's history names {filled} layers but it has {len(config.diff_ids)}"
        )


def _working_dir(value: object) -> str:
    path = optional(value, str, "WorkingDir", "")
    if "\0" in path:
        raise ImageError(f"WorkingDir is no path: {path!r}")
    return path
