"""docker's config.json as it is found in the wild."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from imgbuild.errors import AuthenticationError
from imgbuild.registry.credentials import Credential, find_credential

ALICE = Credential("alice", "s3cret")
HUB = "https://index.docker.io/v1/"


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def find(
    folder: Path, config: Any, domain: str, told: list[str] | None = None
) -> Credential | None:
    (folder / "config.json").write_text(json.dumps(config))
    return find_credential(folder, domain, ([] if told is None else told).append)


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("r.example", "r.example"),
        ("r.example:5000", "r.example:5000"),
        ("https://r.example", "r.example"),
        ("https://r.example/v1/", "r.example"),
        ("http://r.example/v2", "r.example"),
        (HUB, "docker.io"),
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("https://registry-1.docker.io", "docker.io"),
    ],
)
def test_keys_that_name_a_registry(key: str, domain: str, tmp_path: Path) -> None:
    assert find(tmp_path, {"auths": {key: auth("alice:s3cret")}}, domain) == ALICE


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("r.example", "r.example:5000"),
        ("r.example:5000", "r.example"),
        ("r.example", "sub.r.example"),
        ("sub.r.example", "r.example"),
        ("r.example.evil", "r.example"),
        (HUB, "quay.io"),
        ("r.example", "docker.io"),
    ],
)
def test_keys_that_name_another(key: str, domain: str, tmp_path: Path) -> None:
    assert find(tmp_path, {"auths": {key: auth("alice:s3cret")}}, domain) is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (auth("alice:s3cret"), ALICE),
        (auth("alice:s3cret\0\0"), ALICE),
        (auth("alice:a:b:c"), Credential("alice", "a:b:c")),
        ({"username": "alice", "password": "s3cret"}, ALICE),
        ({"identitytoken": "t", **auth("alice:")}, Credential("alice", "", "t")),
        ({"registrytoken": "t"}, Credential("", "", "", "t")),
        (auth("<token>:t"), Credential(identity_token="t")),
        ({}, None),
        ({"auth": ""}, None),
        ({"auth": 5}, None),
        ("alice", None),
    ],
)
def test_entries(entry: Any, expected: Credential | None, tmp_path: Path) -> None:
    assert find(tmp_path, {"auths": {"r.example": entry}}, "r.example") == expected


def test_exact_key_counts_most(tmp_path: Path) -> None:
    auths = {"https://r.example/v1/": auth("old:old"), "r.example": auth("alice:s3cret")}
    assert find(tmp_path, {"auths": auths}, "r.example") == ALICE


def test_no_config(tmp_path: Path) -> None:
    assert find_credential(None, "r.example", pytest.fail) is None
    assert find_credential(tmp_path, "r.example", pytest.fail) is None
    assert find_credential(tmp_path / "nothing", "r.example", pytest.fail) is None
    (tmp_path / "file").write_text("")
    assert find_credential(tmp_path / "file", "r.example", pytest.fail) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"auths": []}',
        '{"auths": {"r.example": {"auth": "not base64!"}}}',
        '{"auths": {"r.example": {"auth": "/w=="}}}',
        '{"credHelpers": 1}',
        '{"credsStore": 1}',
        '{"credsStore": "../evil"}',
        "[" * 100_000,
    ],
)
def test_malformed_config_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(AuthenticationError, match=r"config\.json") as caught:
        find_credential(tmp_path, "r.example", pytest.fail)
    assert caught.value.hint


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a credential helper called `test` that runs the given shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def install(script: str) -> Path:
        program = folder / "docker-credential-test"
        program.write_text(f'#!/bin/sh\n[ "$1" = get ] || exit 9\nserver=$(cat)\n{script}\n')
        program.chmod(0o755)
        return program

    return install


ANSWER = (
    """printf '{"ServerURL":"%s","Username":"%s","Secret":"%s"}' "$server" alice "for $server" """
)


@pytest.mark.parametrize(
    ("config", "domain", "server"),
    [
        ({"credsStore": "test"}, "r.example", "r.example"),
        ({"credsStore": "test"}, "docker.io", HUB),
        ({"credHelpers": {"r.example": "test"}}, "r.example", "r.example"),
        ({"credHelpers": {HUB: "test"}}, "docker.io", HUB),
        ({"credHelpers": {"docker.io": "test"}}, "docker.io", HUB),
        ({"credHelpers": {"r.example": "test"}, "credsStore": "missing"}, "r.example", "r.example"),
    ],
)
def test_helper_is_asked(
    config: Any, domain: str, server: str, helper: Any, tmp_path: Path
) -> None:
    helper(ANSWER)
    assert find(tmp_path, config, domain) == Credential("alice", f"for {server}")


def test_helper_of_another_registry_is_not_asked(helper: Any, tmp_path: Path) -> None:
    helper(ANSWER)
    assert find(tmp_path, {"credHelpers": {"other": "test"}}, "r.example") is None


def test_helper_may_give_an_identity_token(helper: Any, tmp_path: Path) -> None:
    helper("""printf '{"Username":"<token>","Secret":"t"}'""")
    assert find(tmp_path, {"credsStore": "test"}, "r.example") == Credential(identity_token="t")


def test_helper_that_knows_nothing_is_no_trouble(helper: Any, tmp_path: Path) -> None:
    helper("echo credentials not found in native keychain; exit 1")
    told: list[str] = []
    config = {"credsStore": "test", "auths": {"r.example": auth("alice:s3cret")}}
    assert find(tmp_path, config, "r.example", told) == ALICE
    assert told == []


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo locked; exit 1", "locked"),
        ("echo locked >&2; exit 1", "locked"),
        ("echo secret: hidden", "cannot be read"),
        ("echo '[]'", "cannot be read"),
        ('echo \'{"Username": "hidden"}\'', "cannot be read"),
    ],
)
def test_helper_in_trouble_is_told_about(
    script: str, says: str, helper: Any, tmp_path: Path
) -> None:
    helper(script)
    told: list[str] = []
    assert find(tmp_path, {"credsStore": "test"}, "r.example", told) is None
    (text,) = told
    assert says in text
    assert "docker-credential-test" in text
    assert "hidden" not in text


def test_missing_helper_is_told_about(tmp_path: Path) -> None:
    told: list[str] = []
    config = {"credsStore": "no-such", "auths": {"r.example": auth("alice:s3cret")}}
    assert find(tmp_path, config, "r.example", told) == ALICE
    assert told == ["the credential helper docker-credential-no-such is not installed"]
