"""Where things of the caller are when nobody says."""

import os
from dataclasses import replace
from pathlib import Path

from imgbuild.errors import UsageError
from imgbuild.options import RegistryOptions


def home() -> Path:
    """Return the caller's home folder by the password database: the library reads no environment."""
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise UsageError(
            f"user {os.getuid()} has no home folder", hint="name the store: store=PATH or --store"
        ) from None


def store_path(store: str | os.PathLike[str] | None) -> Path:
    """Return the folder of the store; the one in the home folder when none was named."""
    return home() / ".local/share/imgbuild" if store is None else Path(store)


def registry_options(options: RegistryOptions | None) -> RegistryOptions:
    """Return `options` with docker's folder in the home folder where none was named."""
    options = options or RegistryOptions()
    if options.docker_config is None:
        return replace(options, docker_config=home() / ".docker")
    return options
