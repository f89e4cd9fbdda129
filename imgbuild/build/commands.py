"""What all commands of a build share: their options, network, limits and the host's names."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from imgbuild.build import netfiles
from imgbuild.build.devices import of_step
from imgbuild.build.granted import with_options
from imgbuild.build.network import Networks, Wanted
from imgbuild.errors import SandboxError
from imgbuild.events import EventSink, Notice
from imgbuild.options import RunOptions
from imgbuild.sandbox.cgroups import Group, Limits, make_group
from imgbuild.sandbox.idmap import IdMap
from imgbuild.sandbox.runtimes import find_runtimes
from imgbuild.sandbox.session import Running, Session
from imgbuild.sandbox.spec import SandboxSpec
from imgbuild.sandbox.volumes import IdMapping
from imgbuild.snapshot.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Command:
    """A command that can start: its spec and the descriptors that `Session.run` takes with it."""

    spec: SandboxSpec
    lent: Mapping[str, int]
    group: Group | None

    def start(self, workspace: Workspace, streams: tuple[int, int, int]) -> Running:
        """Start it with descriptors of standard input, output and error, which the caller keeps."""
        stdin, stdout, stderr = streams
        return workspace.run(self.spec, stdin=stdin, stdout=stdout, stderr=stderr, lent=self.lent)

    @property
    def ran_out_of_memory(self) -> bool:
        return self.group is not None and self.group.ran_out_of_memory


class Commands:
    """Made for each build and each `imgbuild run`; `session` gives the session when asked."""

    def __init__(
        self,
        options: RunOptions,
        search_path: str,
        session: Callable[[], Session],
        events: EventSink,
    ) -> None:
        self.options = options
        self._session = session
        self._events = events
        self._told: set[str] = set()
        self._mapping: IdMapping | None = None
        self.networks = Networks(search_path, options, session, self._tell)
        self._search_path = search_path

    def files(self, hostname: str = netfiles.HOSTNAME) -> Mapping[str, str]:
        """Return what commands find in /etc, by the names that `Roots` has for it."""
        if self._session().tier.name == "D":  # where the name of this machine is that of commands
            hostname = " ".join(dict.fromkeys([hostname, *os.uname().nodename.split()]))
        text = netfiles.host_resolver()
        made = {
            "hosts": netfiles.hosts(self.options, hostname),
            "resolv.conf": netfiles.resolver(text, self.options),
        }
        if (dns := self.networks.dns) is not None:
            made["resolv.private"] = netfiles.resolver(text, self.options, dns)
        return {name: content for name, content in made.items() if content is not None}

    @contextmanager
    def ready(
        self, spec: SandboxSpec, network: Wanted, devices: tuple[str, ...] = ()
    ) -> Iterator[Command]:
        """Give a spec everything that options say; limits hold inside the block.

        Raises `UsageError` and `SandboxError` for what this host cannot give.
        """
        self._check_volumes()
        with ExitStack() as stack:
            mounts = self._mapped_volumes(stack)
            named = of_step(devices, self._tell) if devices else ()
            spec = with_options(spec, self.options, self._ids, named, mounts)
            spec = replace(spec, network=self.networks.choose(network, spec.env))
            spec = replace(spec, runtimes=self.runtimes)
            group = self._group(stack)
            spec = self._stand_in(spec, group.controllers if group else frozenset())
            lent = {f"mount:{target}": fd for target, fd in mounts.items()}
            yield Command(spec, {**lent, **(group.lend() if group else {})}, group)

    @cached_property
    def runtimes(self) -> tuple[str, ...]:
        """The OCI runtimes to try, best first; none where imgbuild itself makes the containers."""
        if self.options.isolation != "oci":
            return ()
        return find_runtimes(self.options.runtime, self._search_path)

    def close(self) -> None:
        """Let go of what commands shared, before the session ends."""
        self.networks.close()
        if self._mapping is not None:
            self._mapping.close()

    @property
    def _ids(self) -> IdMap:
        return self._session().tier.idmap

    def _check_volumes(self) -> None:
        """Raise `SandboxError` for volumes that only a mount can show."""
        if not self.options.volumes:
            return
        name = self._session().tier.name
        for volume in self.options.volumes:
            if name in {"D", "D-userns"} and not volume.readonly:
                raise SandboxError(
                    f"the volume {volume.source} cannot be written to in tier {name}: commands see "
                    "a copy, since nothing can be mounted here",
                    hint="add :ro, or see `imgbuild doctor` for what a better tier needs",
                )

    def _mapped_volumes(self, stack: ExitStack) -> Mapping[str, int]:
        """Give mounts of the volumes whose owners can be translated, by their targets."""
        mounts = {}
        for volume in self.options.volumes:
            self._mapping = self._mapping or IdMapping(self._ids)
            mount = self._mapping.mount(volume.source, readonly=volume.readonly)
            if mount is not None:
                stack.callback(os.close, mount)
                mounts[volume.target] = mount
        return mounts

    def _group(self, stack: ExitStack) -> Group | None:
        limits = Limits(self.options.memory, self.options.cpus, self.options.pids_limit)
        if not limits.controllers:
            return None
        group = make_group(limits)
        return stack.enter_context(group) if group is not None else None

    def _stand_in(self, spec: SandboxSpec, held: frozenset[str]) -> SandboxSpec:
        """Limit each process where the command as a whole cannot be limited, and say so."""
        options = self.options
        given = {name: (soft, hard) for name, soft, hard in spec.rlimits}
        processors = 0
        if options.memory is not None and "memory" not in held:
            given.setdefault("data", (options.memory, options.memory))
            self._tell(_WEAK.format("--memory", "each process of a command, not all together"))
        if options.pids_limit is not None and "pids" not in held:
            # Counted in each user namespace, so of the command alone (Linux 5.14).
            given.setdefault("nproc", (options.pids_limit, options.pids_limit))
            if not self._ids.shift:
                self._tell(_WEAK.format("--pids-limit", "the processes of each user"))
        if options.cpus is not None and "cpu" not in held:
            processors = min(math.ceil(options.cpus), len(os.sched_getaffinity(0)))
            text = f"a command to {processors} processor{'s' * (processors > 1)}, if it plays along"
            self._tell(_WEAK.format("--cpus", text))
        rlimits = tuple((name, soft, hard) for name, (soft, hard) in given.items())
        return replace(spec, rlimits=rlimits, processors=processors)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._events(Notice(text))


_WEAK = (
    "{} limits {}: no control group can be made here (start imgbuild with systemd-run --user "
    "--scope -p Delegate=yes, or in a container with a writable cgroup)"
)
