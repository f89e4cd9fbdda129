"""docker's config.json: the proxies that it gives to builds."""

import json
from pathlib import Path
from typing import Any

import pytest

from imgbuild.registry.docker_config import build_proxies

HOST = "unix:///var/run/docker.sock"
PROXIES = {
    "default": {
        "httpProxy": "http://p:1",
        "httpsProxy": "http://p:2",
        "noProxy": "a,b",
        "ftpProxy": "http://p:3",
        "allProxy": "http://p:4",
    },
    "tcp://there:2376": {"httpProxy": "http://there"},
    "tcp://none:2376": {},
}


def found(folder: Path, content: Any, host: str = HOST) -> tuple[dict[str, str], list[str]]:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text)
    said: list[str] = []
    return build_proxies(folder, host, said.append), said


def test_every_setting_is_an_argument(tmp_path: Path) -> None:
    assert found(tmp_path, {"proxies": PROXIES}) == (
        {
            "HTTP_PROXY": "http://p:1",
            "HTTPS_PROXY": "http://p:2",
            "NO_PROXY": "a,b",
            "FTP_PROXY": "http://p:3",
            "ALL_PROXY": "http://p:4",
        },
        [],
    )


def test_a_host_has_its_own_settings_instead(tmp_path: Path) -> None:
    config = {"proxies": PROXIES}
    assert found(tmp_path, config, "tcp://there:2376")[0] == {"HTTP_PROXY": "http://there"}
    assert found(tmp_path, config, "tcp://none:2376")[0] == {}


@pytest.mark.parametrize("config", [{}, {"proxies": None}, {"proxies": {"x": {"httpProxy": "p"}}}])
def test_none(tmp_path: Path, config: dict[str, Any]) -> None:
    assert found(tmp_path, config) == ({}, [])
    assert build_proxies(None, HOST, print) == {}
    assert build_proxies(tmp_path / "none", HOST, print) == {}


def test_values_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    values = {"httpProxy": "", "httpsProxy": 1, "noProxy": "x"}
    assert found(tmp_path, {"proxies": {"default": values}}) == ({"NO_PROXY": "x"}, [])


@pytest.mark.parametrize("text", ["{", "[]", '{"proxies": 1}', '{"proxies": {"default": 1}}'])
def test_a_malformed_file_is_only_said(tmp_path: Path, text: str) -> None:
    values, said = found(tmp_path, text)
    assert values == {}
    assert len(said) == 1
    assert "malformed" in said[0]
