"""A client for the in-process registry: it never really waits, and its connections are closed."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbuild.events import Event
from imgbuild.oci.reference import parse_reference
from imgbuild.options import RegistryOptions
from imgbuild.registry.client import Registry
from tests.support.registry import PASSWORD, USER, FakeRegistry

Connect = Callable[..., Registry]


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def waits() -> list[float]:
    """The seconds that were waited, had they been."""
    return []


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def connect(waits: list[float], events: list[Event]) -> Iterator[Connect]:
    opened: list[Registry] = []

    def connect(host: str, repository: str = "team/app", **options: Any) -> Registry:
        reference = parse_reference(f"{host}/{repository}")
        given = RegistryOptions(**options)
        client = Registry(reference, given, events=events.append, pause=waits.append)
        opened.append(client)
        return client

    yield connect
    for client in opened:
        client.close()


@pytest.fixture
def login(tmp_path: Path) -> Callable[..., Path]:
    """Write a docker config with credentials for a host; return its folder."""

    def login(host: str, user: str = USER, password: str = PASSWORD, **extra: Any) -> Path:
        secret = base64.b64encode(f"{user}:{password}".encode()).decode()
        config = {"auths": {host: extra or {"auth": secret}}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return login
