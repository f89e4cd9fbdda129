"""What holds for every test: no real home, no network beyond loopback, no skipped duty."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# What a machine may honestly lack; with IMGBUILD_REQUIRE=1 any other reason for a skip is a failure.
_MAY_LACK = (
    "vectors",
    "schemas",
    "needs root",
    "needs --all-environments",
    "as root",
    "not root",
    "root may",
    "mirror",
    "cannot apply",
    "musl",
    "docker engine",
    "buildah",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regold", action="store_true", help="write expected outputs anew")
    parser.addoption(
        "--all-environments",
        action="store_true",
        help="install Python in every environment of tests/system/environments.py",
    )


@pytest.fixture(scope="session")
def _no_real_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(home))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        patch.setenv(name, str(home / name.lower()))
    patch.setenv("DOCKER_CONFIG", str(home / ".docker"))
    for name in ("IMGBUILD_STORE", "SOURCE_DATE_EPOCH", "NO_COLOR"):
        patch.delenv(name, raising=False)
    yield home
    patch.undo()


def _on_loopback(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    return host.startswith("127.") or host in {"::1", "localhost", "", "0.0.0.0", "::"}


@pytest.fixture(autouse=True)
def _guarded(_no_real_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if not _on_loopback(address):
            raise AssertionError(f"a test tried to reach {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    report = yield
    if os.environ.get("IMGBUILD_REQUIRE") and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(word in reason.lower() for word in _MAY_LACK):
            report.outcome = "failed"
            report.longrepr = f"skipped where everything could be installed: {reason}"
    return report
