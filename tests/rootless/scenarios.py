"""Things that sessions and commands must do, each a function of a bench; run as several users."""

import errno
import json
import os
import shutil
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgbuild.errors import (
    DiskFullError,
    ImageError,
    ImgbuildError,
    SandboxError,
    StepFailedError,
)
from imgbuild.sandbox.child.syscall_numbers import numbers
from imgbuild.sandbox.spec import FileMount, OverlayRoot
from tests.support import roots
from tests.support.bench import Bench
from tests.support.machine_code import SUPPORTED, Call, program

SCENARIOS: dict[str, Callable[[Bench], object]] = {}


def scenario(function: Callable[[Bench], object]) -> Callable[[Bench], object]:
    SCENARIOS[function.__name__] = function
    return function


def same(found: Any, expected: Any) -> None:
    assert found == expected, f"found {found!r}, expected {expected!r}"


def failure(act: Callable[[], object]) -> ImgbuildError:
    try:
        found = act()
    except (SandboxError, StepFailedError) as problem:
        return problem
    raise AssertionError(f"nothing failed: {found!r}")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@scenario
def statuses_are_a_shells(bench: Bench) -> None:
    same(bench.run("exit 3"), (3, ""))
    same(bench.run("sh -c 'kill -15 $$'; exit $?")[0], 143)
    same(bench.run(["no-such-program"])[0], 127)
    assert "not found in $PATH" in bench.run(["no-such-program"])[1]
    same(bench.run(["/etc/passwd"])[0], 126)
    same(bench.run(["/absent"])[0], 127)
    same(bench.run(["/etc/passwd/x"])[0], 127)


@scenario
def programs_are_looked_up_in_the_specs_path(bench: Bench) -> None:
    same(bench.run(["true"], env=(("PATH", "/absent:/bin"),)), (0, ""))
    same(bench.run(["true"], env=(("PATH", "/absent"),))[0], 127)
    same(bench.run(["true"], env=())[0], 0)
    # A relative entry is no place to find programs in.
    same(bench.run(["true"], env=(("PATH", "bin:."),))[0], 127)


@scenario
def environment_and_arguments_survive_as_bytes(bench: Bench) -> None:
    odd = os.fsdecode(b"\xff\n\xc3\xa4 '\"")
    command = ("/bin/sh", "-c", 'printf %s "$ODD$1"', "sh", odd)
    running, reading = bench.start(command, env=(("PATH", "/bin"), ("ODD", odd)))
    with os.fdopen(reading, "rb") as stream:
        same(stream.read(), os.fsencode(odd) * 2)
    same(running.wait(), 0)


@scenario
def long_specs_arrive(bench: Bench) -> None:
    env = (("PATH", "/bin"), *((f"V{n}", "x" * 10_000) for n in range(50)))
    same(bench.run("echo ${#V49}", env=env), (0, "10000\n"))


@scenario
def working_directories_are_made(bench: Bench) -> None:
    same(bench.run("pwd; stat -c %u:%a .", cwd="/new/deep"), (0, "/new/deep\n0:755\n"))
    problem = failure(lambda: bench.run("pwd", cwd="/etc/passwd"))
    assert "working directory" in problem.message
    assert problem.hint is not None
    assert "WORKDIR" in problem.hint


@scenario
def working_directory_in_proc_leaks_nothing(bench: Bench) -> None:
    """CVE-2024-21626."""
    climb = "cd ../../../../../../../..; test -e bin/busybox -o -e bin/true && pwd -P >/dev/null && test . -ef / && echo inside"
    for number in range(3, 30):
        try:
            found = bench.run(climb, cwd=f"/proc/self/fd/{number}")
        except StepFailedError:
            continue
        # A descriptor of something in the root, taken by its name: harmless.
        same(found, (0, "inside\n"))
    layer = bench.layer("link", lambda path: (path / "link").symlink_to("/proc/1/root"))
    root = bench.step((layer, bench.base, bench.skeleton))
    if bench.session.tier.proc == "shared":  # there it is another process, and its own affair
        failure(lambda: bench.run(climb, root=root, cwd="/link"))
        return
    same(bench.run(climb, root=root, cwd="/link"), (0, "inside\n"))


@scenario
def users_are_taken_on(bench: Bench) -> None:
    same(bench.run("id -u; id -g", uid=7, gid=8)[1], "7\n8\n")
    if bench.idmap.kind == "single":  # the one id is the user's, so all files are
        same(bench.run("stat -c %u:%g /etc /etc/passwd", uid=7, gid=8)[1], "7:8\n7:8\n")
        same(bench.run("id -u", groups=(1, 2))[1], "0\n")
        return
    same(bench.run("id -G", uid=7, gid=8, groups=(9, 10))[1], "8 9 10\n")
    same(bench.run("id -u; id -G")[1], "0\n0\n")


@scenario
def plain_users_hold_no_capability(bench: Bench) -> None:
    command = "grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status; mount -t tmpfs x /tmp 2>&1"
    status, said = bench.run(command, uid=7, gid=8)
    assert status != 0
    same({line.split()[1] for line in said.splitlines()[:4]}, {"0" * 16})


@scenario
def output_can_be_opened_by_name(bench: Bench) -> None:
    for uid in (0, 1000):
        same(bench.run("echo x > /dev/stdout; echo y > /dev/stderr", uid=uid), (0, "x\ny\n"))


@scenario
def changes_land_in_the_upper_directory(bench: Bench) -> None:
    root = bench.step()
    same(bench.run("echo x > /etc/new; rm /etc/group; chmod 700 /tmp", root=root), (0, ""))
    upper = Path(root.upper)
    assert stat.S_ISCHR((upper / "etc/group").lstat().st_mode)
    same(sorted(os.listdir(upper)), ["etc", "tmp"])
    same(sorted(os.listdir(upper / "etc")), ["group", "new"])


@scenario
def files_are_mounted_read_only(bench: Bench) -> None:
    mounts = (bench.mount("first\n", "/etc/hosts"), bench.mount("second\n", "/srv/a/b"))
    command = "cat /etc/hosts /srv/a/b; echo x >> /etc/hosts || echo refused"
    same(bench.run(f"exec 2>/dev/null; {command}", mounts=mounts)[1], "first\nsecond\nrefused\n")


@scenario
def mount_points_leave_no_trace(bench: Bench) -> None:

    def bare(path: Path) -> None:
        shutil.rmtree(roots.make_root(path) / "etc")
        (path / "etc").mkdir()
        os.utime(path / "etc", (1000, 1000))

    lowers = (bench.layer("bare", bare),)
    mounts = (bench.mount("x", "/etc/hosts"), bench.mount("x", "/run/deep/file"))
    root = bench.step(lowers)
    same(bench.run(["true"], root=root, mounts=mounts), (0, ""))
    same([str(path.relative_to(root.upper)) for path in Path(root.upper).rglob("*")], ["etc"])
    same((Path(root.upper) / "etc").stat().st_mtime, 1000)

    root = bench.step(lowers)
    command = "echo mine > /run/deep/kept; touch -d @5000 /etc"
    same(bench.run(command, root=root, mounts=mounts), (0, ""))
    same(sorted(os.listdir(f"{root.upper}/run/deep")), ["kept"])
    same((Path(root.upper) / "etc").stat().st_mtime, 5000)


@scenario
def links_in_an_image_cannot_move_mounts_outside(bench: Bench) -> None:
    outside = bench.place / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    evil = bench.place / "evil"
    (evil / "etc").mkdir(parents=True)
    (evil / "etc/resolv.conf").symlink_to(outside / "made")
    (evil / "etc/hosts").symlink_to(f"../../../../../..{outside}/precious")
    (evil / "etc/loop").symlink_to("loop")
    (evil / "tmp").symlink_to("../../../../../../..")
    bench.give(evil)
    root = bench.step((evil, bench.base, bench.skeleton))
    mounts = (
        bench.mount("resolver\n", "/etc/resolv.conf"),
        bench.mount("hosts\n", "/etc/hosts"),
    )
    command = f"cat /etc/resolv.conf /etc/hosts {outside}/made; ls {outside}"
    output = bench.run(command, root=root, mounts=mounts)
    same(output, (0, "resolver\nhosts\nresolver\nmade\nprecious\n"))
    same(os.listdir(outside), ["precious"])
    same((outside / "precious").read_text(), "precious")
    assert not (Path(root.upper) / str(outside)[1:] / "made").exists()
    loop = (bench.mount("x", "/etc/loop"),)
    failure(lambda: bench.run("true", root=bench.step((evil, bench.base)), mounts=loop))


@scenario
def proc_as_a_link_is_not_followed_outside(bench: Bench) -> None:
    evil = bench.place / "evil-proc"
    (evil / "real").mkdir(parents=True)
    (evil / "proc").symlink_to("/real")
    bench.give(evil)
    same(
        bench.run("test -e /real/self/status", root=bench.step((evil, bench.base, bench.skeleton)))[
            0
        ],
        0,
    )


@scenario
def nothing_of_the_image_is_imported(bench: Bench) -> None:
    """An import after the change of root would run code of the image."""
    trap = "open('/pwned', 'w').close()\n"

    def traps(path: Path) -> None:
        for folder in {*sys.path, "/", os.getcwd(), os.path.dirname(os.__file__)}:
            place = path / folder.strip("/")
            place.mkdir(parents=True, exist_ok=True)
            for module in ("traceback", "warnings", "encodings", "linecache", "locale", "enum"):
                (place / f"{module}.py").write_text(trap)

    layer = bench.layer("traps", traps)
    root = bench.step((layer, bench.base, bench.skeleton))
    same(bench.run(["no-such-program"], root=root)[0], 127)
    assert not (Path(root.upper) / "pwned").exists()


@scenario
def the_interpreter_cannot_be_overwritten(bench: Bench) -> None:
    """CVE-2019-5736: `#!/proc/self/exe` runs the host's Python with the image's loader."""
    if not SUPPORTED:
        return
    numbers_64 = numbers("x86_64")
    before = os.stat(sys.executable)
    attempts: list[tuple[Call, set[int]]] = [
        # A writable mount is asked for before permissions are: EROFS shows that there is none.
        ((numbers_64["chmod"], b"/proc/self/exe", 0o777), {errno.EROFS}),
        (
            (numbers_64["open"], b"/proc/self/exe", 1, 0),
            {errno.ETXTBSY, errno.EROFS, errno.EACCES},
        ),
    ]
    for number, (call, expected) in enumerate(attempts):

        def fill(path: Path, call: Call = call) -> None:
            loader = path / "lib64/ld-linux-x86-64.so.2"
            loader.parent.mkdir()
            loader.write_bytes(program(call))
            (path / "evil").write_text("#!/proc/self/exe\n")
            for file in (loader, path / "evil"):
                file.chmod(0o755)

        layer = bench.layer(f"evil-loader{number}", fill)
        root = bench.step((layer, bench.base, bench.skeleton))
        status, output = bench.run(["/evil"], root=root)
        assert status in expected, (status, output)
    after = os.stat(sys.executable)
    same(
        (after.st_mode, after.st_mtime_ns, after.st_size),
        (before.st_mode, before.st_mtime_ns, before.st_size),
    )


@scenario
def hundreds_of_layers_can_be_stacked(bench: Bench) -> None:
    layers = []
    for number in range(150):
        layer = bench.place / ("layers-of-a-name-as-long-as-a-digest-has-" + f"{number:024}")
        layer.mkdir()
        (layer / f"file{number}").touch()
        layers.append(layer)
    bench.give(*layers)
    root = bench.step((*layers, bench.base, bench.skeleton))
    same(bench.run("ls -d /file* | wc -l", root=root), (0, "150\n"))


@scenario
def networks_are_what_was_asked_for(bench: Bench) -> None:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    port = server.getsockname()[1]
    try:
        reach = f"nc 127.0.0.1 {port} </dev/null"
        links = "ls /sys/class/net | tr '\\n' ' '"
        same(bench.run(links, network="none"), (0, "lo "))
        assert bench.run(f"exec 2>/dev/null; {reach}", network="none")[0] != 0

        def answer() -> None:
            server.accept()[0].close()

        threading.Thread(target=answer, daemon=True).start()
        if os.path.exists(bench.base / "bin/nc"):
            same(bench.run(reach, network="host")[0], 0)
    finally:
        server.close()


@scenario
def standard_input_is_empty_unless_interactive(bench: Bench) -> None:
    for interactive, expected in ((False, ""), (True, "typed")):
        reading, writing = os.pipe()
        os.write(writing, b"typed")
        os.close(writing)
        same(bench.run("cat", stdin=reading, interactive=interactive), (0, expected))
        os.close(reading)


@scenario
def terminals_are_for_interactive_commands(bench: Bench) -> None:
    master, terminal = os.openpty()
    from imgbuild.sandbox.spec import SandboxSpec

    root = bench.step()
    argv = ("/bin/sh", "-c", "test -t 0 && test -t 1 && echo yes")
    env = (("PATH", "/bin"),)
    try:
        bench.session.run(SandboxSpec(argv, env, root), terminal, terminal, terminal)
    except ValueError:
        pass
    else:
        raise AssertionError("a terminal was handed over")
    spec = SandboxSpec(argv, env, root, interactive=True)
    same(bench.session.run(spec, terminal, terminal, terminal).wait(), 0)
    assert b"yes" in os.read(master, 100)
    os.close(master)
    os.close(terminal)


@scenario
def commands_run_side_by_side(bench: Bench) -> None:
    started = [bench.start(f"sleep 0.3; exit {number}") for number in range(8)]
    before = time.monotonic()
    same([running.wait() for running, _ in started], list(range(8)))
    assert time.monotonic() - before < 2.2, "they ran one after the other"
    for _, reading in started:
        os.close(reading)


@scenario
def a_killed_command_takes_its_children_along(bench: Bench) -> None:
    running, reading = bench.start("sleep 100 & setsid sleep 100 & echo up; wait")
    same(os.read(reading, 10), b"up\n")
    running.kill()
    same(running.wait(), 137)
    # The last holder of the pipe is gone, so this ends at once.
    same(os.read(reading, 10), b"")
    os.close(reading)
    running.kill()


@scenario
def what_a_command_leaves_running_ends_with_it(bench: Bench) -> None:
    before = time.monotonic()
    same(bench.run("sleep 100 & setsid sleep 100 & echo done"), (0, "done\n"))
    assert time.monotonic() - before < 30


@scenario
def the_worker_is_root_of_its_ids_alone(bench: Bench) -> None:
    os.environ["SECRET"] = "x"
    outside = ["/etc/imgbuild-test", "/tmp/imgbuild-test", "/proc/sys/kernel/core_pattern"]
    inside = str(bench.place / "written")
    reading, writing = os.pipe()
    os.write(writing, b"hello")
    facts, _ = bench.session.request("facts", {"write": [*outside, inside]}, (reading,))
    same(facts["uid"], 0)
    same(facts["received"], ["hello"])
    assert "SECRET" not in facts["environment"]
    same(set(facts["refused"]), set(outside))
    assert set(facts["refused"].values()) <= {errno.EROFS, errno.EACCES, errno.EPERM}
    bare = bench.session.tier.root == "copy"
    same(facts["refused"]["/tmp/imgbuild-test"], errno.EACCES if bare else errno.EROFS)
    os.close(reading)
    os.close(writing)


@scenario
def descriptors_come_back(bench: Bench) -> None:

    def fill(path: Path) -> None:
        (path / "abs").symlink_to("/etc/passwd")
        (path / "etc").mkdir()
        (path / "etc/passwd").write_text("inside")

    params = {"root": str(bench.layer("linked", fill)), "path": "abs"}
    _, fds = bench.session.request("open", params)
    with os.fdopen(fds[0]) as stream:
        assert stream.read() == "inside"


@scenario
def errors_of_the_worker_keep_their_kind(bench: Bench) -> None:
    def ask(**params: object) -> Exception:
        try:
            bench.session.request("fail", params)
        except Exception as problem:
            return problem
        raise AssertionError("nothing failed")

    image = ask(how="image")
    assert isinstance(image, ImageError)
    same((image.message, image.hint), ("bad layer", "get a better one"))
    assert isinstance(ask(how="errno", errno=errno.ENOSPC), DiskFullError)
    assert isinstance(ask(how="errno", errno=errno.EACCES), SandboxError)
    for how, text in (("signal", "signal 9"), ("exit", "status 7"), ("other", "told to")):
        problem = ask(how=how)
        assert isinstance(problem, SandboxError)
        assert text in problem.message, problem.message
    same(bench.session.request("echo", {"still": "here"})[0], {"still": "here"})


@scenario
def requests_run_side_by_side(bench: Bench) -> None:
    results: list[object] = []

    def ask() -> None:
        results.append(bench.session.request("sleep", {"seconds": 0.3})[0])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    before = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(results, [{"slept": 0.3}] * 8)
    assert time.monotonic() - before < 2.2


@scenario
def long_messages_pass_both_ways(bench: Bench) -> None:
    params = {"text": "ä" * 500_000}
    same(bench.session.request("echo", params)[0], params)


@scenario
def no_descriptor_stays_open(bench: Bench) -> None:
    bench.run("true")
    before = open_descriptors()
    for _ in range(3):
        bench.run("true", network="none")
        bench.session.request("echo", {})
        failure(lambda: bench.run("true", cwd="/etc/passwd"))
    same(open_descriptors(), before)


@scenario
def missing_layers_and_files_are_named(bench: Bench) -> None:
    root = bench.step()
    gone = OverlayRoot(("/absent/layer", *root.lowers), root.upper, root.work)
    assert "layers cannot be mounted" in failure(lambda: bench.run("true", root=gone)).message
    mounts = (FileMount("/absent/file", "/etc/hosts"),)
    assert "mounted" in failure(lambda: bench.run("true", mounts=mounts)).message


def main(place: Path, wanted: list[str], runtimes: tuple[str, ...] = ()) -> None:
    """Go through the scenarios; print which failed and why."""
    play(SCENARIOS, place, wanted, runtimes)


def play(
    known: dict[str, Callable[[Bench], object]],
    place: Path,
    wanted: list[str],
    runtimes: tuple[str, ...] = (),
) -> None:
    """Go through some of what is known, on one bench; print which failed and why."""
    import traceback

    results = {}
    with Bench(place, runtimes=runtimes) as bench:
        bench.finish()
        for name in wanted:
            try:
                known[name](bench)
            except BaseException:
                results[name] = traceback.format_exc()
            else:
                results[name] = ""
    json.dump(results, sys.stdout)
