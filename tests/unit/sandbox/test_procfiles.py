"""Which paths of /proc and /dev are made up, and for whom."""

import pytest

from imgbuild.sandbox.child.procfiles import Target, find
from imgbuild.sandbox.child.standins import MOUNTS


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("/dev/null", "device", "/dev/null"),
        ("//dev/./urandom", "device", "/dev/urandom"),
        ("/dev/stdin", "link", "fd/0"),
        ("/dev/fd/63", "link", "fd/63"),
        ("/dev/fd", "listing", "fd"),
        ("/proc/meminfo", "global", "/proc/meminfo"),
        ("/proc/sys/kernel/osrelease", "global", "/proc/sys/kernel/osrelease"),
        ("/proc/self", "self", ""),
        ("/proc/self/", "self", ""),
        ("/proc/7/status", "own", "status"),
        ("/proc/self/fd/1", "link", "fd/1"),
        ("/proc/self/exe", "link", "exe"),
        ("/proc/self/task/9/comm", "own", "task/9/comm"),
        ("/proc/thread-self/stat", "own", "stat"),
        ("/proc/mounts", "text", MOUNTS.decode()),
        ("/proc/self/mounts", "text", MOUNTS.decode()),
    ],
)
def test_what_is_made_up(path: str, kind: str, name: str) -> None:
    assert find(path.encode(), b"7") == Target(kind, name.encode())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    [
        "/proc",
        "/dev",
        "/dev/shm/x",
        "/dev/sda",
        "/dev/null/x",
        "/dev/kmsg",
        "/proc/8/status",
        "/proc/1/environ",
        "/proc/self/mem",
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd/x",
        "/proc/self/../8/environ",
        "/proc/self/fd/1/x",
        "/proc/self/fd/x",
        "/proc/self/fd/99999999999999",
        "/proc/self/ns/user",
        "/proc/kcore",
        "/proc/keys",
        "/proc/cmdline",
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "proc/self/status",
        "/etc/passwd",
    ],
)
def test_what_is_left_to_the_root(path: str) -> None:
    assert find(path.encode(), b"7") is None
