"""The guards of the test suite guard."""

import os
import socket
from pathlib import Path

import pytest


def test_home_is_not_the_real_one() -> None:
    import pwd

    assert Path.home() != Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert os.environ["DOCKER_CONFIG"].startswith(os.environ["HOME"])


def test_sockets_off_loopback_fail() -> None:
    with socket.socket() as probe, pytest.raises(AssertionError, match="tried to reach"):
        probe.connect(("192.0.2.1", 80))
