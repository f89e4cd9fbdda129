"""Docker's `config.json`: reading it, and the proxy settings it has for commands of a build.

The file: https://docs.docker.com/reference/cli/docker/#docker-cli-configuration-file-configjson-properties.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgbuild.errors import AuthenticationError

# What the file calls a setting, and the build argument that docker makes of it.
_PROXIES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "noProxy": "NO_PROXY",
    "ftpProxy": "FTP_PROXY",
    "allProxy": "ALL_PROXY",
}
_ANY_HOST = "default"


def load_config(path: Path) -> dict[str, Any]:
    """Return the file's content, nothing where there is none.

    Raises `AuthenticationError` when it cannot be read or understood.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise AuthenticationError(
            f"cannot read {path}: {error.strerror}", hint="check the permissions of the file"
        ) from None
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise malformed(path, str(error)) from None
    if not isinstance(config, dict):
        raise malformed(path, "it is not a JSON object")
    return config


def malformed(path: Path, why: str) -> AuthenticationError:
    """Return the error for a file that cannot be understood."""
    return AuthenticationError(
        f"{path} is malformed: {why}", hint="repair it, or remove it and run `docker login` again"
    )


def mapping(config: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """Return the object at `key`, an empty one where there is none."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise malformed(path, f"{key} is not an object")
    return value


def build_proxies(folder: Path | None, host: str, warn: Callable[[str], None]) -> dict[str, str]:
    """Return the build arguments that docker would add: `proxies` of `host`, else of `default`.

    `host` is the address of the daemon that docker would use. A file that cannot be read is
    reported to `warn`: a build that asks no registry needs nothing of it.
    """
    if folder is None:
        return {}
    path = folder / "config.json"
    try:
        every = mapping(load_config(path), "proxies", path)
        found = every.get(host, every.get(_ANY_HOST))
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise malformed(path, "proxies are not an object")
    except AuthenticationError as error:
        warn(error.message)
        return {}
    values = ((name, found.get(key)) for key, name in _PROXIES.items())
    return {name: value for name, value in values if isinstance(value, str) and value}
