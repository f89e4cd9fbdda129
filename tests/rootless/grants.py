"""What commands can be given and denied, as functions of a bench; run as several users."""

import os
from collections.abc import Callable
from pathlib import Path

from imgbuild.sandbox.child.capability_names import NAMES
from tests.rootless import scenarios
from tests.rootless.scenarios import failure, same
from tests.support.bench import Bench

GRANTS: dict[str, Callable[[Bench], object]] = {}


def grant(function: Callable[[Bench], object]) -> Callable[[Bench], object]:
    GRANTS[function.__name__] = function
    return function


@grant
def limits_are_each_processs(bench: Bench) -> None:
    limits = (("nofile", 100, 200), ("core", 0, 0), ("fsize", 4096, 4096))
    same(bench.run("ulimit -n; ulimit -Hn; ulimit -c", rlimits=limits)[1], "100\n200\n0\n")
    command = "exec 2>/dev/null; head -c 8192 /dev/zero > /tmp/x; wc -c < /tmp/x"
    same(bench.run(command, rlimits=limits)[1].strip(), "4096")


@grant
def a_limit_beyond_ours_names_the_remedy(bench: Bench) -> None:
    problem = failure(lambda: bench.run("true", rlimits=(("nofile", 1 << 30, 1 << 30),)))
    assert "nofile" in problem.message
    assert "ulimit -H" in str(problem.hint)


@grant
def processes_are_counted_for_each_command(bench: Bench) -> None:
    if not bench.idmap.shift:
        return
    count = "for n in 1 2 3 4 5 6 7 8; do sleep 1 & done 2>/dev/null; wait"
    status, _ = bench.run(count, rlimits=(("nproc", 5, 5),))
    assert status != 0, "eight children of five processes"
    same(bench.run("sleep 0 & sleep 0 & wait", rlimits=(("nproc", 5, 5),)), (0, ""))


@grant
def shared_memory_is_as_large_as_asked(bench: Bench) -> None:
    command = "head -c 200k /dev/zero > /dev/shm/x; wc -c < /dev/shm/x"
    same(bench.run(f"exec 2>/dev/null; {command}", shm_size=100 << 10)[1].strip(), "102400")
    same(bench.run(command, shm_size=1 << 20)[1].strip(), "204800")


def _held(bench: Bench, **fields: object) -> int:
    output = bench.run("grep -E 'CapEff|CapBnd' /proc/self/status", **fields)[1]
    masks = {int(line.split()[1], 16) for line in output.splitlines()}
    assert len(masks) == 1, output
    return masks.pop()


@grant
def capabilities_are_those_of_the_spec(bench: Bench) -> None:
    same(_held(bench, capabilities=()), 0)
    same(_held(bench, capabilities=("net_admin",)), 1 << NAMES.index("net_admin"))
    chroot = "busybox chroot / true 2>/dev/null && echo may"
    if os.path.exists(bench.base / "bin/busybox"):
        same(bench.run(chroot, capabilities=())[1], "")
        same(bench.run(chroot, capabilities=("sys_chroot",))[1], "may\n")


@grant
def insecure_is_all_of_the_namespace_and_nothing_beyond(bench: Bench) -> None:
    known = (1 << int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1) - 1
    fields = {"insecure": True, "capabilities": tuple(NAMES)}
    same(_held(bench, **fields), known)
    # With one id, the supervisor of owners has its filter.
    filtered = "2" if bench.idmap.kind == "single" else "0"
    same(bench.run("grep ^Seccomp: /proc/self/status", **fields)[1].split()[1], filtered)
    same(bench.run("mount -t tmpfs none /tmp && touch /tmp/x", **fields), (0, ""))
    attacks = """
        exec 2>/dev/null
        echo x > /proc/sys/kernel/core_pattern && echo wrote core_pattern
        echo b > /proc/sysrq-trigger && echo wrote sysrq
        mknod /tmp/sda b 8 0; test "$(head -c 1 /tmp/sda | wc -c)" -eq 1 && echo read a disk
        mount -t proc none /tmp && test -e /tmp/1/cwd/etc/shadow && echo saw the host
        mount -o remount,rw /sys && touch /sys/kernel/x && echo wrote sys
        for pid in /proc/[0-9]*; do grep -q img[b]uild $pid/cmdline && echo saw $pid; done
        hostname evil; echo held
    """
    name = os.uname().nodename
    same(bench.run(attacks, **fields)[1], "held\n")
    same(os.uname().nodename, name)


@grant
def a_readonly_root_has_writable_mounts(bench: Bench) -> None:
    command = "exec 2>/dev/null; touch /x || touch /etc/x || touch /dev/shm/x && pwd"
    root = bench.step()
    same(bench.run(command, readonly=True, cwd="/made", root=root)[1], "/made\n")
    assert "x" not in os.listdir(root.upper)


@grant
def devices_are_nodes_of_this_machine(bench: Bench) -> None:
    devices = (("/dev/zero", "/dev/more/zero", "rwm"), ("/dev/zero", "/dev/null", "rwm"))
    command = "head -c 3 /dev/more/zero | wc -c; head -c 2 /dev/null | wc -c"
    root = bench.step()
    same(bench.run(command, devices=devices, root=root)[1].split(), ["3", "2"])
    same([p for p in Path(root.upper).rglob("*") if p.name != "dev"], [])
    problem = failure(lambda: bench.run("true", devices=(("/dev/absent", "/dev/x", "rwm"),)))
    assert "/dev/absent" in problem.message
    file = str(bench.place / "no-device")
    Path(file).touch()
    problem = failure(lambda: bench.run("true", devices=((file, "/dev/x", "rwm"),)))
    assert "no device" in problem.message


@grant
def a_private_network_has_to_be_made_first(bench: Bench) -> None:
    assert "no network" in failure(lambda: bench.run("true", network="private")).message
    params = {"kind": "pasta", "program": "/absent/pasta", "names": True}
    problem = failure(lambda: bench.session.request("network", params))
    assert "/absent/pasta" in problem.message
    same(bench.run("true"), (0, ""))


@grant
def a_command_may_be_kept_to_some_processors(bench: Bench) -> None:
    before = os.sched_getaffinity(0)
    same(bench.run("grep -c . /dev/null; nproc", processors=1)[1].split()[-1], "1")
    same(os.sched_getaffinity(0), before)


@grant
def joining_a_group_that_is_none_is_told(bench: Bench) -> None:
    from imgbuild.sandbox.spec import SandboxSpec

    reading, writing = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        spec = SandboxSpec(("/bin/true",), (), bench.step())
        # A file that cannot be written to by this descriptor.
        running = bench.session.run(spec, null, null, null, {"cgroup:0": reading})
        problem = failure(running.wait)
        assert "control group" in problem.message
    finally:
        for fd in (reading, writing, null):
            os.close(fd)


def main(place: Path, wanted: list[str]) -> None:
    """Go through the grants; print which failed and why."""
    scenarios.play(GRANTS, place, wanted)
