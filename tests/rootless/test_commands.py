"""The flags about commands, from the command line to what a command sees."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgbuild import api
from imgbuild.build.output import Pipes, TimedOut, follow
from imgbuild.errors import StepFailedError
from imgbuild.options import BuildOptions, RunOptions
from imgbuild.sandbox.session import Running
from tests.support.command import environment, imgbuild
from tests.support.users import Who, folder_of, python_as

pytestmark = pytest.mark.rootless
BASE = ("--build-context", "base=host://sh,cat,echo,ls,id,sleep,touch,env,head,grep,hostname,ln,mv")
HOST = ("--network=host",)  # what helpers there are is another test's business


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    (folder / "Dockerfile").write_text(
        "FROM base\nENV A=image B=image\nUSER 7\nWORKDIR /srv\nENTRYPOINT ["
        '"echo", "entry"]\nCMD ["cmd"]\n'
    )
    imgbuild("-t", "app", *BASE, folder, store=folder / "store")
    return folder / "store"


def run(store: Path, *words: str) -> str:
    return imgbuild("run", *HOST, *words, store=store).stdout.decode()


def built(folder: Path, text: str, *flags: str, check: bool = True) -> tuple[int, str]:
    (folder / "Dockerfile").write_text(f"FROM base\n{text}\n")
    words = ("--progress=plain", *HOST, *flags, *BASE, folder)
    done = imgbuild(*words, store=folder / "store", check=check)
    return done.returncode, done.stderr.decode()


def shown(text: str) -> list[str]:
    """What commands wrote, without numbers and times."""
    return [
        line.split(" ", 2)[2]
        for line in text.splitlines()
        if line.startswith("#2 ") and line.split(" ")[1][:1].isdecimal() and line.count(" ") > 1
    ]


def test_run_takes_what_docker_takes(store: Path, tmp_path: Path) -> None:
    assert run(store, "app") == "entry cmd\n"
    assert run(store, "app", "other") == "entry other\n"
    assert (
        run(store, "--entrypoint", "sh", "app", "-c", "id -u; pwd; echo $A") == "7\n/srv\nimage\n"
    )
    shell = ("--entrypoint", "sh")
    file = tmp_path / "env"
    file.write_text("B=file\nC=file\n")
    found = run(
        store,
        *("-u", "0:5", "-w", "/new/dir", "-e", "A=flag", "--env-file", str(file), "-e", "C=flag"),
        *("--hostname", "box", "--add-host", "db:10.0.0.9", *shell, "app"),
        *("-c", "id -u; id -g; pwd; echo $A $B $C; hostname; cat /etc/hosts"),
    )
    assert found.splitlines()[:5] == ["0", "5", "/new/dir", "flag file flag", "box"]
    assert "127.0.0.1\tlocalhost box" in found
    assert "10.0.0.9\tdb" in found


def test_run_without_writing(store: Path, tmp_path: Path) -> None:
    command = "touch /x 2>/dev/null || touch /dev/shm/x && echo held"
    tmp_path.chmod(0o755)
    volume = ("-v", f"{tmp_path}:/new/volume:ro")
    words = ("--read-only", *volume, "-u", "0", "--entrypoint", "sh", "app", "-c", command)
    assert run(store, *words) == "held\n"


def test_run_with_a_volume(store: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("mine")
    command = "cat /v/file; touch /v/new 2>/dev/null || echo held"
    words = ("-v", f"{tmp_path}:/v:ro", "--entrypoint", "sh", "app", "-c", command)
    assert run(store, *words) == "mineheld\n"
    tmp_path.chmod(0o777)
    command = "touch /v/new && echo made"
    words = ("-v", f"{tmp_path}:/v", "--entrypoint", "sh", "app", "-c", command)
    assert run(store, *words) == "made\n"
    assert (tmp_path / "new").exists()


@pytest.mark.parametrize("who", ["subids", "single"])
def test_plain_users_write_to_a_volume(who: Who, tmp_path: Path) -> None:
    """Beside the store, which is writable anyway; in a build and by `run`."""
    code = """
        import sys
        from pathlib import Path
        import imgbuild

        place = Path(sys.argv[1])
        volume = place / "volume"
        volume.mkdir()
        volume.chmod(0o777 if sys.argv[2] == "subids" else 0o700)
        (place / "Dockerfile").write_text("FROM base\\nRUN echo one > /v/one\\n")
        given = imgbuild.RunOptions(volumes=(imgbuild.Volume(volume, "/v"),))
        base = {"base": "host://sh"}
        same = {"store": place / "store", "network": "host"}
        imgbuild.build(place, tags=["app"], build_contexts=base, run=given, **same)
        assert imgbuild.run("app", ["sh", "-c", "echo two > /v/two"], options=given, **same) == 0
        print((volume / "one").read_text(), (volume / "two").read_text())
        (volume / "one").unlink()
    """
    with folder_of(who, tmp_path) as place:
        done = python_as(who, code, place, who)
    assert done.stdout.split() == ["one", "two"]


def test_owners_of_a_volume_are_roots_as_they_are(store: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("not root")
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    (volume / "file").touch()
    os.chown(volume / "file", 1234, 4321)
    command = "ls -ln /v/file; touch /v/new"
    words = ("-u", "0", "-v", f"{volume}:/v", "--entrypoint", "sh", "app", "-c", command)
    assert "1234 4321" in run(store, *words)
    made = (volume / "new").stat()
    assert (made.st_uid, made.st_gid) == (0, 0)


@pytest.mark.parametrize("who", ["self", "subids", "single"])
def test_a_command_opens_its_own_output_by_name(who: Who, tmp_path: Path) -> None:
    """As servers do that log to /dev/stdout: it is not theirs, be it a file or a terminal."""
    code = """
        import os, sys
        from pathlib import Path
        import imgbuild

        place = Path(sys.argv[1])
        (place / "Dockerfile").write_text("FROM base\\nUSER 7\\n")
        same = {"store": place / "store", "network": "host"}
        imgbuild.build(place, tags=["app"], build_contexts={"base": "host://sh"}, **same)
        script = "echo out > /dev/stdout; echo err > /dev/stderr; echo more"
        master, terminal = os.openpty()
        with (place / "said").open("wb") as file:
            for number, tty in ((file.fileno(), False), (terminal, False), (terminal, True)):
                streams = (terminal if tty else 0, number, number)
                command = ["sh", "-c", script]
                assert imgbuild.run("app", command, streams=streams, tty=tty, **same) == 0
        seen = (place / "said").read_bytes()
        while seen.count(b"more") < 3:
            seen += os.read(master, 100)
        print(*seen.decode().split())
    """
    with folder_of(who, tmp_path) as place:
        done = python_as(who, code, place)
    assert done.stdout.split() == ["out", "err", "more"] * 3


def test_run_ends_when_nobody_reads(store: Path) -> None:
    words = ("run", *HOST, "--entrypoint", "sh", "app", "-c", "while echo x; do :; done")
    process = subprocess.Popen(
        [sys.executable, "-m", "imgbuild", *words],
        env=environment({"IMGBUILD_STORE": str(store)}),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(2) == b"x\n"
    process.stdout.close()
    assert process.wait(20) == 141


def test_run_may_time_out(store: Path) -> None:
    words = ("run", *HOST, "--timeout", "500ms", "--entrypoint", "sleep", "app", "100")
    done = imgbuild(*words, store=store, check=False)
    assert done.returncode == 124
    assert b"timed out after 0.5 s" in done.stderr


def test_flags_reach_commands_of_run(tmp_path: Path) -> None:
    text = "RUN ulimit -n; grep CapEff /proc/self/status; cat /etc/hosts /etc/resolv.conf"
    flags = ("--ulimit", "nofile=77", "--cap-drop", "ALL", "--cap-add", "CHOWN")
    flags += ("--dns", "192.0.2.9", "--dns-search", "corp.example", "--add-host", "db=10.0.0.9")
    lines = shown(built(tmp_path, text, *flags)[1])
    assert lines[:2] == ["77", "CapEff:\t0000000000000001"]
    assert lines[4:] == ["10.0.0.9\tdb", "nameserver 192.0.2.9", *lines[6:]]
    assert "search corp.example" in lines


def test_names_of_hosts_are_in_the_key_and_addresses_are_not(tmp_path: Path) -> None:
    text = "RUN cat /etc/hosts"
    assert "CACHED" not in built(tmp_path, text, "--add-host", "db:10.0.0.9")[1].split("#2")[-1]
    assert "CACHED" in built(tmp_path, text, "--add-host", "db:10.0.0.8")[1].split("#2")[-1]
    assert "CACHED" not in built(tmp_path, text, "--add-host", "x:10.0.0.8")[1].split("#2")[-1]


def test_without_a_resolver_it_is_the_images(tmp_path: Path) -> None:
    text = "RUN echo mine > /etc/resolv.conf; cat /etc/resolv.conf\nRUN cat /etc/resolv.conf"
    _, output = built(tmp_path, text, "--dns", "none")
    assert output.count(" mine\n") == 2


def test_a_step_may_time_out(tmp_path: Path) -> None:
    text = "RUN echo begun; sleep 100 & sleep 100"
    status, output = built(tmp_path, text, "--timeout", "1s", check=False)
    assert status == 1
    assert "begun" in shown(output)
    assert (
        'error: process "/bin/sh -c echo begun; sleep 100 & sleep 100" timed out after 1 s'
        in output
    )
    assert ">>> RUN echo begun" in output
    assert "--timeout" in output
    options = BuildOptions(
        tmp_path,
        build_contexts={"base": "host://sh,sleep"},
        store=tmp_path / "store",
        network="host",
        run=RunOptions(timeout=0.3),
    )
    with pytest.raises(StepFailedError) as caught:
        api.build(options)
    assert caught.value.status == 124
    # Enough time: the same step is not taken from what was cut short.
    assert built(tmp_path, "RUN sleep 0.1 && echo whole > /f", "--timeout", "1m")[0] == 0


def test_a_limit_of_memory_is_named_or_said_to_be_weak(tmp_path: Path) -> None:
    text = "RUN head -c 90000000 /dev/zero > /dev/shm/x; sleep 0.1; ls /dev/shm/x"
    flags = ("--shm-size=100m", "--memory=40m", "--cpus=1", "--pids-limit=100")
    status, output = built(tmp_path, text, *flags, check=False)
    if "no control group can be made here" in output:
        assert status == 0
        return
    assert status == 1
    assert "ran out of memory: --memory 40m" in output


def test_insecure_has_to_be_allowed(tmp_path: Path) -> None:
    text = "RUN --security=insecure grep -E 'CapEff|^Seccomp:' /proc/self/status"
    assert built(tmp_path, text, check=False)[0] != 0
    lines = shown(built(tmp_path, text, "--allow=security.insecure")[1])
    assert int(lines[0].split()[1], 16) >= (1 << 38) - 1
    assert lines[1].split() == ["Seccomp:", "0"]


_STARTED = "RUN echo begun && exec 2>/dev/null; sleep 100 & sleep 100"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_the_step_and_leave_nothing(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM base\n{_STARTED}\n")
    words = ["--progress=plain", *HOST, *BASE, str(tmp_path)]
    env = environment({"IMGBUILD_STORE": str(tmp_path / "store")})
    with subprocess.Popen(
        [sys.executable, "-m", "imgbuild", *words], stderr=subprocess.PIPE, env=env
    ) as process:
        assert process.stderr is not None
        while not process.stderr.readline().endswith(b" begun\n"):
            assert process.poll() is None
        below = _below(process.pid)
        assert below
        before = time.monotonic()
        process.send_signal(number)
        assert b"#2 CANCELED " in process.stderr.read()
        assert process.wait() == status
    assert time.monotonic() - before < 5
    assert [pid for pid in below if Path(f"/proc/{pid}/exe").exists()] == []
    assert os.listdir(tmp_path / "store/layers/steps") == []
    assert not [
        line for line in Path("/proc/mounts").read_text().splitlines() if str(tmp_path) in line
    ]


def _below(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(word) for task in tasks for word in task.read_text().split()]
    return [*children, *(below for child in children for below in _below(child))]


class _Written(Running):
    """A command that writes some pieces, with pauses, and ends."""

    def __init__(self, pipes: Pipes, pieces: list[tuple[float, bytes]]) -> None:
        code = "import os, time\n"
        for pause, piece in pieces:
            code += f"time.sleep({pause}); os.write(1, {piece!r})\n"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=pipes.out_writer, stderr=pipes.err_writer
        )

    def wait(self, seconds: float | None = None) -> int | None:  # type: ignore[override]
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._process.kill()


def _followed(
    pieces: list[tuple[float, bytes]], timeout: float | None
) -> tuple[list[bytes], bytes]:
    seen: list[bytes] = []
    with Pipes() as pipes:
        running = _Written(pipes, pieces)
        pipes.close_writers()
        _, tail = follow(
            running,
            pipes,
            lambda _, data: seen.append(data),
            secrets=[b"hush-hush"],
            timeout=timeout,
        )
    return seen, tail


def test_secrets_are_masked_across_pieces() -> None:
    seen, tail = _followed([(0, b"a hush"), (0.3, b"-hush b"), (0, b" hu"), (1.5, b"sh-")], None)
    assert tail == b"".join(seen)
    assert tail == b"a *** b hush-"
    # What looked like a beginning was shown once nothing followed.
    assert b"hu" in seen


def test_what_was_written_before_a_timeout_is_kept() -> None:
    with pytest.raises(TimedOut) as caught:
        _followed([(0, b"a hush-hush b hush"), (9, b"")], 1.0)
    assert caught.value.tail == b"a *** b hush"


def test_a_timeout_holds_for_who_closes_its_streams(tmp_path: Path) -> None:
    status, said = built(tmp_path, "RUN exec >&- 2>&-; sleep 9", "--timeout=1", check=False)
    assert status == 1
    assert "timed out after 1 s" in said


def test_who_else_can_write_does_not_hold_up_the_end() -> None:
    with Pipes() as pipes:
        running = _Written(pipes, [(0, b"all")])
        lent = os.dup(pipes.out_writer)
        pipes.close_writers()
        flood = subprocess.Popen(["yes"], stdout=lent)
        try:
            status, _ = follow(running, pipes, lambda _, __: None)
        finally:
            flood.kill()
            flood.wait()
            os.close(lent)
    assert status == 0


def test_a_volume_cannot_be_swapped_for_another_directory(tmp_path: Path) -> None:
    volume, other = tmp_path / "volume", tmp_path / "other"
    for folder in (volume, volume / "sub", other):
        folder.mkdir()
        folder.chmod(0o777)
    (other / "file").touch()
    swap = f"RUN mv /v/sub /v/away && ln -s {other} /v/sub"
    flags = (f"--volume={volume}:/v:rw", f"--volume={volume}/sub:/x:rw")
    status, said = built(tmp_path, f"{swap}\nRUN ls /x > /x/made", *flags, check=False)
    assert (volume / "sub").is_symlink()
    assert os.listdir(other) == ["file"]
    assert status != 0
    assert "/x: " in said


def test_volumes_may_be_many(store: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("not root, whose volumes take a descriptor each")

    def volumes(count: int) -> list[str]:
        return [f"--volume={tmp_path}:/v{number}:ro" for number in range(count)]

    words = ("--entrypoint", "sh", "app", "-c", "echo /v[0-9]*")
    assert len(run(store, *volumes(80), *words).split()) == 80
    done = imgbuild("run", *HOST, *volumes(260), *words, store=store, check=False)
    assert b"volumes at most" in done.stderr, done.stderr.decode()
    assert done.returncode == 125


@pytest.mark.parametrize(
    "flags",
    [
        ("--read-only",),
        ("--device", "/dev/null:/dev/x"),
        ("--shm-size", "1m"),
        ("--network", "none"),
        ("-v", "/tmp:/x"),
    ],
    ids=" ".join,
)
def test_what_needs_namespaces_is_refused_without_them(store: Path, flags: tuple[str, ...]) -> None:
    if os.getuid() != 0:
        pytest.skip("not root")
    words = ("run", *HOST, "--isolation", "D", *flags, "app")
    done = imgbuild(*words, store=store, check=False)
    assert done.returncode == 125
    assert b"tier D" in done.stderr
    assert b"hint: " in done.stderr


def test_limits_of_processes_hold_without_namespaces(store: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("not root")
    words = ("--isolation", "D", "--ulimit", "nofile=66", "--entrypoint", "sh", "app")
    assert run(store, *words, "-c", "ulimit -n; cat /etc/hosts").startswith("66\n127.0.0.1")


def test_insecure_needs_a_namespace(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("not root")
    flags = ("--allow=security.insecure", "--isolation=D")
    status, output = built(tmp_path, "RUN --security=insecure true", *flags, check=False)
    assert status == 5
    assert "--security=insecure in tier D" in output
