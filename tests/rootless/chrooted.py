"""What commands do and find where nothing is mounted; each a function of a bench."""

import base64
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from imgbuild.sandbox.spec import BindMount, SecretMount, TmpfsMount
from tests.rootless import scenarios
from tests.rootless.bare import Bare
from tests.rootless.scenarios import failure, same

# Scenarios of other benches that hold here as well.
SHARED = (
    "statuses_are_a_shells",
    "programs_are_looked_up_in_the_specs_path",
    "environment_and_arguments_survive_as_bytes",
    "long_specs_arrive",
    "working_directories_are_made",
    "working_directory_in_proc_leaks_nothing",
    "users_are_taken_on",
    "plain_users_hold_no_capability",
    "output_can_be_opened_by_name",
    "standard_input_is_empty_unless_interactive",
    "terminals_are_for_interactive_commands",
    "commands_run_side_by_side",
    "a_killed_command_takes_its_children_along",
    "what_a_command_leaves_running_ends_with_it",
    "the_worker_is_root_of_its_ids_alone",
    "descriptors_come_back",
    "requests_run_side_by_side",
)
SCENARIOS: dict[str, Callable[[Bare], object]] = {
    name: scenarios.SCENARIOS[name]
    for name in SHARED  # type: ignore[misc]
}


def scenario(function: Callable[[Bare], object]) -> Callable[[Bare], object]:
    SCENARIOS[function.__name__] = function
    return function


@scenario
def devices_and_processes_are_made_up(bench: Bare) -> None:
    for command, expected in {
        "echo x > /dev/null && test -c /dev/null && wc -c < /dev/null": "0\n",
        "head -c3 /dev/zero | wc -c; head -c5 /dev/urandom | wc -c": "3\n5\n",
        "{ echo x > /dev/full; } 2>/dev/null || echo full": "full\n",
        "echo out > /dev/stdout; echo err > /dev/stderr": "out\nerr\n",
        "readlink /proc/self/exe": "/bin/busybox\n",
        "cd /tmp && exec readlink /proc/self/cwd": "/tmp\n",
        "readlink /proc/self/root": "/\n",
        "echo here > /tmp/f; exec 5</tmp/f; readlink /proc/self/fd/5; cat /dev/fd/5": "/tmp/f\nhere\n",
        "grep -c MemTotal /proc/meminfo; cut -d' ' -f2 /proc/mounts | head -1": "1\n/\n",
        "cat /proc/self/comm": "cat\n",
    }.items():  # fmt: skip
        status, found = bench.run(f"exec 2>&1; {command}")
        same((command, status, found), (command, 0, expected))


@scenario
def ids_are_those_of_the_command(bench: Bare) -> None:
    words = bench.run("grep '^[UG]id' /proc/self/status")[1].split()
    same(words, ["Uid:", *"0000", "Gid:", *"0000"])
    own, linked = bench.run("echo $$; exec readlink /proc/self")[1].split()
    same(linked, own)
    same(bench.run("stat -c %u:%g /proc/self/fd/1; stat -Lc %u /proc/self")[1], "0:0\n0\n")


@scenario
def nothing_of_others_is_given(bench: Bare) -> None:
    mine = os.getpid()
    for path in (f"/proc/{mine}/environ", "/proc/1/status", "/proc/self/mem", "/proc/kcore"):
        same(bench.run(f"cat {path} 2>/dev/null || echo none")[1], "none\n")
    # A directory of the real /proc would lead out of the root.
    same(bench.run("cd /proc/self/fd 2>/dev/null && ls ../../.. | grep -c proc")[1], "1\n")
    same(bench.run("ls /proc/self/fd/ | wc -l")[1], "3\n")


@scenario
def descriptors_are_opened_for_no_more_than_they_were(bench: Bare) -> None:
    place = bench.place / "given"
    place.write_text("precious")
    with place.open() as file:
        command = "cat /dev/stdin; (echo x > /dev/stdin) 2>/dev/null || echo refused"
        running, reading = bench.start(command, stdin=file.fileno(), interactive=True)
        with os.fdopen(reading) as stream:
            same(stream.read(), "preciousrefused\n")
        running.wait()
    same(place.read_text(), "precious")


@scenario
def users_open_what_they_may(bench: Bare) -> None:
    if bench.idmap.kind == "single":
        return
    command = "exec 5</etc/passwd; cat /dev/fd/5 >/dev/null && echo read; (echo x >/dev/fd/5) 2>/dev/null || echo refused; cat /dev/null"
    same(bench.run(command, uid=1000, gid=1000)[1], "read\nrefused\n")


@scenario
def files_of_this_machine_are_out_of_reach(bench: Bare) -> None:
    secret = bench.place / "secret"
    secret.write_text("x")
    same(bench.run(f"cat {secret} 2>/dev/null || echo none")[1], "none\n")


@scenario
def secrets_are_gone_afterwards(bench: Bare) -> None:
    root = bench.step()
    value = base64.b64encode(b"hidden").decode()
    mounts = (SecretMount("/run/secrets/a", value, 0o440),)
    same(bench.run("cat /run/secrets/a; stat -c :%a /run/secrets/a", mounts=mounts, root=root), (0, "hidden:440\n"))  # fmt: skip
    same(bench.run("ls /run 2>/dev/null; true", root=root), (0, ""))
    bench.session.request("python", {"code": _SEARCH.format(str(bench.place))})


_SEARCH = """
import os
for folder, _, files in os.walk({0!r}):
    for name in files:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and not os.path.islink(path) and b"hidden" == open(path, "rb").read(): raise SystemExit(1)
"""


@scenario
def what_was_there_comes_back(bench: Bare) -> None:
    root = bench.step()
    bench.run("mkdir /data; echo own > /data/f; echo old > /etc/hosts; touch -d @5 /etc", root=root)
    source = bench.layer("source", lambda path: (path / "f").write_text("bound"))
    mounts = (
        BindMount(str(source), "/data"),
        bench.mount("new\n", "/etc/hosts"),
        TmpfsMount("/scratch"),
    )
    command = "cat /data/f /etc/hosts; echo x > /data/n; (echo x > /etc/hosts) 2>/dev/null; touch /scratch/n"
    same(bench.run(command, mounts=mounts, root=root), (0, "boundnew\n"))
    found = bench.run(
        "cat /data/f /etc/hosts; ls /data; ls -d /scratch; stat -c %Y /etc", root=root
    )
    same(found[1], "own\nold\nf\nls: /scratch: No such file or directory\n5\n")
    same(os.listdir(source), ["f"])


@scenario
def what_may_be_written_stays(bench: Bare) -> None:
    cache = bench.layer("cache", lambda path: (path / "old").write_text("1"))
    mounts = (BindMount(str(cache), "/var/cache/x", readonly=False),)
    same(bench.run("ls /var/cache/x; echo 2 > /var/cache/x/new", mounts=mounts), (0, "old\n"))
    same(sorted(os.listdir(cache)), ["new", "old"])
    bench.run("rm -r /var/cache/x; ln -s /etc /var/cache/x", mounts=mounts)
    same(os.listdir(cache), [])
    assert not cache.is_symlink()


@scenario
def what_was_put_in_place_is_found_wherever_it_was_moved(bench: Bare) -> None:
    root = bench.step()
    bench.run("mkdir /data; touch -d @5 /data", root=root)
    outer = bench.layer("outer", lambda path: (path / "old").write_text("1"))
    inner = bench.layer("inner", lambda path: (path / "old").write_text("2"))
    value = base64.b64encode(b"hidden").decode()
    mounts = (
        BindMount(str(outer), "/c", readonly=False),
        BindMount(str(inner), "/c/inner", readonly=False),
        SecretMount("/c/s", value, 0o440),
        SecretMount("/run/a", value, 0o440),
        bench.mount("new\n", "/etc/hosts"),
    )
    script = (
        "ln /run/a /linked; mv /run/a /moved; mv /c/s /data/s; mv /c/inner /data; mv /c /d;"
        "touch /d/new /data/inner/new; mv /etc/hosts /etc/was; ln -s /etc /c"
    )
    same(bench.run(script, mounts=mounts, root=root), (0, ""))
    same(sorted(os.listdir(outer)), ["new", "old"])
    same(sorted(os.listdir(inner)), ["new", "old"])
    found = bench.run("ls /data /etc; ls -d /c /d /moved /run 2>/dev/null; cat /linked", root=root)
    same(found[1], "/data:\n\n/etc:\ngroup\npasswd\n")
    bench.session.request("python", {"code": _SEARCH.format(str(bench.place))})


@scenario
def what_was_lent_comes_back_after_a_crash(bench: Bare) -> None:
    cache = bench.layer("lent", lambda path: (path / "old").write_text("1"))
    mounts = (BindMount(str(cache), "/c", readonly=False),)
    root = bench.step()
    running, reading = bench.start("mv /c /d; touch /d/new; echo up; sleep 1000", root=root, mounts=mounts)  # fmt: skip
    same(os.read(reading, 3), b"up\n")
    same(os.listdir(cache), [])
    os.kill(_waiting_process(bench), signal.SIGKILL)
    same(running.wait(), 137)
    os.close(reading)
    same(os.listdir(cache), [])
    bench.session.request("python", {"code": _GIVE_BACK.format(root.path)})
    same(sorted(os.listdir(cache)), ["new", "old"])
    bench.session.request("python", {"code": _GIVE_BACK.format(root.path)})
    same(sorted(os.listdir(cache)), ["new", "old"])


def _waiting_process(bench: Bare) -> int:
    """Find the process that waits for a command: below the worker and the zygote."""
    pid = os.getpid()
    for _ in range(3 if bench.session.tier.name == "D" else 4):
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return pid


_GIVE_BACK = """
import os
from imgbuild.sandbox.child import lent
lent.give_back(os.fsencode({0!r}))
"""


@scenario
def a_shared_directory_has_one_user_at_a_time(bench: Bare) -> None:
    cache = bench.layer("turns", lambda path: (path / "log").write_text(""))
    mounts = (BindMount(str(cache), "/c", readonly=False),)
    script = "echo in >> /c/log; sleep 0.05; echo out >> /c/log"
    started = [bench.start(script, mounts=mounts) for _ in range(4)]
    for running, reading in started:
        same(running.wait(), 0)
        os.close(reading)
    same((cache / "log").read_text(), "in\nout\n" * 4)


@scenario
def links_in_an_image_lead_nowhere(bench: Bare) -> None:
    outside = bench.place / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    evil = bench.place / "evil"
    (evil / "etc").mkdir(parents=True)
    (evil / "etc/resolv.conf").symlink_to(outside / "made")
    (evil / "etc/hosts").symlink_to(f"../../../../../..{outside}/precious")
    (evil / "dev").symlink_to(outside)
    (evil / "proc").symlink_to(outside)
    root = bench.step((evil, bench.base, bench.skeleton))
    mounts = (bench.mount("a\n", "/etc/resolv.conf"), bench.mount("b\n", "/etc/hosts"))
    same(bench.run("cat /etc/resolv.conf /etc/hosts", root=root, mounts=mounts), (0, "a\nb\n"))
    same(os.listdir(outside), ["precious"])
    same((outside / "precious").read_text(), "precious")


@scenario
def what_needs_more_is_refused_by_name(bench: Bare) -> None:
    name = bench.session.tier.name
    wanted = {"readonly": True, "devices": [("/dev/null", "/dev/x", "rwm")]}
    if name == "D":
        wanted["network"] = "none"
    for field, value in wanted.items():
        problem = failure(lambda field=field, value=value: bench.run("true", **{field: value}))
        assert f"tier {name}" in problem.message, problem.message
        assert problem.hint
    sized = (TmpfsMount("/m", 1 << 20),)
    assert "size" in failure(lambda: bench.run("true", mounts=sized)).message


@scenario
def leftovers_that_hide_end_too(bench: Bare) -> None:
    script = "for i in 1 2 3; do (setsid sh -c 'sh -c \"sleep 1000 & sleep 1000\" &' &) ; done; sleep 0.2"
    before = _sleepers()
    running, reading = bench.start(f"{script} >/dev/null 2>&1 </dev/null")
    same(running.wait(), 0)
    os.close(reading)
    deadline = time.monotonic() + 2
    while _sleepers() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    same(_sleepers() - before, set())


@scenario
def listings_are_made_nowhere_else(bench: Bare) -> None:
    outside = bench.layer("elsewhere", lambda path: (path / "precious").touch())
    script = f"mv /proc /moved && ln -s {outside} /proc && ls /proc/self/fd/ | wc -l"
    same(bench.run(script), (0, "3\n"))
    same(os.listdir(outside), ["precious"])


@scenario
def a_chain_of_forks_ends(bench: Bare) -> None:
    script = "f() { f & exit 0; }; f >/dev/null 2>&1 </dev/null & sleep 0.2"
    running, reading = bench.start(script)
    with os.fdopen(reading) as stream:
        same(stream.read(), "")
    same(running.wait(), 0)


@scenario
def shared_memory_is_where_old_libraries_look_for_it(bench: Bare) -> None:
    same(bench.run("stat -f -c %t /dev/shm /proc; touch /dev/shm/x && ls /dev/shm")[1], "1021994\n9fa0\nx\n")  # fmt: skip


def _sleepers() -> set[str]:
    found = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if b"sleep\x001000" in Path(f"/proc/{name}/cmdline").read_bytes():
                found.add(name)
        except OSError:
            continue
    return found


def main(place: Path, isolation: str) -> None:
    """Play all scenarios; print what failed."""
    import traceback

    results = {}
    for name, act in SCENARIOS.items():
        (place / name).mkdir()
        with Bare(place / name, isolation) as bench:
            bench.finish()
            try:
                act(bench)
                results[name] = ""
            except BaseException:
                results[name] = traceback.format_exc()
    json.dump(results, sys.stdout)
