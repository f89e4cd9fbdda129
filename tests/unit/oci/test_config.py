import json
from typing import Any

import pytest

from imgbuild.errors import ImageError
from imgbuild.oci.config import (
    Healthcheck,
    HistoryEntry,
    ImageConfig,
    RunConfig,
    check_history,
    dump_config,
    parse_config,
)
from imgbuild.oci.digest import digest_bytes
from imgbuild.oci.platform import Platform

AMD64 = Platform("linux", "amd64")
DIFF = digest_bytes(b"")

FULL: dict[str, Any] = {
    "architecture": "arm",
    "author": "me",
    "config": {
        "User": "app",
        "ExposedPorts": {"443/tcp": {}, "80/tcp": {}},
        "Env": ["PATH=/bin", "EMPTY=", "EQUALS=a=b"],
        "Entrypoint": ["/init"],
        "Cmd": ["a", "b"],
        "Volumes": {"/data": {}},
        "WorkingDir": "/app",
        "Labels": {"a": "ä", "b": ""},
        "StopSignal": "SIGINT",
        "ArgsEscaped": True,
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5, "Retries": 3},
        "OnBuild": ["RUN true"],
        "Shell": ["/bin/bash", "-c"],
        "Hostname": "kept",
    },
    "created": "2024-01-01T00:00:00Z",
    "history": [
        {"created": "2024-01-01T00:00:00Z", "created_by": "COPY", "comment": "c"},
        {"created_by": "ENV", "empty_layer": True, "author": "a", "x": 1},
    ],
    "moby.buildkit.cache.v0": "kept",
    "os": "linux",
    "os.features": ["f"],
    "os.version": "1",
    "rootfs": {"type": "layers", "diff_ids": [DIFF]},
    "variant": "v7",
}


def encode(document: object) -> bytes:
    return json.dumps(document).encode()


def test_everything_survives_reading_and_writing() -> None:
    assert json.loads(dump_config(parse_config(encode(FULL)))) == FULL


def test_writing_is_stable_and_compact() -> None:
    once = dump_config(parse_config(encode(FULL)))
    assert dump_config(parse_config(once)) == once
    assert b'"a":"\xc3\xa4"' in once
    assert b'": ' not in once
    keys = list(json.loads(once))
    assert keys == sorted(keys)


def test_a_minimal_config_is_what_buildkit_writes() -> None:
    assert dump_config(ImageConfig(AMD64)) == (
        b'{"architecture":"amd64","config":{},"os":"linux",'
        b'"rootfs":{"type":"layers","diff_ids":null}}'
    )


def test_never_set_differs_from_empty() -> None:
    unset = ImageConfig(AMD64, RunConfig())
    empty = ImageConfig(AMD64, RunConfig(entrypoint=(), cmd=()))
    for config in (unset, empty):
        assert parse_config(dump_config(config)) == config
    assert dump_config(unset) != dump_config(empty)


def test_null_is_absent() -> None:
    document = {**FULL, "history": None, "config": None, "author": None, "created": None}
    config = parse_config(encode(document))
    assert (config.history, config.run, config.author, config.created) == (
        (),
        RunConfig(),
        "",
        None,
    )


def test_healthcheck_zeros_are_inherited() -> None:
    run = RunConfig(healthcheck=Healthcheck(("NONE",)))
    written = json.loads(dump_config(ImageConfig(AMD64, run)))
    assert written["config"]["Healthcheck"] == {"Test": ["NONE"]}


@pytest.mark.parametrize(
    "change",
    [
        {"os": 1},
        {"config": []},
        {"config": {"Env": "A=b"}},
        {"config": {"Env": [1]}},
        {"config": {"Cmd": "sh"}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"ExposedPorts": ["80"]}},
        {"config": {"Healthcheck": "x"}},
        {"config": {"Healthcheck": {"Interval": "5s"}}},
        {"rootfs": {"diff_ids": ["x"]}},
        {"rootfs": {"diff_ids": "x"}},
        {"history": {}},
        {"history": [1]},
        {"history": [{"empty_layer": "yes"}]},
        {"created": 5},
    ],
    ids=str,
)
def test_wrong_types_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        parse_config(encode({**FULL, **change}))


def test_history_has_to_count_the_layers() -> None:
    good = ImageConfig(AMD64, diff_ids=(DIFF,), history=(HistoryEntry(),))
    check_history(good)
    check_history(ImageConfig(AMD64, diff_ids=(DIFF,)))
    bad = ImageConfig(AMD64, diff_ids=(DIFF,), history=(HistoryEntry(empty_layer=True),))
    with pytest.raises(ImageError, match="names 0 layers but it has 1"):
        check_history(bad)


def test_a_working_directory_with_a_nul_is_none() -> None:
    with pytest.raises(ImageError, match="no path"):
        parse_config(encode({**FULL, "config": {"WorkingDir": "/a\0b"}}))
