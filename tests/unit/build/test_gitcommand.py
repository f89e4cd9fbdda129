import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgbuild.build import gitcommand
from imgbuild.build.gitcommand import Access, Git, GitFailedError, Place

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


@pytest.fixture
def git(home: Path) -> Git:
    return Git(os.environ["PATH"], home)


def test_the_configuration_is_ours_alone(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(os.environ["HOME"]) / ".gitconfig").write_text("[user]\n\tname = me\n")
    (tmp_path / "more").write_text("[user]\n\tname = me\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "more"))
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'user.name=me'")
    try:
        told = git.run("config", "--list", "--show-scope").decode()
    finally:
        (Path(os.environ["HOME"]) / ".gitconfig").unlink()
    assert {line.split("\t")[0] for line in told.splitlines()} == {"command"}
    assert "user.name" not in told
    for setting in (
        "core.hookspath=/dev/null",
        "core.fsmonitor=false",
        "core.autocrlf=false",
        "core.symlinks=true",
        "credential.helper=",
        "fetch.fsckobjects=true",
    ):
        assert f"\t{setting}\n" in told


@pytest.mark.parametrize("allowed", ["", "https", "http:https"])
@pytest.mark.parametrize("address", ["file://{path}", "{path}", "ext::touch% {path}/harm"])
def test_protocols_are_allowed_by_name(
    git: Git, tmp_path: Path, allowed: str, address: str
) -> None:
    repository = tmp_path / "repository"
    git.run("init", "-q", str(repository))
    address = address.format(path=repository)
    with pytest.raises(GitFailedError, match="not allowed"):
        git.run("ls-remote", "--", address, access=Access(allowed))
    assert not (repository / "harm").exists()


def test_what_is_secret_is_handed_over_in_the_environment(git: Git) -> None:
    access = Access("https", {"http.https://h/.extraHeader": "Authorization: x"})
    assert git.run("config", "http.https://h/.extraHeader", access=access) == b"Authorization: x\n"


def test_repositories_around_the_store_are_not_found(home: Path, git: Git) -> None:
    git.run("init", "-q", str(home.parent))
    with pytest.raises(GitFailedError, match="not a git repository"):
        git.run("rev-parse", "--git-dir")


def test_an_answer_that_is_too_long(git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gitcommand, "_MOST_OUTPUT", 3)
    with pytest.raises(GitFailedError, match="too long"):
        git.run("version")


def test_the_end_of_what_git_said(tmp_path: Path, home: Path) -> None:
    program = tmp_path / "git"
    program.write_text(
        "#!/bin/sh\ntest $1 = version && echo git version 9.0 && exit\n"
        "head -c 200000 /dev/zero >&2\necho the end >&2\nexit 3\n"
    )
    program.chmod(0o755)
    with pytest.raises(GitFailedError) as caught:
        Git(f"{tmp_path}:{os.environ['PATH']}", home).run("fetch")
    assert caught.value.status == 3
    assert len(caught.value.said) == 64 << 10
    assert caught.value.said.endswith("the end\n")


def test_an_interrupt_ends_all_that_git_started(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "git"
    program.write_text(
        "#!/bin/sh\ntest $1 = version && echo git version 9.0 && exit\n"
        f"sleep 60 &\necho $! > {tmp_path}/pid\nwait\n"
    )
    program.chmod(0o755)
    git = Git(f"{tmp_path}:{os.environ['PATH']}", home)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            git.run("fetch", place=Place())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or ") Z " in stat.read_text():
            break
        time.sleep(0.02)
    else:
        pytest.fail("what git started still runs")
    assert list(home.iterdir()) == []


def test_git_does_not_outlive_a_caller_that_is_killed(tmp_path: Path, home: Path) -> None:
    program = tmp_path / "git"
    program.write_text(
        "#!/bin/sh\ntest $1 = version && echo git version 9.0 && exit\n"
        f"sleep 60 &\necho $$ $! > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/pids\nwait\n"
    )
    program.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from imgbuild.build.gitcommand import Git\n"
        "Git(sys.argv[1], Path(sys.argv[2])).run('fetch')"
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    caller = subprocess.Popen([sys.executable, "-c", code, path, str(home)])
    for _ in range(500):
        if (tmp_path / "pids").exists():
            break
        time.sleep(0.02)
    caller.kill()
    caller.wait()
    for pid in (tmp_path / "pids").read_text().split():
        for _ in range(100):
            stat = Path(f"/proc/{pid}/stat")
            if not stat.exists() or ") Z " in stat.read_text():
                break
            time.sleep(0.02)
        else:
            pytest.fail("git still runs")


def test_no_file_gets_larger_than_allowed(git: Git, home: Path) -> None:
    with pytest.raises(GitFailedError):
        git.run("help", "-a", place=Place(largest=10))
    assert list(home.iterdir()) == []
