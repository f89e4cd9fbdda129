"""The mounts of a step: made outside of its root, then attached to targets inside of it.

Each is a mount that is attached nowhere yet, so that no link in an image can put one anywhere else.
"""

import base64
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from imgbuild import inroot
from imgbuild.sandbox.child import overlay, syscalls, wire
from imgbuild.sandbox.child.failure import Failed
from imgbuild.sandbox.child.filesystems import make_filesystem
from imgbuild.sandbox.child.syscalls import NODEV, NOEXEC, NOSUID, READONLY

_SAFE = NOSUID | NODEV
# Where something is attached for a moment; every machine has it.
_STAND = b"/proc"
# Where mounts are attached for a user namespace to lock them; every machine has it.
_SHELF = b"/tmp"


class Made(NamedTuple):
    """A mount by its descriptor, where in the root it belongs, and whether it is a directory."""

    fd: int
    target: bytes
    directory: bool


def make(
    mounts: Sequence[wire.Message], shift: int, count: int, lent: Mapping[str, int]
) -> list[Made]:
    """Make what a spec asks for, in its order; what was `lent` is taken as it is.

    Container ids are shifted by `shift`, and below `count`. Raises `Failed`, naming the target.
    """
    workbench = _Workbench(shift, count)
    made = []
    for mount in mounts:
        target = os.fsencode(mount["target"]).strip(b"/")
        given = lent.get(f"mount:{mount['target']}")
        try:
            fd = workbench.make(mount) if given is None else os.dup(given)
        except OSError as problem:
            raise _failed(target, problem) from None
        made.append(Made(fd, target, stat.S_ISDIR(os.fstat(fd).st_mode)))
    return made


def stubs_for(made: Iterable[Made]) -> Iterator[tuple[bytes, bool]]:
    """Yield what the root has to have, and whether as a directory.

    What belongs into /dev, or into another mount, is made there when that is in its place.
    """
    above = [b"dev"]
    for mount in made:
        if not any(mount.target.startswith(path + b"/") for path in above):
            yield mount.target, mount.directory
        above.append(mount.target)


def locked(made: Sequence[Made]) -> list[Made]:
    """Give mounts in place of others, whose flags nobody can take away; enters a mount namespace.

    A command with CAP_SYS_ADMIN could otherwise make writable what it has to read only. Flags are
    locked for good when a new user namespace inherits mounts (mount_namespaces(7)), so a child has
    one for a moment. Raises `Failed` where there can be none.
    """
    _shelve(made)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        try:
            ours.close()
            _send_locked(theirs, len(made))
        finally:
            os._exit(0)
    theirs.close()
    received = [wire.receive(ours) for _ in made]
    ours.close()
    os.waitpid(pid, 0)
    fds = [fd for answer in received if answer is not None for fd in answer[1]]
    if len(fds) < len(made):
        raise Failed("isolation", "it could write to what is mounted read-only")
    return [mount._replace(fd=fd) for mount, fd in zip(made, fds, strict=True)]


def _shelve(made: Iterable[Made]) -> None:
    """Attach mounts in a mount namespace of this process."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.set_propagation(syscalls.MS_PRIVATE)
    memory = make_filesystem(b"tmpfs", _SAFE | NOEXEC, mode=b"0711")
    shelf = os.open(_SHELF, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.move_mount(memory, shelf)
    os.close(shelf)
    for number, mount in enumerate(made):
        name = b"%d" % number
        if mount.directory:
            os.mkdir(name, 0o700, dir_fd=memory)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=memory))
        target = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=memory)
        syscalls.move_mount(mount.fd, target)
        os.close(target)
        os.close(mount.fd)
    os.close(memory)


def _send_locked(sock: socket.socket, count: int) -> None:
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    for number in range(count):
        mount = syscalls.open_tree(b"%s/%d" % (_SHELF, number))
        wire.send(sock, {}, [mount])
        os.close(mount)


def attach(mount: Made, root_fd: int) -> None:
    """Attach a mount to its target in a root; raise `Failed`, naming the target."""
    flags = os.O_PATH | (os.O_DIRECTORY if mount.directory else 0)
    try:
        try:
            target = inroot.open_in_root(root_fd, mount.target, flags)
        except FileNotFoundError:
            _make_target(mount, root_fd)
            target = inroot.open_in_root(root_fd, mount.target, flags)
        syscalls.move_mount(mount.fd, target)
    except OSError as problem:
        raise _failed(mount.target, problem) from None
    os.close(target)
    os.close(mount.fd)


def _failed(target: bytes, problem: OSError) -> Failed:
    text = problem.strerror or str(problem)
    return Failed("bind", f"/{os.fsdecode(target)}: {text}", problem.errno)


def _make_target(mount: Made, root_fd: int) -> None:
    """Make a target inside of another mount, through no link: nothing may be left in the root."""
    above, rest = mount.target, [b""]
    while True:
        above, _, name = above.rpartition(b"/")
        rest.insert(0, name)
        try:
            at = inroot.open_in_root(root_fd, above, os.O_PATH | os.O_DIRECTORY)
            break
        except FileNotFoundError:
            continue
    try:
        if os.fstat(at).st_dev == os.fstat(root_fd).st_dev:
            raise Failed("bind", f"/{os.fsdecode(mount.target)}: a link leads out of a mount")
        path = b"/".join(rest[:-1])
        if mount.directory:
            os.close(inroot.make_dirs(at, path, 0o755, (0, 0), follow=False))
            return
        parent, name = inroot.open_parent(at, path, create=True, owner=(0, 0), follow=False)
        made = os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open(name, made, 0o644, dir_fd=parent))
        os.close(parent)
    finally:
        os.close(at)


class _Workbench:
    """Makes mounts; enters a mount namespace of its own for those that need one."""

    def __init__(self, shift: int, count: int) -> None:
        self._shift = shift
        self._count = count
        self._private = False

    def make(self, mount: wire.Message) -> int:
        match mount["kind"]:
            case "file":
                return _clone(os.fsencode(mount["source"]), READONLY | _SAFE)
            case "bind":
                source, path = os.fsencode(mount["source"]), os.fsencode(mount["path"])
                attributes = _SAFE | (READONLY if mount["readonly"] else 0)
                return _clone(source, attributes, path, straight=mount["straight"])
            case "layers":
                return self._layers(mount)
            case "tmpfs":
                return self._tmpfs(mount)
            case "secret":
                return self._secret(mount)
            case kind:
                raise Failed("bind", f"no such kind of mount: {kind}")

    def _layers(self, mount: wire.Message) -> int:
        lowers = [os.fsencode(path) for path in mount["lowers"]]
        path = os.fsencode(mount["path"]).strip(b"/")
        if not mount["upper"] and len(lowers) == 1:
            return _clone(lowers[0], READONLY | _SAFE, path)
        upper, work = (os.fsencode(mount[key]) or None for key in ("upper", "work"))
        attributes = _SAFE if upper else READONLY | _SAFE
        whole = overlay.mount(lowers, upper, work)
        if not path:
            syscalls.mount_setattr(whole, b"", attributes)
            return whole
        return self._part(whole, path, attributes)

    def _tmpfs(self, mount: wire.Message) -> int:
        options = {"mode": b"%o" % mount["mode"], "uid": b"%d" % self._shift}
        options["gid"] = options["uid"]
        if mount["size"] is not None:
            options["size"] = b"%d" % mount["size"]
        readonly = READONLY if mount["readonly"] else 0
        return make_filesystem(b"tmpfs", _SAFE | readonly, **options)

    def _secret(self, mount: wire.Message) -> int:
        # With one id, all files are everybody's own.
        owners = (mount["uid"], mount["gid"]) if self._count > 1 else (0, 0)
        if max(owners) >= self._count:
            text = f"{max(owners)}, the owner of a secret, cannot be used: it is not mapped here"
            raise Failed("user", text)
        # Unlike a tmpfs, a ramfs is never written to swap.
        memory = make_filesystem(b"ramfs", _SAFE | NOEXEC, mode=b"0700")
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        with open(os.open(b"secret", flags, 0o600, dir_fd=memory), "wb") as file:
            file.write(base64.b64decode(mount["value"]))
            os.fchown(file.fileno(), self._shift + owners[0], self._shift + owners[1])
            os.fchmod(file.fileno(), mount["mode"] & 0o7777)
        return self._part(memory, b"secret", READONLY | _SAFE | NOEXEC)

    def _part(self, whole: int, path: bytes, attributes: int) -> int:
        """Give the mount of a path inside of one that is attached nowhere, which is closed.

        Only what is attached in the own namespace can be cloned (before Linux 6.15).
        """
        if not self._private:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.set_propagation(syscalls.MS_PRIVATE)
            self._private = True
        stand = os.open(_STAND, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        syscalls.move_mount(whole, stand)
        os.close(stand)
        try:
            return _clone_in(whole, path, attributes)
        finally:
            os.close(whole)
            syscalls.umount(_STAND)


def open_source(source: bytes) -> int:
    """Open an absolute path that was resolved before; ELOOP when it leads over a symlink by now."""
    top = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        return inroot.open_straight(top, source.lstrip(b"/"), os.O_PATH)
    finally:
        os.close(top)


def _clone(source: bytes, attributes: int, path: bytes = b"", *, straight: bool = False) -> int:
    """Give a mount of something on this machine, or of a path that is looked up inside of that."""
    at = open_source(source) if straight else os.open(source, os.O_PATH | os.O_CLOEXEC)
    try:
        return _clone_in(at, path, attributes)
    finally:
        os.close(at)


def _clone_in(root: int, path: bytes, attributes: int) -> int:
    found = inroot.open_in_root(root, path, os.O_PATH) if path else os.dup(root)
    try:
        mount = syscalls.open_tree(b"", at=found)
    finally:
        os.close(found)
    syscalls.mount_setattr(mount, b"", attributes)
    return mount
