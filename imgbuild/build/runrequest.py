"""What callers say about how commands run, checked before anything is done."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgbuild.errors import UsageError
from imgbuild.options import NetworkMode, RunOptions, Volume
from imgbuild.sandbox.child.capability_names import NAMES

ALL = "ALL"
GATEWAY = "host-gateway"
NO_DNS = ("none",)
_ENTITLEMENTS = ("network.host", "security.insecure", "device")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_LEAST_MEMORY = 6 << 20  # docker's own least


def settled_run(options: RunOptions) -> RunOptions:
    """Make lists tuples and paths absolute; raise `UsageError` for what can never be had."""
    if not isinstance(options, RunOptions):
        raise UsageError(
            f"run is no RunOptions, but a {type(options).__name__}",
            hint="give imgbuild.RunOptions(…)",
        )
    _check_types(options)
    options = replace(options, isolation=_isolation(options.isolation))
    _check_allowed(options)
    _check_names(options)
    _check_numbers(options)
    return replace(
        options,
        allow=tuple(options.allow),
        add_hosts=tuple((name, address) for name, address in options.add_hosts),
        dns=tuple(options.dns),
        dns_search=tuple(options.dns_search),
        dns_options=tuple(options.dns_options),
        ulimits=_ulimits(options.ulimits),
        cap_add=_capabilities("cap-add", options.cap_add),
        cap_drop=_capabilities("cap-drop", options.cap_drop),
        devices=tuple(options.devices),
        volumes=tuple(map(_volume, options.volumes)),
        pids_limit=options.pids_limit if (options.pids_limit or 0) > 0 else None,
        memory=options.memory or None,
        cpus=options.cpus or None,
    )


def check_words(name: str, words: Any) -> None:
    """Raise `UsageError` for one text in place of several: it would be taken for its letters."""
    if isinstance(words, str | bytes):
        raise UsageError(f"{name} is one text: {words!r}", hint=f"give a list: {words.split()!r}")


def _check_types(options: RunOptions) -> None:
    """Raise `UsageError` for what a flag is given as, but not a field."""
    for name in _SEVERAL:
        check_words(name, getattr(options, name))
    pairs: Any = options.add_hosts
    for pair in pairs:
        if isinstance(pair, str | bytes) or len(pair) != 2:
            raise UsageError(
                f"add_hosts has no pair, but {pair!r}", hint='give ("NAME", "ADDRESS") for each'
            )
    for name, kinds in _NUMBERS.items():
        value = getattr(options, name)
        if value is not None and not isinstance(value, kinds):
            raise UsageError(f"{name} is no number, but {value!r}", hint=_UNITS.get(name))


_SEVERAL = (
    *("allow", "add_hosts", "dns", "dns_search", "dns_options", "ulimits"),
    *("cap_add", "cap_drop", "devices", "volumes"),
)
_NUMBERS: Mapping[str, type | tuple[type, ...]] = {
    "shm_size": int, "memory": int, "pids_limit": int, "cpus": (int, float),
    "timeout": (int, float),
}  # fmt: skip
_UNITS = {
    "shm_size": "give bytes: 64 << 20",
    "memory": "give bytes: 512 << 20",
    "timeout": "give seconds",
}


def _isolation(text: str) -> str:
    if text == "auto":  # nothing more is loaded for what is given most
        return text
    from imgbuild.sandbox.candidates import parse_isolation

    return parse_isolation(text)


def settled_network(network: str) -> NetworkMode:
    """Return a network's name; raise `UsageError` for what is none."""
    known: dict[str, NetworkMode] = {"default": "default", "host": "host", "none": "none"}
    if network in known:
        return known[network]
    raise UsageError(f"unknown network: {network}", hint="give default, host or none")


def _check_allowed(options: RunOptions) -> None:
    for name in options.allow:
        kind, equals, device = name.partition("=")
        if kind not in _ENTITLEMENTS or (equals and (kind != "device" or not device)):
            raise UsageError(
                f"unknown entitlement: {name}",
                hint="allow network.host, security.insecure, device or device=NAME",
            )
    if options.runtime is not None and options.isolation != "oci":
        raise UsageError(
            f"no runtime is used with isolation {options.isolation}",
            hint=f"add --isolation=oci, or leave --runtime={options.runtime} out",
        )
    if options.on_fail not in {"stop", "shell"}:
        raise UsageError(f"unknown on-fail: {options.on_fail}", hint="give stop or shell")


def _check_names(options: RunOptions) -> None:
    for name, address in options.add_hosts:
        if not _HOST_NAME.fullmatch(name):
            raise UsageError(
                f"add-host: {name!r} is no host name", hint="as in --add-host db:10.0.0.5"
            )
        if address != GATEWAY:
            _check_address("add-host", address)
    if options.dns != NO_DNS:
        for address in options.dns:
            _check_address("dns", address)
    elif options.dns_search or options.dns_options:
        raise UsageError(
            "--dns none leaves the image's resolv.conf, so nothing can be added to it",
            hint="leave --dns-search and --dns-option out",
        )
    for word in (*options.dns_search, *options.dns_options):
        if not word or any(
            character.isspace() or not character.isprintable() for character in word
        ):
            raise UsageError(
                f"{word!r} cannot stand in resolv.conf", hint="give one word each time"
            )


def _check_address(flag: str, text: str) -> None:
    from ipaddress import ip_address

    try:
        ip_address(text)
    except ValueError:
        hint = (
            "give an address, or host-gateway" if flag == "add-host" else "give an address, or none"
        )
        raise UsageError(f"{flag}: {text!r} is not an IP address", hint=hint) from None


def _check_numbers(options: RunOptions) -> None:
    if options.shm_size <= 0:
        raise UsageError("the size of /dev/shm has to be above 0", hint="give --shm-size 64m")
    if options.memory is not None and 0 < options.memory < _LEAST_MEMORY:
        raise UsageError("minimum memory limit allowed is 6MB", hint="give --memory 512m")
    if options.memory is not None and options.memory < 0:
        raise UsageError("the limit of memory is below 0", hint="leave it out for no limit")
    cpus = options.cpus
    if cpus is not None and (not math.isfinite(cpus) or cpus < 0 or 0 < cpus < 0.01):
        raise UsageError(f"invalid number of cpus: {cpus}", hint="give 0.01 or more")
    pids = options.pids_limit
    if pids is not None and pids < -1:
        raise UsageError(f"invalid pids-limit: {pids}", hint="give a number; -1 is no limit")
    if options.timeout is not None and not 0 < options.timeout < math.inf:
        raise UsageError("a timeout has to be above 0", hint="write it as 90, 90s, 5m or 1h30m")


def _ulimits(limits: Sequence[Any]) -> tuple[tuple[str, int, int], ...]:
    from imgbuild.build.ulimits import parse_ulimit

    last: dict[str, tuple[str, int, int]] = {}
    for limit in limits:
        try:
            name, soft, hard = limit
            # The last one of a name counts, as with docker.
            last[name] = parse_ulimit(f"{name}={soft}:{hard}")
        except ValueError as error:
            raise UsageError(
                str(error), hint='write it as ("nofile", 1024, 2048), or --ulimit nofile=1024:2048'
            ) from None
    return tuple(last.values())


def _capabilities(flag: str, names: Sequence[str]) -> tuple[str, ...]:
    """Give names as the sandbox has them: `CAP_NET_ADMIN`, `net_admin` and `NET_ADMIN` are one."""
    found = []
    for name in names:
        bare = name.lower().removeprefix("cap_")
        if bare == "all":
            found.append(ALL)
        elif bare in NAMES:
            found.append(bare)
        else:
            raise UsageError(f"unknown capability to {flag}: {name!r}", hint=_near(bare))
    return tuple(found)


def _near(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, NAMES, n=1)
    return f"did you mean {near[0].upper()}?" if near else "see capabilities(7); ALL is all"


def _volume(volume: Any) -> Volume:
    if not isinstance(volume, Volume):
        raise UsageError(
            f"volumes has no Volume, but a {type(volume).__name__}",
            hint='give imgbuild.Volume(path, "/target")',
        )
    if volume.target.startswith("/") and volume.target.strip("/") in {"", ".", ".."}:
        raise UsageError(
            "invalid volume specification: destination can't be '/'",
            hint="write it as SOURCE:/target",
        )
    if not volume.target.startswith("/"):
        raise UsageError(
            f"invalid volume specification: {volume.target!r} is no absolute path in the container",
            hint="write it as SOURCE:/target",
        )
    source = Path(volume.source)
    if not source.exists():
        raise UsageError(f"the volume {source} does not exist", hint="make it first")
    return replace(volume, source=source.resolve())
