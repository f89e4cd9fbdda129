"""Which network commands get: none, this machine's, or one of the build's own.

The build's own network reaches out through slirp4netns or pasta and nothing on this machine's
loopback. Where it cannot be had, or could not work, commands get this machine's, and that is told.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from imgbuild.build import netfiles
from imgbuild.build.runrequest import GATEWAY
from imgbuild.errors import ImgbuildError
from imgbuild.options import RunOptions
from imgbuild.sandbox.session import Session
from imgbuild.sandbox.spec import Network

Wanted = Literal["default", "host", "none"]

_TUN = Path("/dev/net/tun")
# In the order of preference: slirp4netns is ready in a fifth of the time, and releases of pasta
# that are still in use lose the end of connections that are closed at once.
_NAMES = ("slirp4netns", "pasta")
# A proxy as curl reads it: maybe a scheme, maybe a login, then the host.
_PROXY_HOST = re.compile(r"(?:[a-z0-9+.-]+://)?(?:[^@/]*@)?(\[[^\]]*\]|[^:/]*)", re.IGNORECASE)

_IPV4_LOOPBACK = re.compile(r"127(\.[0-9]+){1,3}")


class Helper(NamedTuple):
    """A program that makes a way out of a network; `kind` is its usual name."""

    kind: str
    program: str

    @property
    def dns(self) -> str:
        """The address in the network where the helper answers for this machine's name servers."""
        from imgbuild.sandbox.child.network import PASTA_DNS, SLIRP_DNS

        return PASTA_DNS if self.kind == "pasta" else SLIRP_DNS


def find_helpers(search_path: str) -> list[Helper]:
    """Look for the programs that can make a network, best first; nothing is started."""
    folders = [folder for folder in search_path.split(":") if folder.startswith("/")]
    paths = ((name, os.path.join(folder, name)) for name in _NAMES for folder in folders)
    found = [Helper(name, path) for name, path in paths if os.access(path, os.X_OK)]
    return [
        next(h for h in found if h.kind == kind) for kind in dict.fromkeys(h.kind for h in found)
    ]


def why_not(helpers: Sequence[Helper], options: RunOptions) -> str | None:
    """Say why a build cannot have a network of its own, as far as one can see without trying."""
    if any(address == GATEWAY for _, address in options.add_hosts):
        return "host-gateway is this machine"
    if not helpers:
        return "neither pasta (package passt) nor slirp4netns is installed"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"{_TUN} cannot be opened, which {helpers[0].kind} needs"
    return None


class Networks:
    """The network of one build, made at first need.

    `notice` tells the user what is not as they may expect, once. `session` gives the session to
    make the network in.
    """

    def __init__(
        self,
        search_path: str,
        options: RunOptions,
        session: Callable[[], Session],
        notice: Callable[[str], object],
    ) -> None:
        self._session = session
        self._notice = notice
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._early: threading.Thread | None = None
        self._problem: str | None = None
        self._options = options
        self._helpers = find_helpers(search_path)
        self._reason = why_not(self._helpers, options)

    @property
    def dns(self) -> str | None:
        """The address of name servers in the build's own network; None when there is none."""
        return None if self._reason else self._helpers[0].dns

    def begin(self) -> None:
        """Make the network while something else is done."""
        with self._lock:
            if self._reason is None and self._early is None:
                self._early = threading.Thread(target=self._make, daemon=True)
                self._early.start()

    def close(self) -> None:
        """Wait for what `begin` began; the session then ends the network."""
        if self._early is not None:
            self._early.join()

    def choose(self, wanted: Wanted, env: Iterable[tuple[str, str]] = ()) -> Network:
        """Return the network of a command; `env` may have proxies that it depends on."""
        if wanted != "default":
            return wanted
        reason = self._reason or _loopback_proxy(env)
        if reason is None:
            self.begin()
            assert self._early is not None  # noqa: S101  `begin` made it
            self._early.join()
            reason = self._problem
        if reason is None:
            return "private"
        self._tell(f"commands use this machine's network: {reason}")
        return "host"

    def _make(self) -> None:
        said: list[str] = []
        helper = self._helpers[0]  # the one that the name servers were written down for
        try:
            tier = self._session().tier
            if tier.name in {"D", "D-userns"}:
                self._problem = f"there is no other one in tier {tier.name}"
                return
            names = netfiles.needs_helper(netfiles.host_resolver(), self._options)
            params = {"kind": helper.kind, "program": helper.program, "names": names}
            _, fds = self._session().request("network", params)
            self._session().keep_network(fds[0])
        except ImgbuildError as problem:
            said.append(problem.message)
        self._problem = said[0] if said else None

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._notice(text)


def _loopback_proxy(env: Iterable[tuple[str, str]]) -> str | None:
    """Say which proxy can be reached on this machine alone."""
    for name, value in env:
        if name.lower().endswith("_proxy") and name.lower() != "no_proxy":
            found = _PROXY_HOST.match(value)
            host = found[1].strip("[]").lower() if found else ""
            if host in {"localhost", "::1"} or _IPV4_LOOPBACK.fullmatch(host):
                return f"{name} is on its loopback"
    return None
