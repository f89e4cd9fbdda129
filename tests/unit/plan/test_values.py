"""Small values: signals, modes, durations, paths."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.dockerfile.durations import parse_duration
from imgbuild.errors import DockerfileError
from imgbuild.plan.copying import parse_mode
from imgbuild.plan.goformat import duration, plain_list
from imgbuild.plan.paths import clean, destination, join_workdir, source_path, written_source
from imgbuild.plan.signals import check_signal

VECTORS = Path(
    os.environ.get("IMGBUILD_VECTORS") or Path(__file__).resolve().parents[4] / "shared" / "vectors"
)


@pytest.mark.parametrize(
    "name", ["SIGTERM", "term", "15", "-1", "+9", "64", "RTMIN", "SIGRTMIN+3", "RTMAX-1", "CLD"]
)
def test_signals(name: str) -> None:
    check_signal(name)


@pytest.mark.parametrize(
    "name", ["", "0", "SIGFOO", "KILL ", "RTMIN+16", "RTMIN+0", "RTMAX-15", "TERM INT", " ", "1x"]
)
def test_no_signals(name: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        check_signal(name)
    assert caught.value.message == f"invalid signal: {name}"


@pytest.mark.parametrize(
    ("text", "mode"),
    [("0644", 0o644), ("777", 0o777), ("0", 0), ("7777", 0o7777), ("0" * 30 + "1", 1)],
)
def test_octal_modes(text: str, mode: int) -> None:
    assert parse_mode(text) == mode


@pytest.mark.parametrize("text", ["64a", "10000", "8", "0o644", "0_7", "7" * 99])
def test_malformed_modes(text: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_mode(text)
    assert caught.value.message == (
        f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
    )


@pytest.mark.parametrize("text", ["u=rwX,go=rX", "+x", "a+X", "go-w", "u=g"])
def test_symbolic_modes_stay_text(text: str) -> None:
    assert parse_mode(text) == text


@pytest.mark.parametrize("text", ["-1", "+7", "x", "u", "u+x,", "u+z", "u+x,g", "rwx"])
def test_malformed_symbolic_modes(text: str) -> None:
    with pytest.raises(DockerfileError, match="invalid chmod parameter: .*invalid syntax"):
        parse_mode(text)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (100_000_000, "100ms"),
        (1_500_000_000, "1.5s"),
        (60_000_000_000, "1m0s"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h0m0s"),
        (3_661_000_000_001, "1h1m1.000000001s"),
        (-1_000_000, "-1ms"),
    ],
)
def test_durations_print_as_go_prints_them(nanoseconds: int, text: str) -> None:
    assert duration(nanoseconds) == text


@given(st.integers(-(2**62), 2**62))
def test_a_printed_duration_reads_back(nanoseconds: int) -> None:
    assert parse_duration(duration(nanoseconds)) == nanoseconds


def test_lists_print_without_quotes() -> None:
    assert plain_list(["a b", ""]) == "[a b ]"


@pytest.mark.skipif(not (VECTORS / "misc").is_dir(), reason=f"no vectors at {VECTORS}")
def test_workdirs_join_as_buildkit_joins_them() -> None:
    for case in json.loads((VECTORS / "misc" / "workdir.json").read_text()):
        assert join_workdir(case["current"], case["input"]) == case["result"], case


@pytest.mark.skipif(not (VECTORS / "misc").is_dir(), reason=f"no vectors at {VECTORS}")
def test_signals_are_buildkits() -> None:
    for case in json.loads((VECTORS / "misc" / "signals.json").read_text()):
        if case["error"] is None:
            check_signal(case["input"])
            continue
        with pytest.raises(DockerfileError) as caught:
            check_signal(case["input"])
        assert caught.value.message == case["error"]


@pytest.mark.parametrize(
    ("workdir", "dest", "path"),
    [
        ("/", "/", "/"),
        ("/w", "", "/w/"),
        ("/w", ".", "/w/"),
        ("/w", "./", "/w/"),
        ("/w", "x", "/w/x"),
        ("/w", "x/", "/w/x/"),
        ("/w", "x/.", "/w/x/"),
        ("/w", "../../x", "/x"),
        ("/w", "..", "/"),
        ("/w", "/a/../b//c", "/b/c"),
        ("/w", "/a/./", "/a/"),
        ("", "x", "/x"),
        ("w", "x", "/w/x"),
        ("/", "//x", "/x"),
        ("/", "/../..", "/"),
    ],
)
def test_destinations(workdir: str, dest: str, path: str) -> None:
    assert destination(workdir, dest) == path


@pytest.mark.parametrize(
    ("source", "path"),
    [(".", ""), ("/", ""), ("", ""), ("../../a", "a"), ("/a/", "a"), ("a/./b", "a/b"), ("*", "*")],
)
def test_sources_never_leave_their_root(source: str, path: str) -> None:
    assert source_path(source) == path


@given(st.text(alphabet="./ab\\*", max_size=12), st.text(alphabet="./ab", max_size=12))
def test_paths_are_clean_whatever_was_written(one: str, other: str) -> None:
    for path in (clean(one), destination(one, other)):
        assert path.startswith("/")
        assert not path.startswith("//")
        assert ".." not in path.split("/")
    assert not source_path(one).startswith("/")
    assert ".." not in source_path(one).split("/")


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("../../a", "../a"),
        ("/../a", "../a"),
        ("a/../../b", "../b"),
        ("..", "../"),
        ("a/../b", "b"),
        ("..a", "..a"),
    ],
)
def test_a_source_that_climbs_stays_one(source: str, path: str) -> None:
    assert written_source(source) == path
    assert source_path(path) == source_path(source)
