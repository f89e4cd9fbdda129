"""Repositories over SSH: a real sshd on loopback, a real agent, for this user alone."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from imgbuild.build.git import GitFetcher
from imgbuild.errors import ContextError
from imgbuild.plan.gitref import parse_git_ref
from imgbuild.plan.model import GitSource
from imgbuild.store.store import Store
from tests.support.git_server import Repository, git

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        not (SSHD and shutil.which("ssh-agent") and shutil.which("git")),
        reason="git, openssh-client or openssh-server is not installed",
    ),
]


class Given(NamedTuple):
    agent: Path | None

    def get(self, name: str) -> bytes | None:
        return None

    def ssh(self, name: str = "default") -> Path | None:
        return self.agent


class Server(NamedTuple):
    """`known` is a known_hosts file with the server's key."""

    port: int
    agent: Path
    known: Path
    folder: Path

    def address(self, name: str) -> str:
        user = pwd.getpwuid(os.getuid()).pw_name
        return f"ssh://{user}@127.0.0.1:{self.port}{self.folder}/{name}"


def key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(path_or_port: Path | int) -> None:
    for _ in range(500):
        if isinstance(path_or_port, Path):
            if path_or_port.exists():
                return
        else:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", path_or_port)) == 0:
                    return
        time.sleep(0.02)
    raise AssertionError(f"{path_or_port} did not come up")


@pytest.fixture
def privileges() -> Iterator[None]:
    """Make the folder that sshd of root wants, where it is missing."""
    folder = Path("/run/sshd")
    made = os.getuid() == 0 and not folder.exists()
    if made:
        folder.mkdir(0o755)
    yield
    if made:
        folder.rmdir()


@pytest.fixture
def server(tmp_path: Path, privileges: None) -> Iterator[Server]:
    folder = tmp_path / "ssh server"
    folder.mkdir()
    host_key = key(folder / "host")
    (folder / "allowed").write_text(key(folder / "user"))
    port = free_port()
    (folder / "config").write_text(
        f'Port {port}\nListenAddress 127.0.0.1\nHostKey "{folder}/host"\n'
        f'AuthorizedKeysFile "{folder}/allowed"\nPidFile none\nStrictModes no\nUsePAM no\n'
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host_key}")
    agent = Path(tempfile.mkdtemp(), "agent")  # names of sockets have to be short
    assert SSHD is not None
    processes = [
        subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=subprocess.DEVNULL),
        subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL),
    ]
    try:
        wait_for(port)
        wait_for(agent)
        subprocess.run(
            ["ssh-add", "-q", folder / "user"],
            env={"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": str(agent)},
            check=True,
        )
        yield Server(port, agent, folder / "known", tmp_path)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
        shutil.rmtree(agent.parent)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "a store") as opened, opened.build_lock():
        yield opened


@pytest.fixture
def commit(tmp_path: Path) -> str:
    (tmp_path / "app").mkdir()
    git("init", "-q", cwd=tmp_path / "app")
    return Repository(tmp_path / "app").commit({"file": "one\n"})


def source(text: str) -> GitSource:
    found = parse_git_ref(text)
    assert found is not None
    return GitSource(found)


def fetching(store: Store, agent: Path | None, known: Path | None = None) -> GitFetcher:
    return GitFetcher(store, Given(agent), search_path=os.environ["PATH"], known_hosts=known)


def test_a_repository_over_ssh(server: Server, store: Store, commit: str) -> None:
    with fetching(store, server.agent) as fetcher:
        found = fetcher.checkout(source(server.address("app")))
        assert (found.commit, (found.folder / "file").read_text()) == (commit, "one\n")
    # What is kept is for those who have keys, too.
    with fetching(store, None) as fetcher, pytest.raises(ContextError, match="no SSH key"):
        fetcher.checkout(source(f"{server.address('app')}#{commit}"))
    with fetching(store, server.agent) as fetcher:
        assert fetcher.checkout(source(f"{server.address('app')}#{commit}")).commit == commit
    assert f"[127.0.0.1]:{server.port} " in store.paths.learned_hosts.read_text()


def test_a_key_that_is_known(server: Server, store: Store, commit: str) -> None:
    with fetching(store, server.agent, server.known) as fetcher:
        assert fetcher.checkout(source(server.address("app"))).commit == commit
    assert not store.paths.learned_hosts.exists()


def test_a_key_that_is_not_known_or_has_changed(
    server: Server, store: Store, commit: str, tmp_path: Path
) -> None:
    (tmp_path / "none").write_text("")
    other = f"[127.0.0.1]:{server.port} {key(tmp_path / 'other')}"
    store.paths.mirrors.mkdir(exist_ok=True)
    store.paths.learned_hosts.write_text(other)
    for known in (tmp_path / "none", None):
        with fetching(store, server.agent, known) as fetcher, pytest.raises(ContextError) as caught:
            fetcher.checkout(source(server.address("app")))
        assert "Host key verification failed" in caught.value.message
        assert "known_hosts" in (caught.value.hint or "")
    assert store.paths.learned_hosts.read_text() == other


def test_an_agent_without_the_key(
    server: Server, store: Store, commit: str, tmp_path: Path
) -> None:
    with fetching(store, tmp_path / "no agent") as fetcher, pytest.raises(ContextError) as caught:
        fetcher.checkout(source(server.address("app")))
    assert "Permission denied" in caught.value.message
    assert "ssh-add -l" in (caught.value.hint or "")


def test_a_repository_that_is_not_there(server: Server, store: Store) -> None:
    with fetching(store, server.agent) as fetcher, pytest.raises(ContextError) as caught:
        fetcher.checkout(source(server.address("absent")))
    assert "does not appear to be a git repository" in caught.value.message
