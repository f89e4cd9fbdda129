"""How git is told to reach one repository: protocols, proxies, certificates, keys, credentials."""

import re
import shlex
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from imgbuild.build.gitauth import Authorization, GitSecrets, authorization
from imgbuild.build.gitcommand import (
    ANYWHERE,
    Access,
    Git,
    GitFailedError,
    Place,
    RemoteFailedError,
)
from imgbuild.build.gitremote import Remote, redirected
from imgbuild.errors import ContextError
from imgbuild.options import RegistryOptions

_REDIRECT = re.compile(r"returned error: 30\d")
_LOCATION = re.compile(r"<= Recv header: location: *(\S+)", re.IGNORECASE)
_MOST_REDIRECTS = 3
# git:// and ssh:// have no limits of their own for servers that say nothing, or next to nothing.
_LONGEST_QUESTION = 300.0  # seconds
_LONGEST_FETCH = 6 * 3600.0
_SELF = "localhost,127.0.0.1,::1"
_TRACE = {"GIT_TRACE_CURL": "1", "GIT_TRACE_CURL_NO_DATA": "1", "GIT_TRACE_REDACT": "1"}


class Reach(NamedTuple):
    """What repositories of a build are reached with.

    `known_hosts` is a file of the user's, for keys that are known; without one, the key that a
    server shows first is kept in `learned_hosts`. No more than `most` bytes are fetched at once.
    """

    secrets: GitSecrets
    registry: RegistryOptions
    learned_hosts: Path
    known_hosts: Path | None = None
    most: int | None = None


class Connection:
    """One repository, by the address that it was given; its server may send on to another one."""

    def __init__(self, git: Git, remote: Remote, top: Remote, reach: Reach) -> None:
        self._git = git
        self._authorization = authorization(remote, top, reach.secrets)
        self._reach = reach
        self._access: Access | None = None
        self._address = remote
        self._redirects = 0
        self.remote = remote
        # Whether the server gave an answer to these credentials.
        self.is_admitted = False

    @property
    def private(self) -> tuple[str, ...]:
        """Texts that must not be shown."""
        return self._authorization.private if self._authorization else ()

    def credentials(self) -> str:
        """Return what tells credentials from others, and not what they are; empty for none."""
        if self._authorization is not None:
            return sha256(self._authorization.value.encode("utf-8", "surrogateescape")).hexdigest()
        # An agent may have any keys.
        is_lent = self.remote.scheme == "ssh" and self._reach.secrets.ssh() is not None
        return "ssh" if is_lent else ""

    def run(self, command: Sequence[str], *what: str, place: Place = ANYWHERE) -> bytes:
        """Run `git COMMAND -- ADDRESS WHAT`; raise `RemoteFailedError`."""
        try:
            told = self._call(command, what, place, {})
        except GitFailedError as failure:
            if not self._follow(failure):
                raise RemoteFailedError(failure.status, failure.said) from None
            return self.run(command, *what, place=place)
        self.is_admitted = True
        return told

    def _call(
        self, command: Sequence[str], what: Sequence[str], place: Place, env: Mapping[str, str]
    ) -> bytes:
        base = self._how()
        seconds = _LONGEST_QUESTION if "ls-remote" in command else _LONGEST_FETCH
        access = base._replace(env={**base.env, **env}, seconds=seconds)
        words = (*command, "--", self._address.url, *what)
        place = place._replace(largest=self._reach.most)
        return self._git.run(*words, place=place, access=access)

    def _how(self) -> Access:
        # Made when it is first needed: what is kept in the store needs no agent.
        if self._access is None:
            self._access = _access(self.remote, self._reach, self._authorization)
        return self._access

    def _follow(self, failure: GitFailedError) -> bool:
        """Take the address that the server sends on to, when credentials may go there.

        git itself would carry them to any server, so with credentials it is told not to follow.
        """
        if not self._authorization or not _REDIRECT.search(failure.said):
            return False
        self._redirects += 1
        if self._redirects > _MOST_REDIRECTS:
            return False
        try:
            self._call(["ls-remote"], ["HEAD"], ANYWHERE, _TRACE)
        except GitFailedError as traced:
            found = _LOCATION.findall(traced.said)
            moved = redirected(self._address, found[-1]) if found else None
        else:
            return True
        if moved is None:
            return False
        config = {
            key.replace(self._address.origin, moved.origin): value
            for key, value in self._how().config.items()
        }
        self._access = self._how()._replace(config=config)
        self._address = moved
        return True


def _access(remote: Remote, reach: Reach, found: Authorization | None) -> Access:
    if remote.is_web:
        return _web_access(remote, reach.registry, found)
    if remote.scheme == "ssh":
        return _ssh_access(reach)
    return Access(remote.scheme)


def _web_access(remote: Remote, options: RegistryOptions, found: Authorization | None) -> Access:
    config = {"http.followRedirects": "initial"}
    if options.ca_file is not None:
        config["http.sslCAInfo"] = str(options.ca_file)
    if found is not None:
        config["http.followRedirects"] = "false"
        config[f"http.{remote.origin}/.extraHeader"] = f"Authorization: {found.value}"
    proxies = {f"{key}_proxy": value for key, value in options.proxies.items() if value}
    exempt = proxies.get("no_proxy", "")
    # This machine itself is never asked through a proxy, as in the rest of a build.
    proxies["no_proxy"] = f"{exempt},{_SELF}" if exempt else _SELF
    # An encrypted connection stays one.
    protocols = "https" if remote.scheme == "https" else "http:https"
    return Access(protocols, config, proxies)


def _ssh_access(reach: Reach) -> Access:
    agent = reach.secrets.ssh()
    if agent is None:
        raise ContextError(
            'no SSH key "default" forwarded from the client',
            hint="give the build your SSH agent: --ssh default",
        )
    hosts, checking = reach.learned_hosts, "accept-new"
    if reach.known_hosts is not None:
        hosts, checking = reach.known_hosts, "yes"
    name = str(hosts).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    settings = (
        "BatchMode=yes",
        "ClearAllForwardings=yes",
        "ConnectTimeout=30",
        "ServerAliveInterval=20",
        # Of keys, the agent's alone: a Dockerfile does not get at what lies in ~/.ssh.
        "IdentityFile=none",
        f"StrictHostKeyChecking={checking}",
        f'UserKnownHostsFile="{name}"',
    )
    # git splits this as a shell would.
    words = ["ssh", "-F", "/dev/null", *(word for s in settings for word in ("-o", s))]
    env = {
        "GIT_SSH_COMMAND": shlex.join(words),
        "GIT_SSH_VARIANT": "ssh",
        "SSH_AUTH_SOCK": str(agent),
    }
    return Access("ssh", {}, env)
