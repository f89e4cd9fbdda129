"""The only module that reads the process environment; everything else is told."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from imgbuild.errors import UsageError
from imgbuild.options import RegistryOptions

_SECONDS = re.compile(r"[0-9]{1,18}")


def default_store() -> Path:
    """Return `IMGBUILD_STORE`, else `imgbuild` in `XDG_DATA_HOME` (~/.local/share)."""
    if explicit := os.environ.get("IMGBUILD_STORE"):
        return Path(explicit)
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification says that relative paths are to be ignored.
    folder = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return folder / "imgbuild"


def source_date_epoch() -> int | str | None:
    """Return `SOURCE_DATE_EPOCH` in seconds, or the name of what has the time; None when unset or empty."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(text) if _SECONDS.fullmatch(text) else text or None


def parse_epoch(text: str, name: str) -> int:
    """Read a number of seconds since 1970; raise `UsageError` with BuildKit's words and `name`."""
    if not _SECONDS.fullmatch(text):
        raise UsageError(f"invalid {name}: {text}", hint="give a number of seconds since 1970")
    return int(text)


def registry_options() -> RegistryOptions:
    """Collect what concerns registries: `DOCKER_CONFIG`, `DOCKER_HOST`, the proxies and `SSL_CERT_FILE`."""
    config = os.environ.get("DOCKER_CONFIG")
    certificates = os.environ.get("SSL_CERT_FILE")
    return RegistryOptions(
        docker_config=Path(config) if config else Path.home() / ".docker",
        docker_host=os.environ.get("DOCKER_HOST") or RegistryOptions().docker_host,
        proxies=_proxies(),
        ca_file=Path(certificates) if certificates else None,
    )


def _proxies() -> Mapping[str, str]:
    found = {}
    for key in ("http", "https", "no"):
        # Lower case wins, as in curl; HTTP_PROXY alone is unsafe under CGI, which we never are.
        value = os.environ.get(f"{key}_proxy") or os.environ.get(f"{key.upper()}_PROXY")
        if value:
            found[key] = value
    return found


def standard_input() -> BinaryIO:
    """Return standard input as a file of bytes; raise `UsageError` where it is closed."""
    if sys.stdin is None:
        raise UsageError("standard input is closed", hint="send a tar or a Dockerfile to it")
    return sys.stdin.buffer


def search_path() -> str:
    """Return `PATH`, or a usual one when it is unset."""
    return os.environ.get("PATH") or "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def build_arg(text: str) -> tuple[str, str] | None:
    """Read one --build-arg: `NAME=VALUE`, or `NAME`, whose value is the environment's (None: unset)."""
    name, equals, value = text.partition("=")
    if not name:
        raise UsageError(f"invalid build argument: {text!r}", hint="write it as NAME=VALUE")
    if equals:
        return name, value
    inherited = os.environ.get(name)
    return None if inherited is None else (name, inherited)


def variable(name: str) -> bytes | None:
    """Return the value of a variable that a flag names, None when it is unset."""
    return os.environb.get(os.fsencode(name))


def ssh_agent() -> Path | None:
    """Return `SSH_AUTH_SOCK`: where the user's SSH agent listens."""
    socket = os.environ.get("SSH_AUTH_SOCK")
    return Path(socket) if socket else None


def colours() -> bool:
    """Tell whether colours are welcome (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
