"""Run one command by an OCI runtime of this machine instead of by `enter`.

Two processes, as in `step`: the outer one mounts what the bundle needs, in a mount namespace and
on a tmpfs that end with it, so that nothing is ever left; the inner one is the first process of a
PID namespace, lets the runtime create the container and start it, and waits. Killing that one
ends the runtime and the container. The root of these two never changes, so importing is no danger.

`create` and `start` are two calls on purpose: what fails in the first has run nothing, and the
next runtime may try.
"""

import contextlib
import json
import os
import re
import socket

from imgbuild import inroot
from imgbuild.sandbox.child import (
    bundle,
    cgroups,
    devices,
    limits,
    mounts,
    network,
    overlay,
    relay,
    syscalls,
    wire,
)
from imgbuild.sandbox.child.enter import check_user, end_with, give_streams
from imgbuild.sandbox.child.failure import Failed, naming
from imgbuild.sandbox.child.filesystems import (
    DIRECTORIES,
    make_filesystem,
    make_sys,
)
from imgbuild.sandbox.child.mounts import Made
from imgbuild.sandbox.child.stubs import Stubs

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Where the bundle is, in the mount namespace of the step alone: any directory that all systems have
# and that has nothing a runtime needs.
_PLACE = next((path for path in ("/mnt", "/media", "/srv") if os.path.isdir(path)), "/tmp")  # noqa: S108
_ROOT = f"{_PLACE}/root"
_ID = "step"  # the state directory is this container's alone
_LONGEST_LOG = 64 << 10
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as a shell has it
# Cgroups are not for these runtimes to make: limits are set around all of a step.
_FLAGS = {
    "crun": ("--cgroup-manager=disabled",),
    "runc": ("--rootless=true",),
    "runsc": ("--ignore-cgroups",),
}
# How runtimes say that the command itself cannot be executed.
_UNEXECUTABLE = re.compile(
    r"exec(?:utable file)?:? [`'\"].*?(?P<why>not found in \$PATH|no such file or directory"
    r"|permission denied|exec format error|not a directory)|open executable: (?P<open>.*)",
    re.IGNORECASE | re.DOTALL,
)

_WORKDIR = re.compile(r"\bchdir\b|\bcwd\b")


def run(zygote: int, control: socket.socket, spec: wire.Message, fds: list[int]) -> int:
    """Run a spec whose `runtimes` are paths to try, with three descriptors as its streams.

    Gives the status as a shell would; `control` is told the pid of what has to be killed.
    """
    syscalls.die_with_parent(zygote)
    lent: dict[str, int] = spec["lent"]
    with naming("cgroup"):
        cgroups.join(lent)
    limits.keep_to(spec["processors"])
    _check(spec)
    give_streams(fds, spec | {"terminal": False})  # the runtime makes one
    with naming("overlay"):
        root_fd = overlay.mount_root(spec["root"])
    made = mounts.make(spec["mounts"], spec["shift"], spec["count"], lent)
    if "sys_admin" in bundle.held_capabilities(spec):
        with naming("mount"):
            made = mounts.locked(made)
    made += [Made(fd, path, directory=False) for fd, path in devices.clone(spec["devices"])]
    with naming("network"):
        network.join(lent)
    _enter_namespaces(own_network=spec["network"] == "none")
    stubs = Stubs(root_fd, spec["shift"])
    with naming("stub"):
        stubs.ensure([*((name, True) for name in DIRECTORIES), *mounts.stubs_for(made)])
    with naming("workdir"):
        _make_workdir(root_fd, spec)
    with naming("bundle"):
        # Only the owner of a network may mount its /sys, which no runtime here is.
        lent_sys = lent.pop("sysfs", None)
        system = make_sys(lent_sys, own_network=spec["network"] == "none")
        shown = _fill_place(root_fd, [Made(system, b"sys", directory=True), *made])
    me = os.pidfd_open(os.getpid())
    pid = os.fork()
    if not pid:
        end_with(control, lambda: _Container(spec, fds).run(me, shown))
    wire.send(control, {"pid": pid})
    for fd in (*fds, *lent.values(), me):
        os.close(fd)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with naming("stub"):
        stubs.remove()
    return status if status >= 0 else 128 - status


class _Container:
    """The inner process: it makes the container, starts it and waits for it."""

    def __init__(self, spec: wire.Message, fds: list[int]) -> None:
        self._spec = spec
        self._fds = fds
        self._runtime = ""
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        # What a container that is created inherits; a terminal it gets from the runtime.
        self._streams = fds if spec["interactive"] else [self._null, *fds[1:]]
        # A runtime gives them to the user of the container, which this machine's device is not for.
        self._streams = [self._null if _is_null(fd) else fd for fd in self._streams]
        if spec["terminal"]:
            self._streams = [self._null] * 3

    def run(self, parent: int, shown: list[tuple[str, str]]) -> int:
        syscalls.die_with(parent)
        with naming("proc"):
            _remount_proc()
        terminal = self._spec["terminal"]
        document = bundle.config(
            self._spec, shown, root=_ROOT, terminal=terminal, machine=syscalls.MACHINE
        )
        with open(f"{_PLACE}/config.json", "w", encoding="utf-8") as file:
            json.dump(document, file)
        console = relay.Listener(f"{_PLACE}/console") if terminal else None
        problem = self._create(console)
        if problem:
            return self._explain(problem)
        pid = self._first_process()
        if console is not None:
            console.accept()
        problem = self._call("start", _ID)
        if problem:
            return self._explain(problem)
        if console is not None:
            console.pass_on(self._fds[0], self._fds[1], os.pidfd_open(pid))
        return _wait_for(pid)

    def _create(self, console: "relay.Listener | None") -> str:
        """Create the container by the first runtime that can; say what was in the way of all."""
        words = ["--bundle", _PLACE, "--pid-file", f"{_PLACE}/pid"]
        if console is not None:
            words += ["--console-socket", console.path]
        problems = []
        for path in self._spec["runtimes"]:
            self._runtime = path
            problem = self._call("create", *words, _ID)
            if not problem or _UNEXECUTABLE.search(problem) or self._is_workdir(problem):
                return problem
            problems.append(f"{os.path.basename(path)}: {problem}")
            self._call("delete", "--force", _ID)
        return "; ".join(problems)

    def _first_process(self) -> int:
        """Give the number of the process that the runtime made, if it is one and made it."""
        try:
            with open(f"{_PLACE}/pid") as file:
                return int(file.read())
        except (OSError, ValueError):
            raise Failed(
                "runtime", f"{self._runtime} made no container: it is no OCI runtime"
            ) from None

    def _call(self, *words: str) -> str:
        """Call the runtime; give what it says when it fails."""
        log = f"{_PLACE}/log"
        with open(log, "w"):
            pass
        flags = _FLAGS.get(os.path.basename(self._runtime), ())
        options = (*flags, "--root", f"{_PLACE}/state", "--log", log, "--log-format", "json")
        streams = self._streams if words[0] == "create" else [self._null] * 3
        try:
            status = _spawn([self._runtime, *options, *words], streams)
        except OSError as problem:
            return problem.strerror or str(problem)
        return "" if status == 0 else _last_error(log) or f"status {status}"

    def _is_workdir(self, problem: str) -> bool:
        cwd = self._spec["cwd"]
        return bool(_WORKDIR.search(problem)) or (cwd != "/" and f" {cwd}" in problem)

    def _explain(self, problem: str) -> int:
        """Say that the command cannot be executed as a shell would, or raise what is in the way."""
        if self._is_workdir(problem):
            raise Failed("workdir", problem)
        found = _UNEXECUTABLE.search(problem)
        if found is None:
            raise Failed("runtime", problem)
        why = (found["why"] or found["open"]).strip().lower()
        missing = any(words in why for words in ("not found", "no such file", "not a directory"))
        program = self._spec["argv"][0]
        if missing and "/" not in program:
            why = "executable file not found in $PATH"
        os.write(self._fds[2], os.fsencode(f'exec: "{program}": {why}\n'))
        return _NOT_FOUND if missing else _NOT_EXECUTABLE


def _check(spec: wire.Message) -> None:
    """Refuse what no runtime can do here, and what config.json cannot say: JSON is text."""
    if spec["tier"] not in {"A", "C"} or spec["proc"] != "own":
        raise Failed(
            "runtime", "it needs namespaces and a /proc of its own, which this host refuses"
        )
    check_user(spec)
    pairs = (text for pair in spec["env"] for text in pair)
    try:
        for text in (*spec["argv"], *pairs, spec["cwd"]):
            text.encode()
    except UnicodeEncodeError:
        raise Failed("runtime", "the command or its environment is not UTF-8") from None


def _enter_namespaces(*, own_network: bool) -> None:
    """Enter those that the container is made from; the runtime makes all others."""
    with naming("unshare"):
        flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWCGROUP
        syscalls.unshare(flags | (syscalls.CLONE_NEWNET if own_network else 0))
        syscalls.set_propagation(syscalls.MS_PRIVATE)
    if own_network:
        with naming("network"):
            network.bring_up_loopback()


def _make_workdir(root_fd: int, spec: wire.Message) -> None:
    """Make the working directory, unless it is in what the runtime mounts."""
    path = os.fsencode(spec["cwd"])
    if path.strip(b"/").split(b"/")[0] not in DIRECTORIES:
        owner = spec["shift"]
        os.close(inroot.make_dirs(root_fd, path, 0o755, (owner, owner)))


def _fill_place(root_fd: int, made: list[Made]) -> list[tuple[str, str]]:
    """Put a tmpfs over the place, and on it the mounts; give their paths there and their targets."""
    place = os.open(_PLACE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    memory = make_filesystem(b"tmpfs", syscalls.NOSUID | syscalls.NODEV, mode=b"0711")
    syscalls.move_mount(memory, place)
    os.close(place)
    os.mkdir("root", 0o755, dir_fd=memory)
    _attach(root_fd, memory, "root")
    shown = []
    for number, mount in enumerate(made):
        name = f"mount{number}"
        if mount.directory:
            os.mkdir(name, 0o755, dir_fd=memory)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=memory))
        _attach(mount.fd, memory, name)
        os.close(mount.fd)
        shown.append((f"{_PLACE}/{name}", f"/{os.fsdecode(mount.target)}"))
    _hide_cgroups()
    return shown


def _attach(mount: int, directory: int, name: str) -> None:
    target = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
    syscalls.move_mount(mount, target)
    os.close(target)


def _hide_cgroups() -> None:
    """Show runtimes one hierarchy that they cannot write to: some refuse a mixture of both kinds."""
    with contextlib.suppress(OSError):
        groups = os.open("/sys/fs/cgroup", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount = make_filesystem(b"cgroup2", syscalls.READONLY | syscalls.NOSUID | syscalls.NODEV)
        syscalls.move_mount(mount, groups)
        os.close(mount)
        os.close(groups)


def _remount_proc() -> None:
    """Show the numbers of this PID namespace: a runtime writes id maps by them."""
    target = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mount = make_filesystem(b"proc", syscalls.NOSUID | syscalls.NODEV | syscalls.NOEXEC)
    syscalls.move_mount(mount, target)
    os.close(mount)
    os.close(target)


def _spawn(argv: list[str], streams: list[int]) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams)]
    env = {"PATH": _PATH, "XDG_RUNTIME_DIR": _PLACE}
    pid = os.posix_spawn(argv[0], argv, env, file_actions=actions)
    return _wait_for(pid)


_ended: dict[int, int] = {}


def _is_null(fd: int) -> bool:
    """Tell whether a descriptor is /dev/null, as one opened elsewhere, where it can be changed."""
    return os.fstat(fd).st_rdev == os.makedev(1, 3)


def _wait_for(pid: int) -> int:
    """Wait for one process, and be the parent of those that have lost theirs."""
    while pid not in _ended:
        ended, status = os.wait()
        _ended[ended] = status
    code = os.waitstatus_to_exitcode(_ended.pop(pid))
    return code if code >= 0 else 128 - code


def _last_error(log: str) -> str:
    """Give the last error of a log with one JSON object a line."""
    with open(log, errors="replace") as file:
        lines = file.read(_LONGEST_LOG).splitlines()
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            return line
        if entry.get("level") in {"error", "fatal"}:
            return str(entry.get("msg", ""))
    return ""
