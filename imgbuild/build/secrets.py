"""Secrets and SSH agents that the caller lends to a build: in no key, no layer and no message."""

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from imgbuild.errors import ContextError, UsageError
from imgbuild.options import STANDARD_PATH, Secret, SshAgent

if TYPE_CHECKING:
    from imgbuild.build.agents import KeyAgent

# As BuildKit's session/secrets.
_LARGEST = 500 << 10


class Secrets:
    """What --secret and --ssh gave; close it when the build ends.

    Raises `UsageError` at once for a file that is not there or is too large.
    """

    def __init__(
        self,
        secrets: Sequence[Secret] = (),
        agents: Sequence[SshAgent] = (),
        search_path: str = STANDARD_PATH,
    ) -> None:
        # The last one of a name counts, as with docker.
        self._secrets = {secret.id: secret for secret in secrets}
        self._agents = {agent.id: agent for agent in agents}
        self._search_path = search_path
        self._started: dict[str, KeyAgent] = {}
        self._drained: dict[str, bytes] = {}
        self._lent: dict[str, bytes] = {}
        for secret in self._secrets.values():
            _check_secret(secret)
        for agent in self._agents.values():
            _check_agent(agent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    def close(self) -> None:
        """End the agents that were started for keys."""
        while self._started:
            self._started.popitem()[1].close()

    @property
    def lent(self) -> Mapping[str, bytes]:
        """The values that were handed out so far, by name: none may show in output or in a layer."""
        return self._lent

    @property
    def has_agents(self) -> bool:
        return bool(self._agents)

    def get(self, name: str) -> bytes | None:
        """Return the value of the secret `name`, None where none was given; raise `ContextError`."""
        value = self._value(name)
        if value is not None:
            self._lent[name] = value
        return value

    def _value(self, name: str) -> bytes | None:
        secret = self._secrets.get(name)
        if secret is None:
            return None
        if secret.value is not None:
            return secret.value
        if name in self._drained:
            return self._drained[name]
        path = secret.path or Path(name)
        try:
            with path.open("rb") as file:
                data = file.read(_LARGEST + 1)
                is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        except OSError as error:
            raise ContextError(
                f"cannot read the secret {name} from {path}: {error.strerror}",
                hint="it was there when the build began",
            ) from None
        if len(data) > _LARGEST:
            raise _too_large(name)
        if not is_regular:
            # A pipe gives its content once.
            self._drained[name] = data
        return data

    def ssh(self, name: str = "default") -> Path | None:
        """Return the socket of the agent `name`, None where none was given.

        An agent for keys is started now, and asked for them. Raises `UsageError` where that fails.
        """
        agent = self._agents.get(name)
        if agent is None:
            return None
        if _is_socket(agent.paths[0]):
            return agent.paths[0]
        if name not in self._started:
            from imgbuild.build.agents import KeyAgent

            self._started[name] = KeyAgent(name, agent.paths, self._search_path)
        return self._started[name].socket


def _check_secret(secret: Secret) -> None:
    if not secret.id:
        raise UsageError("secret missing ID", hint="write it as --secret id=NAME,src=FILE")
    if secret.value is not None:
        if len(secret.value) > _LARGEST:
            raise _too_large(secret.id)
        return
    path = secret.path or Path(secret.id)
    try:
        found = path.stat()
        readable = os.access(path, os.R_OK)
    except OSError as error:
        raise UsageError(
            f"failed to stat {path}: {error.strerror}",
            hint=f"the secret {secret.id} is read from there; name another file with src=",
        ) from None
    if stat.S_ISDIR(found.st_mode) or not readable:
        reason = "it is a directory" if stat.S_ISDIR(found.st_mode) else "permission denied"
        raise UsageError(
            f"cannot read the secret {secret.id} from {path}: {reason}",
            hint="name a file that this user can read with src=",
        )
    if found.st_size > _LARGEST:
        raise _too_large(secret.id)


def _too_large(name: str) -> UsageError:
    return UsageError(
        f"secret {name} too big. max size 500KB",
        hint="a secret is a key or a token; larger files can come from a --build-context",
    )


def _check_agent(agent: SshAgent) -> None:
    """Raise `UsageError` in docker's words unless the paths are one socket, or files of keys."""
    if not agent.paths:
        raise UsageError(
            f"invalid empty ssh agent socket for --ssh {agent.id}: make sure SSH_AUTH_SOCK is set",
            hint="start an agent (ssh-agent, ssh-add), or name a key: --ssh default=FILE",
        )
    sockets = [path for path in agent.paths if _is_socket(path)]
    if len(sockets) > 1:
        raise UsageError(f"--ssh {agent.id}: only single socket allowed", hint="give one of them")
    if sockets and len(agent.paths) > 1:
        raise UsageError(
            f"--ssh {agent.id}: invalid combination of keys and sockets",
            hint="give the socket of an agent, or files of keys",
        )
    if not sockets:
        from imgbuild.build.agents import check_key

        for path in agent.paths:
            check_key(agent.id, path)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
