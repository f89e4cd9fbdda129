"""Credentials from docker's `config.json`: `auths`, `credHelpers`, `credsStore`.

The file: https://docs.docker.com/reference/cli/docker/login/. Helpers:
https://github.com/docker/docker-credential-helpers.
"""

import base64
import binascii
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from imgbuild.oci.reference import HUB
from imgbuild.registry.docker_config import load_config, malformed, mapping

_HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = frozenset({HUB, "index.docker.io", "registry-1.docker.io"})
_HELPER_TIMEOUT = 60.0
_MAX_ANSWER = 1 << 20
# The one failure that is none: the helper works and knows nothing about the registry.
_NOT_STORED = "credentials not found in native keychain"
_TOKEN_USER = "<token>"  # noqa: S105 - what helpers say instead of a user name


class Credential(NamedTuple):
    """A user name and password, or an identity token, or a bearer token to be used as it is."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return f"Credential({self.username!r}, ...)"

    @property
    def user(self) -> str:
        """The name to show: tokens have none."""
        return self.username or "the stored token"


def find_credential(
    folder: Path | None, domain: str, warn: Callable[[str], None]
) -> Credential | None:
    """Return what docker's config in `folder` holds for the registry `domain`, else None.

    A helper that cannot be run is reported to `warn` and passed over, so that public images
    can be had on a machine that has a config but not the helper it names.
    Raises `AuthenticationError` when the file cannot be read or understood.
    """
    if folder is None:
        return None
    path = folder / "config.json"
    config = load_config(path)
    auths = mapping(config, "auths", path)
    server = _HUB_KEY if domain == HUB else domain
    helper = _helper_for(config, server, domain, path)
    if helper:
        found = _ask_helper(helper, server, warn)
        if found is not None:
            return found
    return _from_auths(auths, domain, path)


def _helper_for(config: dict[str, Any], server: str, domain: str, path: Path) -> str:
    helpers = mapping(config, "credHelpers", path)
    name = helpers.get(server) or helpers.get(domain) or config.get("credsStore") or ""
    if not isinstance(name, str) or "/" in name or "\0" in name:
        raise malformed(path, "the name of a credential helper is not a plain name")
    return name


def _from_auths(auths: dict[str, Any], domain: str, path: Path) -> Credential | None:
    """The exact key counts most; else one whose host is the registry's, as in docker's CLI."""
    names = _HUB_NAMES if domain == HUB else {domain}
    keys = [_HUB_KEY] if domain == HUB else [domain]
    keys += [key for key in auths if _host_of(key) in names]
    for key in keys:
        entry = auths.get(key)
        if isinstance(entry, dict) and (found := _from_entry(entry, key, path)):
            return found
    return None


def _host_of(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _from_entry(entry: dict[str, Any], key: str, path: Path) -> Credential | None:
    fields = ("username", "password", "identitytoken", "registrytoken")
    username, password, identity, bearer = (_text(entry.get(field)) for field in fields)
    if encoded := _text(entry.get("auth")):
        try:
            decoded = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise malformed(path, f"the auth of {key} is not base64") from None
        # A password may hold colons, a user name may not; old versions padded with NULs.
        username, _, password = decoded.rstrip("\0").partition(":")
    if identity or bearer:
        return Credential(username, "", identity, bearer)
    return _credential(username, password) if username else None


def _credential(username: str, password: str) -> Credential:
    if username == _TOKEN_USER:
        return Credential(identity_token=password)
    return Credential(username, password)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _ask_helper(name: str, server: str, warn: Callable[[str], None]) -> Credential | None:
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=_HELPER_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        warn(f"the credential helper {program} is not installed")
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        warn(f"the credential helper {program} failed: {error}")
        return None
    if done.returncode:
        # Helpers tell their troubles on standard output.
        said = (done.stdout.strip() or done.stderr.strip()).decode("utf-8", "replace")
        if said != _NOT_STORED:
            warn(f"the credential helper {program} failed: {said[:300]}")
        return None
    return _read_answer(done.stdout[:_MAX_ANSWER], program, warn)


def _read_answer(data: bytes, program: str, warn: Callable[[str], None]) -> Credential | None:
    try:
        answer = json.loads(data)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        # Nothing of the answer is shown: it may hold the secret.
        warn(f"the credential helper {program} gave an answer that cannot be read")
        return None
    if not (isinstance(username, str) and isinstance(secret, str) and username):
        return None
    return _credential(username, secret)
