"""Commands in Python under a supervisor of their own, in a user namespace with one id."""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import stat
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NoReturn

from imgbuild import inroot, recorded
from imgbuild.sandbox.child import notify, owners, seccomp, syscalls
from imgbuild.sandbox.child.syscall_numbers import numbers
from imgbuild.sandbox.spec import DEFAULT_CAPABILITIES
from tests.support import machine_code


def supervised(
    command: Callable[[], object],
    *,
    root: Path | None = None,
    uid: int = 0,
    groups: Collection[int] = (),
    capabilities: Collection[str] = tuple(DEFAULT_CAPABILITIES),
    actions: Mapping[str, seccomp.Action] | None = None,
    handlers: Mapping[str, notify.Handler] | None = None,
) -> int:
    """Run a command, with another root if given; return 0 when it raised nothing."""
    inroot.use_openat2()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    recorder = owners.Owners(uid, uid, groups, capabilities)
    supervisor = notify.Supervisor(handlers or recorder.handlers())
    pid = os.fork()
    if not pid:
        try:
            ours.close()
            if root is not None:
                os.chroot(root)
                os.chdir("/")
            wanted = actions or owners.supervision(uid, capabilities)
            notify.hand_over(theirs, seccomp.compile_supervision(wanted, syscalls.MACHINE))
            command()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    theirs.close()
    supervisor.serve(ours, pid)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def enter_namespace(uid: int = 0) -> None:
    """Become root, or another user, of a namespace with one id; keep what /proc is mounted."""
    outer = os.getuid(), os.getgid()
    if outer[0] == 0:
        return  # real root needs no namespace to record owners
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {outer[0]} 1"),
        ("gid_map", f"{uid} {outer[1]} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text)


SCENARIOS: dict[str, Callable[[Path], int]] = {}


def scenario(function: Callable[[Path], int]) -> Callable[[Path], int]:
    SCENARIOS[function.__name__] = function
    return function


def main(place: Path) -> None:
    """Play everything, each in processes of its own; print what they said, nothing when all is well."""
    results: dict[str, str] = {}
    for name, function in SCENARIOS.items():
        folder = place / name
        folder.mkdir()
        said = os.memfd_create("said")
        pid = os.fork()
        if not pid:
            _play(function, folder, said)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        text = os.pread(said, 10_000, 0).decode()
        results[name] = f"status {status}\n{text}" if status or text else ""
    print(json.dumps(results))


def _play(function: Callable[[Path], int], folder: Path, said: int) -> NoReturn:
    status = 99
    try:
        os.dup2(said, 2)
        signal.alarm(60)  # a supervisor that hangs is a failure, too
        enter_namespace()
        status = function(folder)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def owner(path: str | Path) -> str:
    try:
        value = os.getxattr(path, recorded.OWNER, follow_symlinks=False)
    except OSError:
        value = os.getxattr(path, recorded.SPECIAL, follow_symlinks=False)
        return recorded.owner_value(recorded.parse_special(value)).decode()
    return value.decode()


def same(found: object, expected: object) -> None:
    assert found == expected, f"found {found!r}, expected {expected!r}"


def refused(code: int, act: Callable[[], object]) -> None:
    try:
        act()
    except OSError as problem:
        same(problem.errno, code)
    else:
        raise AssertionError(f"nothing failed, expected {os.strerror(code)}")


def call(number: int, *arguments: int | bytes) -> int:
    """Do a system call with arguments that Python would not let through."""
    passed = [ctypes.c_ulong(a & 2**64 - 1) if isinstance(a, int) else a for a in arguments]
    result = _libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


_libc = ctypes.CDLL(None, use_errno=True)
_NUMBERS = numbers(syscalls.MACHINE)
_FCHOWNAT, _MKNODAT = _NUMBERS["fchownat"], _NUMBERS["mknodat"]
_CWD, _NOFOLLOW, _EMPTY = -100, 0x100, 0x1000


@scenario
def owners_are_recorded(place: Path) -> int:
    def command() -> None:
        os.chdir(place)
        Path("f").touch()
        os.symlink("f", "s")
        os.mkfifo("p")
        os.mkdir("d")
        os.link("f", "hard")
        os.chown("f", 1, 2)
        same(owner("hard"), "1:2")
        os.chown("f", -1, 3)
        same(owner("f"), "1:3")
        os.chown("f", 0, 0)
        same(owner("f"), "0:0")
        os.chown("s", 4, 5)
        same(owner("f"), "4:5")
        os.chown("s", 6, 7, follow_symlinks=False)
        same(owner("s"), "6:7")
        os.chown("s", -1, 8, follow_symlinks=False)
        same((owner("s"), owner("f")), ("6:8", "4:5"))
        os.rename("s", "moved")
        same(owner("moved"), "6:8")
        os.chown("p", 9, 10)
        same(owner("p"), "9:10")
        os.chown("d", 4294967294, 70000)
        same(owner("d"), "4294967294:70000")
        os.chown("d", 33, -1)
        Path("half").touch()
        os.chown("half", 33, -1)
        same(owner("half"), "33:")
        os.chown("half", -1, -1)
        same(owner("half"), "33:")
        same((os.stat("f").st_uid, os.stat("f").st_gid), (0, 0))

    return supervised(command)


@scenario
def descriptors_are_taken(place: Path) -> int:
    def command() -> None:
        os.chdir(place)
        Path("f").touch()
        os.symlink("f", "s")
        read = os.open("f", os.O_RDONLY)
        os.fchown(read, 1, 2)
        same(owner("f"), "1:2")
        call(_FCHOWNAT, os.open("f", os.O_PATH), b"", 3, 4, _EMPTY)
        same(owner("f"), "3:4")
        call(_FCHOWNAT, os.open("s", os.O_PATH | os.O_NOFOLLOW), b"", 5, 6, _EMPTY)
        same((owner("s"), owner("f")), ("5:6", "3:4"))
        call(_FCHOWNAT, _CWD, 0, 7, 8, _EMPTY)
        same(owner(place), "7:8")
        os.chown(f"/proc/self/fd/{read}", 9, 9)
        same(owner("f"), "9:9")
        os.unlink("f")
        os.fchown(read, 1, 1)
        reader, writer = os.pipe()
        os.fchown(writer, 5, 5)
        os.chown(f"/dev/fd/{reader}", 5, 5)
        with socket.socket(socket.AF_UNIX) as sock:
            os.fchown(sock.fileno(), 5, 5)
        os.symlink(f"/proc/self/fd/{read}", "link")
        os.chown("link", 2, 2)
        same(os.getxattr(read, recorded.OWNER), b"2:2")
        for number in (999, -1, -100, 2**31):
            refused(errno.EBADF, lambda number=number: call(_NUMBERS["fchown"], number, 1, 1))
        refused(errno.EBADF, lambda: call(_FCHOWNAT, 999, b"f", 1, 1, 0))
        refused(errno.EINVAL, lambda: call(_FCHOWNAT, _CWD, b"link", 1, 1, 0x4))
        refused(errno.ENOENT, lambda: call(_FCHOWNAT, _CWD, b"", 1, 1, 0))
        refused(errno.ENOTDIR, lambda: call(_FCHOWNAT, read, b"x", 1, 1, 0))

    return supervised(command)


@scenario
def bits_are_cleared_as_by_the_kernel(place: Path) -> int:
    def command() -> None:
        for before, after in ((0o6755, 0o755), (0o4644, 0o644), (0o2745, 0o2745), (0o2755, 0o755)):
            path = place / oct(before)
            path.touch()
            path.chmod(before)
            os.chown(path, 0 if before & 0o4000 else 5, -1)
            same(oct(path.stat().st_mode & 0o7777), oct(after))
        folder = place / "folder"
        folder.mkdir()
        folder.chmod(0o7777)
        os.chown(folder, 5, 5)
        same(folder.stat().st_mode & 0o7777, 0o7777)
        changed = folder.stat().st_ctime_ns
        os.chown(folder, -1, -1)
        assert folder.stat().st_ctime_ns >= changed

    return supervised(command)


@scenario
def identities_are_pretended(place: Path) -> int:
    def command() -> None:
        os.setgroups([1, 2, 3])
        os.setresgid(5, 5, 5)
        os.setresuid(5, 6, 7)
        os.setuid(1)
        same(os.getuid(), 0)
        os.chown(place, 3, 3)

    return supervised(command)


@scenario
def guesses_do_not_take_owners_away(place: Path) -> int:
    def edit(path: str) -> None:
        """Do as `sed -i`."""
        descriptor = os.open(path + ".new", os.O_CREAT | os.O_WRONLY)
        seen = os.stat(path)
        os.fchown(descriptor, seen.st_uid, seen.st_gid)
        os.close(descriptor)
        os.rename(path + ".new", path)

    def command() -> None:
        os.chdir(place)
        for name in ("f", "root", "group"):
            Path(name).touch()
        os.chown("f", 33, 34)
        edit("f")
        same(owner("f"), "33:34")
        edit("f")
        same(owner("f"), "33:34")
        os.fchown(os.open("f", os.O_RDONLY), 0, 0)
        same(owner("f"), "33:34")
        os.fchown(os.open("f", os.O_RDONLY), 0, 5)
        same(owner("f"), "33:5")
        edit("root")
        same(owner("root"), "0:0")
        os.chown("root", 0, 0)
        same(owner("root"), "0:0")
        os.rename("root", "f")
        same(owner("f"), "0:0")
        backup = os.open("group-", os.O_CREAT | os.O_WRONLY)
        os.chown("group", 0, 42)
        os.fchown(backup, 0, 0)
        same(owner("group-"), "0:42")
        refused(errno.ENOENT, lambda: os.rename("absent", "f"))
        refused(errno.ENOTDIR, lambda: os.rename("f", "f/x"))

    return supervised(command)


@scenario
def backups_keep_owners_in_another_root(place: Path) -> int:
    (place / "etc").mkdir()

    def command() -> None:
        Path("/etc/group").touch()
        os.chown("/etc/group", 0, 42)
        os.fchown(os.open("/etc/group-", os.O_CREAT | os.O_WRONLY), 0, 0)
        same(owner("/etc/group-"), "0:42")

    return supervised(command, root=place)


@scenario
def device_nodes_are_recorded(place: Path) -> int:
    def command() -> None:
        os.umask(0o027)
        os.chdir(place)
        os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        same(os.getxattr("null", recorded.DEVICE), b"c:1:3")
        same(oct(os.stat("null").st_mode), oct(0o640 | stat.S_IFREG))
        call(_MKNODAT, os.open(".", os.O_PATH), b"disk", 0o60600, os.makedev(300, 70000))
        same(os.getxattr("disk", recorded.DEVICE), b"b:300:70000")
        os.mknod("fifo", 0o600 | stat.S_IFIFO)
        os.mknod("file", 0o600)
        os.symlink("nowhere", "link")
        for path in ("null", "link", ".", "..", "/"):
            refused(errno.EEXIST, lambda path=path: os.mknod(path, stat.S_IFCHR, os.makedev(1, 3)))
        refused(errno.EPERM, lambda: os.mknod("w", stat.S_IFCHR, 0))
        refused(errno.ENOENT, lambda: os.mknod("", stat.S_IFCHR, os.makedev(1, 3)))
        refused(errno.ENOENT, lambda: os.mknod("no/w", stat.S_IFCHR, os.makedev(1, 3)))
        refused(errno.ENOTDIR, lambda: os.mknod("file/w", stat.S_IFCHR, os.makedev(1, 3)))

    return supervised(command)


@scenario
def no_path_leads_out_of_the_root(place: Path) -> int:
    root = place / "root"
    (root / "d").mkdir(parents=True)
    (root / "etc").mkdir()
    for folder in (place, root, root / "d"):
        (folder / "f").touch()
    for name, text in (("up", "../f"), ("top", "/f"), ("far", "../" * 50 + "f"), ("loop", "loop")):
        (root / name).symlink_to(text)
    outside = os.open(place, os.O_PATH)

    def command() -> None:
        for path in ("../f", "/../f", "../../../../f", "up", "top", "far", "d/../../f"):
            os.chown(path, 5, 5)
            same(owner("/f"), "5:5")
            os.chown("/f", 1, 1)
        os.chdir("d")
        os.chown("../f", 7, 7)
        os.chown("f", 8, 8)
        same((owner("/f"), owner("/d/f")), ("7:7", "8:8"))
        refused(errno.ELOOP, lambda: os.chown("/loop", 1, 1))
        # From a directory that was opened outside: as far as a straight path goes.
        refused(errno.ENOENT, lambda: os.chown("root/../../f", 9, 9, dir_fd=outside))
        refused(errno.ENOENT, lambda: os.mknod("../x", 0o20600, 259, dir_fd=outside))

    status = supervised(command, root=root)
    assert not os.listxattr(place / "f"), "a file outside of the root was reached"
    assert not os.listxattr(place)
    return status


@scenario
def memory_that_is_not_there_is_an_error(place: Path) -> int:
    def command() -> None:
        os.chdir(place)
        Path("f").touch()
        for address in (0, 1, 0x1000, 2**47, 2**63, 2**64 - 1, 2**64 - 4096):
            refused(errno.EFAULT, lambda address=address: call(_FCHOWNAT, _CWD, address, 1, 1, 0))
            refused(
                errno.EFAULT,
                lambda address=address: call(_MKNODAT, _CWD, address, 0o20600, 259),
            )
        area = mmap.mmap(-1, 3 * 4096)
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        _libc.munmap(ctypes.c_void_p(start + 8192), ctypes.c_size_t(4096))
        area[8190:8192] = b"f\0"
        call(_FCHOWNAT, _CWD, start + 8190, 3, 3, 0)
        same(owner("f"), "3:3")
        area[8190:8192] = b"ff"
        refused(errno.EFAULT, lambda: call(_FCHOWNAT, _CWD, start + 8190, 1, 1, 0))
        area[0:4096] = b"x" * 4096
        refused(errno.ENAMETOOLONG, lambda: call(_FCHOWNAT, _CWD, start, 1, 1, 0))
        area[1000:1001] = b"\0"
        refused(errno.ENAMETOOLONG, lambda: call(_FCHOWNAT, _CWD, start, 1, 1, 0))
        os._exit(0)  # the area is not Python's any more

    return supervised(command)


@scenario
def paths_that_change_meanwhile_stay_inside(place: Path) -> int:
    root = place / "root"
    root.mkdir()
    (place / "secret").touch()
    (root / "f").touch()
    for name in ("a", "b"):
        (root / name).mkdir()
        (root / name / "f").touch()

    paths = (b"/../../secret", b"f", b"a/../../secret", b"l/f", os.fsencode(place / "secret"))

    def command() -> None:
        text = ctypes.create_string_buffer(b"/../secret", 4096)
        ended = threading.Event()

        def disturb() -> None:
            turn = 0
            while not ended.is_set():
                turn += 1
                text.value = paths[turn % len(paths)]
                with contextlib.suppress(OSError):
                    os.symlink(("a", "..", "/", "../..")[turn % 4], "/l")
                with contextlib.suppress(OSError):
                    os.rename("/a", "/b/moved") if turn % 2 else os.rename("/b/moved", "/a")
                with contextlib.suppress(OSError):
                    os.unlink("/l")

        threads = [threading.Thread(target=disturb) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(1500):
            with contextlib.suppress(OSError):
                call(_FCHOWNAT, _CWD, ctypes.addressof(text), 1 + number, 1, 0)
        ended.set()
        for thread in threads:
            thread.join()

    status = supervised(command, root=root)
    assert not os.listxattr(place / "secret")
    return status


@scenario
def processes_that_die_leave_the_supervisor_alive(place: Path) -> int:
    def command() -> None:
        os.chdir(place)
        Path("f").touch()
        for number in range(60):
            pid = os.fork()
            if not pid:
                while True:
                    os.chown("f", number, 1)
            time.sleep(0.001 * (number % 5))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.chown("f", 1000, 1000)
        same(owner("f"), "1000:1000")

    return supervised(command)


@scenario
def a_thousand_at_once_are_all_answered(place: Path) -> int:
    def command() -> None:
        os.chdir(place)
        pids = []
        for number in range(50):
            pid = os.fork()
            if not pid:
                for turn in range(20):
                    path = f"f{number}.{turn}"
                    Path(path).touch()
                    os.chown(path, number, turn)
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            same(os.waitpid(pid, 0)[1], 0)
        for number in range(50):
            for turn in range(20):
                same(owner(f"f{number}.{turn}"), f"{number}:{turn}")

    return supervised(command)


@scenario
def threads_are_answered(place: Path) -> int:
    def command() -> None:
        os.chdir(place)

        def work(number: int) -> None:
            for turn in range(30):
                Path(f"t{number}").touch()
                os.chown(f"t{number}", number, turn)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        same({owner(f"t{number}") for number in range(8)}, {f"{n}:29" for n in range(8)})

    return supervised(command)


@scenario
def those_left_behind_do_not_keep_the_supervisor(place: Path) -> int:
    def command() -> None:
        if not os.fork():
            os.setsid()
            time.sleep(3)
            with contextlib.suppress(OSError):
                os.chown(place, 1, 1)
            os._exit(0)

    started = time.monotonic()
    status = supervised(command)
    assert time.monotonic() - started < 2.5
    return status


@scenario
def faults_of_a_handler_become_errors(place: Path) -> int:
    def broken(_call: notify.Call) -> notify.Answer:
        raise ZeroDivisionError

    def unknown(_call: notify.Call) -> notify.Answer:
        return notify.CONTINUE

    def command() -> None:
        refused(errno.EIO, lambda: os.chown(place, 1, 1))
        refused(errno.ENOSYS, lambda: os.mknod(place / "x", 0o20600, 259))
        same(os.uname().sysname, "Linux")

    actions = dict.fromkeys(("fchownat", "chown", "mknodat", "mknod", "uname"), seccomp.NOTIFY)
    handlers = {"fchownat": broken, "chown": broken, "uname": unknown}
    return supervised(command, actions=actions, handlers=handlers)


@scenario
def plain_users_change_little(place: Path) -> int:
    def command() -> None:
        os.chdir(place)
        for name in ("f", "other", "theirs"):
            Path(name).touch()
        os.setxattr("theirs", recorded.OWNER, b"1:1")
        for path, uid, gid in (("f", 1000, 1000), ("f", -1, 1000), ("f", -1, -1)):
            os.chown(path, uid, gid)
        same(os.listxattr("f"), [])
        os.chown("f", 1000, 44)
        same(owner("f"), ":44")
        for path, uid, gid in (("f", 0, -1), ("f", -1, 45), ("theirs", 1000, -1), ("f", 5, 5)):
            refused(errno.EPERM, lambda path=path, u=uid, g=gid: os.chown(path, u, g))
        refused(errno.EPERM, lambda: os.chown("theirs", -1, 44))

    return supervised(command, uid=1000, groups=(44,))


@scenario
def capabilities_are_needed(place: Path) -> int:
    def command() -> None:
        (place / "f").touch()
        refused(errno.EPERM, lambda: os.chown(place / "f", 1, 1))
        os.chown(place / "f", 0, 0)

    return supervised(command, capabilities=())


@scenario
def descriptors_can_be_given(place: Path) -> int:
    def give(asked: notify.Call) -> notify.Answer:
        fd = os.memfd_create("given")
        os.write(fd, asked.text(1))
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            return asked.give_fd(fd, close_on_exec=True)
        finally:
            os.close(fd)

    def command() -> None:
        fd = os.open(place / "absent", os.O_RDONLY)
        same(os.read(fd, 1000), os.fsencode(place / "absent"))
        same(os.get_inheritable(fd), False)

    return supervised(command, actions={"openat": seccomp.NOTIFY}, handlers={"openat": give})


def _with_other_numbers(place: Path) -> int:
    """Play a command where /proc is of an outer PID namespace."""
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def change(number: int) -> None:
        path = place / f"f{number}"
        path.touch()
        os.chown(path, number, 7)
        os.mknod(place / f"d{number}", 0o20666, 259)

    def command() -> None:
        change(0)
        threads = [threading.Thread(target=change, args=(number,)) for number in range(1, 4)]
        for thread in threads:
            thread.start()
            thread.join()
        same([owner(place / f"f{number}") for number in range(4)], [f"{n}:7" for n in range(4)])
        same(os.getxattr(place / "d3", recorded.DEVICE), b"c:1:3")

    try:
        os._exit(supervised(command))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(98)


@scenario
def processes_have_other_numbers_in_proc(place: Path) -> int:
    return _with_other_numbers(place)


@scenario
def proc_is_shared_and_cannot_be_mounted(place: Path) -> int:
    def refuse(_fstype: bytes) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    syscalls.fsopen = refuse
    return _with_other_numbers(place)


@scenario
def proc_is_shared_on_an_older_kernel(place: Path) -> int:
    def refuse(_fstype: bytes) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    known = syscalls.call

    def without_handles_of_threads(name: str, *args: object) -> int:
        if name == "pidfd_open" and args[1]:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return known(name, *args)

    syscalls.fsopen = refuse
    syscalls.call = without_handles_of_threads
    return _with_other_numbers(place)


@scenario
def programs_of_the_other_machine_are_answered(place: Path) -> int:
    if not machine_code.SUPPORTED:
        return 0
    table = numbers("i386")
    for name, arguments in {
        "narrow": (table["fchown"], 0, 0xFFFF, 7),
        "wide": (table["fchown32"], 0, 0xFFFF, 0xFFFFFFFF),
        "nowhere": (table["lchown32"], 0, 1, 1),
    }.items():
        (place / name).write_bytes(machine_code.program_32(*arguments))
        (place / name).chmod(0o755)
    (place / "f").touch()

    def run(name: str) -> int:
        pid = os.fork()
        if not pid:
            os.dup2(os.open(place / "f", os.O_RDONLY), 0)
            os.execv(place / name, [name])
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def command() -> None:
        same(run("narrow"), 0)
        same(owner(place / "f"), ":7")
        same(run("wide"), 0)
        same(owner(place / "f"), "65535:7")
        same(run("nowhere"), errno.EFAULT)

    return supervised(command)
