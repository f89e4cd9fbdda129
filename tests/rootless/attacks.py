"""What a RUN step may try against this machine, and how it must end: attacks as data."""

import json
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path

from imgbuild.errors import SandboxError
from imgbuild.sandbox.child.capability_names import NAMES
from imgbuild.sandbox.child.syscall_numbers import numbers
from tests.support.bench import Bench
from tests.support.machine_code import LAST, SUPPORTED, Call, program, program_32

_EPERM, _ENOSYS = 1, 38
_NEWUSER, _NEWNS = 0x10000000, 0x20000

# name -> (system call, arguments), refused with EPERM
REFUSED: dict[str, tuple[int | bytes, ...]] = {
    "mount": (b"none", b"/tmp", b"tmpfs", 0, 0),
    "umount2": (b"/proc", 2),
    "pivot_root": (b"/tmp", b"/tmp"),
    "unshare": (_NEWUSER,),
    "setns": (0, 0),
    "clone": (_NEWUSER | 17, 0, 0, 0, 0),
    "fsopen": (b"tmpfs", 0),
    "fsconfig": (0, 6, 0, 0, 0),
    "fsmount": (0, 0, 0),
    "open_tree": (-100 & (1 << 64) - 1, b"/", 1),
    "move_mount": (0, b"", 0, b"", 4),
    "mount_setattr": (0, b"", 0x1000, 0, 0),
    "keyctl": (0, 0, 0, 0, 0),
    "add_key": (b"user", b"x", b"y", 1, -2 & (1 << 64) - 1),
    "request_key": (b"user", b"x", 0, 0),
    "bpf": (0, 0, 0),
    "perf_event_open": (0, 0, 0, 0, 0),
    "userfaultfd": (0,),
    "io_uring_setup": (1, 0),
    "kexec_load": (0, 0, 0, 0),
    "init_module": (0, 0, 0),
    "finit_module": (0, 0, 0),
    "delete_module": (b"x", 0),
    "open_by_handle_at": (0, 0, 0),
    "syslog": (3, 0, 0),
    "swapon": (b"/tmp", 0),
    "quotactl": (0, 0, 0, 0),
    "reboot": (0, 0, 0, 0),
    "settimeofday": (0, 0),
    "clock_settime": (0, 0),
    "acct": (0,),
    "iopl": (3,),
    "sethostname": (b"x", 1),
    "personality": (0x400000,),
    "fanotify_init": (0, 0),
    "vhangup": (),
    "mbind": (0, 0, 0, 0, 0, 0),
    "io_uring_enter": (0, 0, 0, 0, 0, 0),
    "io_uring_register": (0, 0, 0, 0),
    "lookup_dcookie": (0, 0, 0),
    "swapoff": (b"/tmp",),
    "ioperm": (0, 1, 1),
    "setdomainname": (b"x", 1),
    "migrate_pages": (0, 0, 0, 0),
    "move_pages": (0, 0, 0, 0, 0, 0),
    "kexec_file_load": (0, 0, 0, 0, 0),
    "fspick": (0, b"/", 0),
}


def programs() -> dict[str, tuple[bytes, int]]:
    """Give programs with the status each must end with."""
    numbers_64 = numbers("x86_64")
    numbers_32 = numbers("i386")
    made = {
        name: (program((numbers_64[name], *arguments)), _EPERM)
        for name, arguments in REFUSED.items()
    }
    made |= {
        f"i386 {name}": (program_32(numbers_32[name], *arguments), _EPERM)
        for name, arguments in {
            "mount": (0, 0, 0, 0, 0),
            "unshare": (_NEWUSER,),
            "clone": (_NEWNS | 17, 0, 0, 0, 0),
            "keyctl": (0, 0, 0, 0, 0),
            "bpf": (0, 0, 0),
        }.items()
    }
    made |= {
        "clone3": (program((numbers_64["clone3"], 0, 0)), _ENOSYS),
        "x32": (program((0x40000000 | numbers_64["getpid"],)), _ENOSYS),
        "a call of the future": (program((5000,)), _ENOSYS),
        "AF_ALG": (program((numbers_64["socket"], 38, 5, 0)), _EPERM),
        "AF_VSOCK": (program((numbers_64["socket"], 40, 1, 0)), _EPERM),
        # These show that the programs themselves work.
        "AF_INET is fine": (program((numbers_64["socket"], 2, 1, 0)), 0),
        "AF_UNIX is fine": (program((numbers_64["socket"], 1, 1, 0)), 0),
        "getpid is fine": (program((numbers_64["getpid"],)), 0),
        "i386 is fine": (program_32(numbers_32["getpid"]), 0),
    }
    return made


def abstract_connect(name: bytes) -> bytes:
    """Assemble a program that connects to an abstract socket."""
    table = numbers("x86_64")
    address = b"\x01\x00\x00" + name
    calls: tuple[Call, ...] = (
        (table["socket"], 1, 1, 0),
        (table["connect"], LAST, address, len(address)),
    )
    return program(*calls)


# Shell commands, of which each must print nothing but "held" at the end.
SHELL = {
    "core_pattern": "echo x > /proc/sys/kernel/core_pattern || echo held",
    "hostname by sysctl": "echo x > /proc/sys/kernel/hostname || echo held",
    "sysrq": "echo b > /proc/sysrq-trigger || echo held",
    "sys": "touch /sys/x || echo held",
    "cgroup": "mkdir /sys/fs/cgroup/x || echo held",
    "uevent": "echo x > /sys/kernel/uevent_helper || echo held",
    "kcore": 'test -z "$(head -c1 /proc/kcore)" && echo held',
    "keys": 'test -z "$(cat /proc/keys)" && echo held',
    "timer_list": 'test -z "$(cat /proc/timer_list)" && echo held',
    "interrupts": 'test -z "$(cat /proc/interrupts)" && echo held',
    "firmware": 'test -z "$(ls /sys/firmware)" && echo held',
    "character device": "mknod /tmp/null c 1 3; test -c /tmp/null || echo held",
    "block device": "mknod /tmp/disk b 8 0; test -b /tmp/disk || echo held",
    "device in /dev": "mknod /dev/disk b 8 0; test -b /dev/disk || echo held",
    "remount": "mount -o remount,rw /proc/sys || echo held",
    "bind": "mount -o bind /proc/sys /tmp || echo held",
    "unmask": "umount /proc/keys || echo held",
    "terminal": "cat < /dev/tty || echo held",
    "no terminal in the streams": "tty >/dev/null || echo held",
    "standard input is empty": 'test -z "$(cat)" && echo held',
    "own processes only": "test $(ls -d /proc/[0-9]* | wc -l) -lt 6 && echo held",
    "parent's root": "ls /proc/1/root/../../root_of_host || echo held",
    "foreign id": "chown 300000000 /tmp; test $(stat -c %u /tmp) = 0 && echo held",
    "whiteout by hand": "mknod /tmp/w c 0 0 || echo held",
    "memory of the first process": "head -c1 /proc/1/mem >/dev/null || echo held",
    "its root is ours": 'test "$(ls /proc/1/root)" = "$(ls /)" && echo held',
    "maps of ids": "echo 0 0 1 > /proc/self/uid_map || echo held",
    "setgroups": "echo allow > /proc/self/setgroups || echo held",
    "kmsg": "cat /dev/kmsg || echo held",
    "mem": "cat /dev/mem || echo held",
    "a number of pid 1's parent": 'test "$(cut -d" " -f4 /proc/1/stat)" = 0 && echo held',
    "namespaces of others": "ls /proc/*/ns/mnt | grep -v '^/proc/[0-9]*/\\|^/proc/self/\\|^/proc/thread-self/' || echo held",
    "mount point of the resolver": "mv /etc/resolv.conf /etc/x || echo held",
    "a limit that is raised": "ulimit -Hn 100000000 || echo held",
    "out of memory first": "echo -1000 > /proc/self/oom_score_adj || echo held",
    "resolver": "echo x >> /etc/resolv.conf || echo held",
    "remove the resolver": "rm -f /etc/resolv.conf || echo held",
    "null stays null": "rm -f /dev/null; echo x > /dev/null && test -c /dev/null && echo held",
    "nobody new": 'test "$(grep NoNewPrivs /proc/self/status | tr -d "\\t")" = NoNewPrivs:0 && echo held',
    "filtered": 'test "$(grep Seccomp: /proc/self/status | tr -d "\\t")" = Seccomp:2 && echo held',
    "no descriptors": 'test "$(ls /proc/self/fd | tr "\\n" " ")" = "0 1 2 3 " && echo held',
    "clean environment": 'test -z "$(tr "\\0" "\\n" < /proc/1/environ | grep -i secret)" && echo held',
}


def escape(marker: str) -> bytes:
    """Assemble the classic way out of a changed root: a directory held from above the next one.

    It ends with 0 where `marker` of this machine can be seen.
    """
    table = numbers("x86_64")
    held = 3  # the first descriptor that is free
    up = [(table["chdir"], b"..")] * 20
    calls: tuple[Call, ...] = (
        (table["mkdir"], b"/tmp/below", 0o755),
        (table["open"], b"/", 0o200000, 0),
        (table["chroot"], b"/tmp/below"),
        (table["fchdir"], held),
        *up,
        (table["chroot"], b"."),
        (table["access"], os.fsencode(marker), 0),
    )
    return program(*calls)


def unmount_and_rejoin(marker: str) -> bytes:
    """Assemble a program that unmounts its root and joins its own mount namespace again.

    That gives it what is mounted below. It ends with 0 where `marker` of this machine can be seen.
    """
    table = numbers("x86_64")
    return program(
        (table["open"], b"/proc/self/ns/mnt", 0, 0),
        (table["umount2"], b"/", 2),
        (table["setns"], 3, _NEWNS),
        (table["access"], os.fsencode(marker), 0),
    )


def signal_by_directory(pid: int) -> bytes:
    """Assemble a program that sends signal 0 to a process by its directory in /proc."""
    table = numbers("x86_64")
    opening: Call = (table["open"], b"/proc/%d" % pid, 0o200000, 0)
    return program(opening, (table["pidfd_send_signal"], LAST, 0, 0, 0))


# The same, for what can be tried on the directories of all processes that /proc shows. A process
# is a command's own when it is in the same PID namespace, which only its own can tell.
_OTHERS = """
own=$(readlink /proc/self/ns/pid)
for p in /proc/[0-9]*; do
    if ( {attempt} ) >/dev/null 2>&1; then test "$(readlink $p/ns/pid)" = "$own" || echo reached $p; fi
done; echo held
"""
OTHERS = {
    "environment of others": "cat $p/environ",
    "memory of others": ": < $p/mem",
    "descriptors of others": "for f in $p/fd/*; do readlink $f && exit 0; done; exit 1",
    "working directory of others": "ls $p/cwd/",
    "program of others": 'test -n "$(readlink $p/exe)"',
    "stack of others": "test -s $p/maps && cat $p/maps",
}
_ANY = """
for p in /proc/[0-9]*; do ( {attempt} ) >/dev/null 2>&1 && echo reached $p; done; echo held
"""
ANY = {
    "roots of others": "ls $p/root/ && ! test $p/root/ -ef /",
    "out of memory for others": "(echo 999 > $p/oom_score_adj) && test $(cat $p/oom_score_adj) = 999 && ! test -e $p/root/attacks",
    "signals to others": "test ${p#/proc/} -gt 100 && kill -0 ${p#/proc/}",
}
SHELL |= {name: _OTHERS.format(attempt=attempt) for name, attempt in OTHERS.items()}
SHELL |= {name: _ANY.format(attempt=attempt) for name, attempt in ANY.items()}
# What holds with all capabilities, too.
INSECURE = {
    "roots of others": SHELL["roots of others"],
    "the root below": "/attacks/rejoin; test $? = 22 && echo held",
    "what is read-only": """
        mount -o remount,bind,rw /etc/resolv.conf; echo x >> /etc/resolv.conf || echo held
    """,
    "out of memory for others": "mount -o remount,bind,rw /proc; "
    + SHELL["out of memory for others"],
    "secrets of the caller": "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep 'secret of' || echo held",
}
# What only holds where /proc shows nothing but the step.
OWN_PROC = frozenset({"own processes only", "its root is ours"})


def main(
    place: Path,
    isolation: str = "auto",
    runtimes: tuple[str, ...] = (),
    kind: type[Bench] = Bench,
) -> None:
    """Try everything; print what happened."""
    results: dict[str, tuple[int, str]] = {}
    os.environ["SECRET"] = "secret of the caller"
    listener = socket.socket(socket.AF_UNIX)
    name = f"imgbuild-attack-{os.getpid()}".encode()  # others may test at the same time
    listener.bind(b"\0" + name)
    listener.listen()
    with kind(place, isolation, runtimes) as bench:
        if SUPPORTED:
            folder = bench.base / "attacks"
            folder.mkdir()
            files = {name: code for name, (code, _) in programs().items()}
            files["abstract"] = abstract_connect(name)
            files["escape"] = escape(str(bench.place))
            files["rejoin"] = unmount_and_rejoin(str(bench.place))
            files["signal by directory"] = signal_by_directory(os.getpid())
            for name, code in files.items():
                (folder / name).write_bytes(code)
                (folder / name).chmod(0o755)
        else:
            files = {}
        bench.finish()
        mounts = (bench.mount("nameserver 127.0.0.1\n", "/etc/resolv.conf"),)
        for name in files:
            results[name] = bench.run([f"/attacks/{name}"])
        results["tier"] = (0, json.dumps(asdict(bench.session.tier)))
        for name, command in SHELL.items():
            results[name] = bench.run(f"exec 2>/dev/null; {command}", mounts=mounts)
        for name, command in INSECURE.items():
            try:
                quiet = f"exec 2>/dev/null; {command}"
                held = tuple(NAMES)
                found = bench.run(quiet, insecure=True, capabilities=held, mounts=mounts)
            except SandboxError as problem:
                found = (-1, problem.message)
            results[f"insecure {name}"] = found
        try:
            found = bench.run("echo ran", capabilities=("sys_ptrace", "sys_admin"))
        except SandboxError as problem:
            found = (-1, problem.message)
        results["SYS_ADMIN"] = found
        results["status"] = bench.run(["cat", "/proc/self/status"])
        user = {"uid": 1000, "gid": 1000}
        results["status of a user"] = bench.run(["cat", "/proc/self/status"], **user)
        results["mounts"] = bench.run("cat /proc/mounts")
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
