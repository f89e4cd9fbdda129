import io
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from imgbuild import api
from imgbuild.cli import arguments, environment, foreign, images_commands
from imgbuild.cli.main import COMMANDS, CommandTable, command_line, main
from imgbuild.cli.sections import SECTIONS
from imgbuild.errors import StepFailedError, UsageError
from imgbuild.options import ArchiveLimits, BuildOptions, Output
from tests.support.command import imgbuild


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("type=oci,dest=x.tar", Output("oci", Path("x.tar"))),
        ("type=oci,tar=false,dest=d", Output("oci", Path("d"), tar=False)),
        ("type=docker,dest=x.tar", Output("docker", Path("x.tar"))),
    ],
)
def test_output_is_read(text: str, output: Output) -> None:
    assert arguments.output(text) == output


@pytest.mark.parametrize(
    "text",
    [
        "type=local,dest=x",
        "dest=x",
        "type=oci",
        "type=oci,dest=",
        "type=oci,dest=x,tar=maybe",
        "type=docker,dest=x,tar=false",
        "type=oci,dest=x,compression=zstd",
        "x.tar",
    ],
)
def test_bad_output_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        arguments.output(text)


def fields(**given: object) -> dict[str, object]:
    """The fields of a build with these flags and no others."""
    flags: dict[str, Any] = {
        "build_args": (), "build_contexts": (), "labels": (), "timestamp": None,
        "secrets": (), "ssh": (), "download_limit": None, "add_limit_size": "64g",
        "add_limit_entries": 1, "add_limit_ratio": 1, **given
    }  # fmt: skip
    return arguments.build_fields(context=Path(), dockerfile=None, **flags)


def test_a_label_without_a_value_is_empty() -> None:
    labels = fields(labels=("a", "b=", "c=1=2"))["labels"]
    assert labels == {"a": "", "b": "", "c": "1=2"}
    for text in ("", "=x"):
        with pytest.raises(UsageError, match="invalid --label"):
            fields(labels=(text,))


def test_two_times_that_differ_are_refused() -> None:
    with pytest.raises(UsageError, match="differ"):
        fields(timestamp="5", build_args=("SOURCE_DATE_EPOCH=7",))
    same = fields(timestamp="5", build_args=("SOURCE_DATE_EPOCH=5",))
    assert same["source_date_epoch"] == 5


def test_a_digest_stays_out_of_an_archive_on_standard_output(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    flags = ["-q", "-o", "type=oci,dest=-", "."]
    done = imgbuild(*flags, cwd=tmp_path, store=tmp_path / "store")
    digest = done.stderr.decode().strip()
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert f"blobs/sha256/{digest[7:]}" in archive.getnames()
    assert not done.stdout.rstrip(b"\0").endswith(b"\n")
    plain = imgbuild("-q", ".", cwd=tmp_path, store=tmp_path / "store")
    assert (plain.stdout.decode().strip(), plain.stderr) == (digest, b"")


def test_a_pulled_digest_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = "sha256:" + "a" * 64

    def pull(name: str, **_: object) -> api.ImageInfo:
        return api.ImageInfo(name, name, digest, 1, None)

    monkeypatch.setattr(api, "pull", pull)
    assert main(["pull", f"r.example/a@{digest}"]) == 0
    assert main(["pull", "r.example/a:1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"r.example/a@{digest}", f"r.example/a:1@{digest}"]


def test_build_arguments_come_from_the_environment_when_they_have_no_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VERSION", "7")
    monkeypatch.delenv("OTHER", raising=False)
    assert environment.build_arg("A=b=c") == ("A", "b=c")
    assert environment.build_arg("A=") == ("A", "")
    assert environment.build_arg("VERSION") == ("VERSION", "7")
    assert environment.build_arg("OTHER") is None
    with pytest.raises(UsageError):
        environment.build_arg("=x")


def test_the_store_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert environment.default_store() == Path("/data/imgbuild")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert environment.default_store() == Path.home() / ".local/share/imgbuild"
    monkeypatch.setenv("IMGBUILD_STORE", "/store")
    assert environment.default_store() == Path("/store")


@pytest.mark.parametrize("text", ["-1", "1.5", "now", "１", "9" * 5000])
def test_an_epoch_is_a_plain_number(text: str) -> None:
    with pytest.raises(UsageError, match="invalid --timestamp"):
        environment.parse_epoch(text, "--timestamp")


@pytest.mark.parametrize(
    ("text", "arguments", "epoch", "given"),
    [
        ("7", (), 7, None),
        ("", (), None, None),
        ("context", (), None, "context"),
        ("9" * 5000, (), None, "9" * 5000),
        ("context", ("SOURCE_DATE_EPOCH=5",), None, "5"),
    ],
)
def test_the_epoch_of_the_environment(
    text: str,
    arguments: tuple[str, ...],
    epoch: int | None,
    given: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    found = fields(build_args=arguments)
    assert found["source_date_epoch"] == epoch
    assert found["build_args"].get("SOURCE_DATE_EPOCH") == given


def test_lower_case_proxies_win(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://upper")
    monkeypatch.setenv("https_proxy", "http://lower")
    assert environment.registry_options().proxies == {"https": "http://lower"}


def test_every_command_of_the_table_exists() -> None:
    assert isinstance(command_line, CommandTable)
    for name in COMMANDS:
        command = command_line.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.name == name
        assert command.help


def test_flags_without_a_command_mean_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-t", "x", "/does/not/exist"]) == 2
    assert "/does/not/exist" in capsys.readouterr().err


def test_an_unknown_command_is_refused_with_a_suggestion(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["biuld", "."]) == 2
    assert "did you mean build?" in capsys.readouterr().err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in out


def test_every_build_option_has_a_flag_or_is_library_only() -> None:
    build = command_line.get_command(None, "build")  # type: ignore[arg-type]
    assert build is not None
    flags = {parameter.name for parameter in build.params}
    renamed = {"source_date_epoch": "timestamp", "archive_limits": "add_limit_size"}
    renamed["run"] = "allow"  # see test_running.py for each of its fields
    library_only = {"registry", "search_path"}
    for field in BuildOptions.__dataclass_fields__:
        assert renamed.get(field, field) in flags or field in library_only, field


def test_limits_of_archives_are_read() -> None:
    found = fields(add_limit_size="1.5m", add_limit_entries=3, add_limit_ratio=0)
    assert found["archive_limits"] == ArchiveLimits(3, 3 << 19, 0)
    for text in ("", "x", "-1", "1q", "1e308g"):
        with pytest.raises(UsageError, match="invalid --add-limit-size"):
            fields(add_limit_size=text)


@pytest.mark.parametrize("command", ["build", "plan", "check"])
def test_a_context_is_held_to_the_limits_by_every_command(command: str, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
        archive.addfile(tarfile.TarInfo("b"))
    flags = [command, "--add-limit-entries=1", "-"]
    store, sent = tmp_path / "store", packed.getvalue()
    done = imgbuild(*flags, cwd=tmp_path, store=store, stdin=sent, check=False)
    assert done.returncode == 1
    assert b"it has more than 1 members" in done.stderr


def test_limits_of_archives_default_to_those_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[BuildOptions] = []

    def note(options: BuildOptions, **_: object) -> None:
        seen.append(options)
        raise UsageError("enough")

    monkeypatch.setattr(api, "build", note)
    assert main(["build", str(tmp_path)]) == 2
    assert main(["build", "--add-limit-entries=5", str(tmp_path)]) == 2
    assert [options.archive_limits for options in seen] == [
        ArchiveLimits(),
        ArchiveLimits(entries=5),
    ]


@pytest.mark.parametrize("path", [".", "..", "./does-not-exist", "/does/not/exist"])
def test_a_path_without_a_command_means_build(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([path, "--no-such-flag"]) == 2
    assert "hint: see imgbuild build --help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["help"], ["Usage: imgbuild [OPTIONS]"]),
        ([], ["Usage: imgbuild [OPTIONS]"]),
        (["help", "run"], ["Usage: imgbuild run"]),
        (["build", "--help"], ["Usage: imgbuild build [OPTIONS] [PATH|URL|-]\n"]),
    ],
)
def test_help_is_found(
    args: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in words)


def test_a_misspelt_flag_is_answered_with_suggestions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tagg", "x", "."]) == 2
    error = capsys.readouterr().err
    assert "--tagg" in error
    assert "--target" in error


def test_click_errors_look_like_all_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rm"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: missing argument 'NAMES...'",
        "hint: see imgbuild rm --help",
    ]


def test_standard_input_is_read_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["build", "-f", "-", "-"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: invalid argument: can't use stdin for both build context and dockerfile",
        "hint: name a Dockerfile inside the archive with -f PATH",
    ]


def test_a_build_context_without_a_source_is_told_its_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["build", "--build-context", "base", "."]) == 2
    assert "NAME=SOURCE" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--rm"], ["-it"], ["--rm", "-i", "-t"]])
def test_what_follows_the_image_is_the_command(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []

    def run(image: str, command: tuple[str, ...], *, tty: bool, **_: object) -> int:
        assert tty == any("t" in flag for flag in flags)
        seen.append((image, command))
        return 7

    monkeypatch.setattr("imgbuild.api.run", run)
    assert main(["run", *flags, "app", "ls", "--help", "--", "-h"]) == 7
    assert seen == [("app", ("ls", "--help", "--", "-h"))]


def test_output_that_was_shown_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(*_: object, **__: object) -> None:
        raise StepFailedError("failed", status=1, output=b"words")

    monkeypatch.setattr("imgbuild.api.build", build)
    assert main(["build", "--progress=plain", "."]) == 1
    assert "words" not in capsys.readouterr().err
    assert main(["build", "--quiet", "."]) == 1
    assert "words" in capsys.readouterr().err


def test_times_are_shown_to_the_second() -> None:
    assert images_commands._seconds("2026-01-02T03:04:05.123456789Z") == "2026-01-02T03:04:05Z"
    assert images_commands._seconds("2026-01-02T03:04:05.1+02:00") == "2026-01-02T03:04:05+02:00"
    assert images_commands._seconds(None) == ""


def test_a_bad_time_names_the_flag_it_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--timestamp", "now", "."]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "error: invalid --timestamp: now"


def test_builds_without_a_name_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    store = ["--store", str(tmp_path / "store")]
    assert main(["build", "-q", *store, str(tmp_path)]) == 0
    digest = capsys.readouterr().out.strip()
    assert main(["images", *store]) == 0
    assert f"<none>  {digest[:19]}  " in capsys.readouterr().out
    assert main(["images", "--json", *store]) == 0
    assert '"name": null' in capsys.readouterr().out
    assert main(["inspect", digest[:19], *store]) == 0
    assert '"name": null' in capsys.readouterr().out
    assert main(["rm", digest[:19], *store]) == 0
    assert main(["images", *store]) == 0
    assert "no images yet" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "rest"), [("build", 3), ("plan", 2), ("check", 2)])
def test_help_has_every_flag_in_one_section(
    capsys: pytest.CaptureFixture[str], name: str, rest: int
) -> None:
    command = command_line.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert main([name, "--help"]) == 0
    _, *sections = re.split(r"^(\S.*:)$", capsys.readouterr().out, flags=re.MULTILINE)
    shown = dict(zip(sections[::2], sections[1::2], strict=True))
    flags = [
        flag
        for text in shown.values()
        for flag in re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.MULTILINE)
    ]
    known = [p.opts[-1] for p in command.params if p.param_type_name == "option"]
    assert sorted(flags) == sorted([*known, "--help"])
    assert "--help" in shown["What is shown:"]
    assert len(re.findall(r"^  -", shown["What is shown:"], re.MULTILINE)) == rest


def test_sections_name_flags_that_exist() -> None:
    names: set[str | None] = set()
    for name in ("build", "run"):
        command = command_line.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        names |= {parameter.name for parameter in command.params}
    assert frozenset().union(*SECTIONS.values()) <= names


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--load", "."], "docker load"),
        (["--cache-from=x", "."], "the store is the cache"),
        (["--destination", "x"], "-t NAME"),
        (["--memory-swap", "1g", "."], "as much swap"),
        (["--cpuset-cpus", "0", "."], "taskset"),
        (["--security-opt", "seccomp=unconfined", "."], "a filter of its own"),
        (["--mount", "type=bind,target=/x", "."], "RUN --mount="),
        (["--privileged", "."], "--allow security.insecure"),
        (["-e", "A=b", "."], "--build-arg"),
        (["--pull=true", "."], "write --pull alone"),
    ],
)
def test_flags_of_other_builders_are_answered(
    flags: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *flags]) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert "id you mean" not in error


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["-d", "app"], "no daemon"),
        (["-p", "80:80", "app"], "--network=host"),
        (["--mount", "type=bind,source=.,target=/x", "app"], "-v SOURCE:TARGET"),
        (["--tmpfs", "/tmp", "app"], "/dev/shm"),
        (["--on-fail=shell", "app"], "RUN steps"),
        (["--userns", "host", "app"], "namespaces of their own"),
    ],
)
def test_flags_of_docker_run_are_answered(
    flags: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *flags]) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert "id you mean" not in error


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("buildx", "leave the word out"), ("bud", "imgbuild build"), ("rmi", "imgbuild rm"),
        ("version", "--version"), ("biuld", "did you mean build?"), ("xyz", "--help"),
    ],
)  # fmt: skip
def test_commands_of_others_are_answered(
    command: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "."]) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("name", ["build", "run"])
def test_no_flag_of_others_is_one_of_ours(name: str) -> None:
    command = command_line.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert not foreign._FLAGS[f"imgbuild {name}"].keys() & {
        flag for p in command.params for flag in p.opts
    }
    assert not foreign._COMMANDS.keys() & COMMANDS.keys()


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["cache"], ["cache", "mount"]):
        assert main(words) == 0
        assert capsys.readouterr().out.startswith("Usage: imgbuild cache")


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [("", 2, "give --yes"), ("n\n", 1, "nothing was removed"), ("y\n", 0, "Remove everything")],
)
def test_reset_asks(
    answer: str,
    status: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    gone: list[Path] = []
    monkeypatch.setattr(api, "reset", lambda *, store: gone.append(store))
    assert main(["reset", "--store", str(tmp_path)]) == status
    assert words in capsys.readouterr().err
    assert gone == ([tmp_path] if status == 0 else [])
