from pathlib import Path

import pytest

from imgbuild.cli import arguments
from imgbuild.cli.lending import agent, secret
from imgbuild.errors import UsageError
from imgbuild.options import Secret, SshAgent


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "v")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("id=a,src=f", Secret("a", Path("f"))),
        ("id=a,source=f", Secret("a", Path("f"))),
        ("type=file,id=a,src=f", Secret("a", Path("f"))),
        ('id=a,"src=f,g"', Secret("a", Path("f,g"))),
        ("ID=a,SRC=f=g", Secret("a", Path("f=g"))),
        ("id=a,env=TOKEN", Secret("a", value=b"v")),
        ("id=a,env=EMPTY", Secret("a", value=b"")),
        ("id=a,env=UNSET", Secret("a", value=b"")),
        ("id=a,type=env,env=TOKEN", Secret("a", value=b"v")),
        ("id=a,type=env,src=TOKEN", Secret("a", value=b"v")),
        ("id=TOKEN", Secret("TOKEN", value=b"v")),
        ("id=TOKEN,type=env", Secret("TOKEN", value=b"v")),
        ("id=UNSET", Secret("UNSET", Path("UNSET"))),
        ("id=a,src=TOKEN", Secret("a", Path("TOKEN"))),
    ],
)
def test_secrets(text: str, found: Secret) -> None:
    assert secret(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "failed to parse csv secret: EOF"),
        ('id=a,"src=f', "failed to parse csv secret: parse error on line 1"),
        ("src=f", "secret missing ID"),
        ("id=,src=f", "secret missing ID"),
        ("a", "invalid field 'a' must be a key=value pair"),
        ("id=a,type=vault", 'unsupported secret type "vault"'),
        ("id=a,dst=f", "unexpected key 'dst' in 'dst=f'"),
    ],
)
def test_bad_secrets(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        secret(text)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("default", SshAgent("default", (Path("/agent"),))),
        ("", SshAgent("default", (Path("/agent"),))),
        ("x=", SshAgent("x", (Path("/agent"),))),
        ("x=/s", SshAgent("x", (Path("/s"),))),
        ("x=k1,k2", SshAgent("x", (Path("k1"), Path("k2")))),
        ("=k", SshAgent("default", (Path("k"),))),
    ],
)
def test_agents(text: str, found: SshAgent) -> None:
    assert agent(text) == found


def test_no_agent_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert agent("default") == SshAgent("default", ())


def test_sizes() -> None:
    assert arguments.size("2g", "--download-limit") == 2 << 30
    with pytest.raises(UsageError, match="invalid --download-limit"):
        arguments.size("much", "--download-limit")
