"""What a build is lent: checked at once, read when asked, shown to nobody."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbuild.build.request import settled
from imgbuild.build.secrets import Secrets
from imgbuild.errors import ContextError, UsageError
from imgbuild.options import BuildOptions, Secret, SshAgent
from tests.support.command import environment

needs_ssh = pytest.mark.skipif(not shutil.which("ssh-agent"), reason="OpenSSH is not installed")
PATH = os.environ["PATH"]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """A socket that an agent could listen on."""
    path = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        yield path


def make_key(path: Path, passphrase: str = "") -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def listed(socket: Path) -> str:
    env = {"SSH_AUTH_SOCK": str(socket), "PATH": PATH}
    return subprocess.run(["ssh-add", "-l"], env=env, capture_output=True, text=True).stdout


def test_values_and_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"of a file\0\n")
    secrets = Secrets(
        [Secret("a", value=b""), Secret("b", tmp_path / "f"), Secret("b2", value=b"v")]
    )
    assert secrets.get("a") == b""
    assert secrets.get("b") == b"of a file\0\n"
    assert secrets.get("b2") == b"v"
    assert secrets.get("c") is None


def test_the_last_of_a_name_counts() -> None:
    assert Secrets([Secret("a", value=b"1"), Secret("a", value=b"2")]).get("a") == b"2"


def test_a_secret_without_a_source_is_the_file_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("token").write_bytes(b"t")
    assert Secrets([Secret("token")]).get("token") == b"t"


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (Secret("", value=b"x"), "secret missing ID"),
        (Secret("a", Path("/does/not/exist")), "failed to stat /does/not/exist: No such file"),
        (Secret("a", Path("/")), "cannot read the secret a from /: it is a directory"),
        (Secret("a", value=b"x" * (500 * 1024 + 1)), "secret a too big. max size 500KB"),
    ],
)
def test_what_is_wrong_is_told_at_once(secret: Secret, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Secrets([secret])


def test_large_files(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * (500 * 1024))
    secrets = Secrets([Secret("a", path)])
    assert len(secrets.get("a") or b"") == 500 * 1024
    path.write_bytes(b"x" * (500 * 1024 + 1))
    with pytest.raises(UsageError, match="too big"):
        secrets.get("a")
    with pytest.raises(UsageError, match="too big"):
        Secrets([Secret("a", path)])


def test_a_file_that_went_away_is_told(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    secrets = Secrets([Secret("a", path)])
    path.unlink()
    with pytest.raises(ContextError, match="cannot read the secret a"):
        secrets.get("a")


def test_values_are_not_in_what_options_show() -> None:
    options = BuildOptions(Path(), secrets=(Secret("a", value=b"hush"),))
    assert "hush" not in repr(options)


# --- agents


def test_a_socket_is_given_on(agent: Path) -> None:
    secrets = Secrets(agents=[SshAgent("default", (agent,))])
    assert secrets.ssh() == agent
    assert secrets.ssh("other") is None


def test_paths_that_are_no_agent(tmp_path: Path, agent: Path) -> None:
    key, public = tmp_path / "key", tmp_path / "key.pub"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    public.write_text("ssh-ed25519 AAAA x\n")
    for paths, message in (
        ((), "make sure SSH_AUTH_SOCK is set"),
        ((agent, agent), "only single socket allowed"),
        ((agent, key), "invalid combination of keys and sockets"),
        ((public,), "ssh: no key found"),
        ((tmp_path / "none",), "cannot read .*none: No such file"),
        ((tmp_path,), "Is a directory"),
    ):
        with pytest.raises(UsageError, match=message):
            Secrets(agents=[SshAgent("x", paths)])


@needs_ssh
def test_an_agent_for_keys_lives_as_long_as_the_build(tmp_path: Path) -> None:
    keys = (make_key(tmp_path / "one"), make_key(tmp_path / "two"))
    with Secrets(agents=[SshAgent("k", keys)], search_path=PATH) as secrets:
        path = secrets.ssh("k")
        assert path is not None
        assert secrets.ssh("k") == path
        assert listed(path).count("ED25519") == 2
        folder = path.parent
        assert len(agents_at(path)) == 1
    assert not folder.exists()
    assert agents_at(path) == []


@needs_ssh
def test_an_agent_ends_with_a_build_that_is_killed(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom imgbuild.build.agents import KeyAgent\n"
        f"agent = KeyAgent('k', (Path({str(key)!r}),), {PATH!r})\nprint(agent.socket, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
    path = Path(done.stdout.decode().strip())
    deadline = time.monotonic() + 20
    while (agents_at(path) or path.parent.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert agents_at(path) == []
    assert not path.parent.exists()


def agents_at(path: Path) -> list[int]:
    """Return the agents that were started for a socket."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"ssh-agent") and os.fsencode(path) in words:
            found.append(int(entry.name))
    return found


@needs_ssh
def test_nothing_is_started_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(tmp_path / "key")

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    with Secrets(agents=[SshAgent("k", (key,))]):
        pass


@needs_ssh
def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key", "passphrase")
    with (
        Secrets(agents=[SshAgent("k", (key,))], search_path=PATH) as secrets,
        pytest.raises(UsageError, match="cannot use the key") as caught,
    ):
        secrets.ssh("k")
    assert "passphrase" in (caught.value.hint or "")


@needs_ssh
def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    key.chmod(0o644)
    with (
        Secrets(agents=[SshAgent("k", (key,))], search_path=PATH) as secrets,
        pytest.raises(UsageError, match="cannot use the key") as caught,
    ):
        secrets.ssh("k")
    assert "chmod 600" in (caught.value.hint or "")


def test_without_openssh_there_is_a_way_out(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    secrets = Secrets(agents=[SshAgent("k", (key,))], search_path=str(tmp_path))
    with pytest.raises(UsageError, match="there is no ssh-agent") as caught:
        secrets.ssh("k")
    assert "socket of a running agent" in (caught.value.hint or "")


# --- as options


def test_options_are_made_uniform() -> None:
    given: Any = {"secrets": [Secret("a", "f")], "ssh": [SshAgent("", ["k"])]}  # type: ignore[arg-type]
    options = settled(BuildOptions(Path(), **given))
    assert options.secrets == (Secret("a", Path("f")),)
    assert options.ssh == (SshAgent("default", (Path("k"),)),)


def test_two_agents_of_a_name_are_refused() -> None:
    with pytest.raises(UsageError, match='duplicate agent ID: "default"'):
        settled(BuildOptions(Path(), ssh=(SshAgent(), SshAgent(""))))


def test_text_is_no_secret_and_no_agent() -> None:
    for given in ({"secrets": ["x"]}, {"ssh": ["default"]}):
        with pytest.raises(UsageError, match="but a str") as caught:
            settled(BuildOptions(Path(), **given))  # type: ignore[arg-type]
        assert "imgbuild.S" in str(caught.value.hint)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="limit of downloads"):
        settled(BuildOptions(Path(), download_limit=0))
