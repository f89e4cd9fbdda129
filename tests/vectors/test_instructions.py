"""Typed instructions and error texts against BuildKit's instruction parser.

Left out of the comparison: what the linter said (test_warnings.py has that), and the values of --mount,
which BuildKit reads once variables are filled in; here they are kept as text.
"""

from typing import Any, assert_never

import pytest

from imgbuild.dockerfile import instructions as ins
from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError
from tests.vectors import load

# BuildKit refuses these one step after its instruction parser, in these words (reference 1.1).
REFUSED_LATER = {
    "": "the Dockerfile cannot be empty",
    "ARG a\n": "dockerfile contains no stages to build",
}
# BuildKit names the line before a directive, and line 0 of an empty file.
LINES = {
    "": [1],
    "ARG a\n": [1],
    "# escape=x\nFROM x\n": [1],
    "# escape=`\n# escape=\\\nFROM x\n": [2],
}
NOT_COMPARED = ("devices", "flags_used", "mounts", "mount_error")


def with_text(document: list[Any]) -> list[Any]:
    return [
        {**case.get("instructions", case), "dockerfile": case["dockerfile"]} for case in document
    ]


def heredocs(found: tuple[ins.Heredoc, ...]) -> list[dict[str, Any]] | None:
    return [{"Path": d.name, "Data": d.content, "Expand": d.expand} for d in found] or None


def files(command: ins.Command) -> list[dict[str, Any]] | None:
    return [{"Name": d.name, "Data": d.content, "Chomp": d.chomp} for d in command.heredocs] or None


def pairs(instruction: ins.Env | ins.Label) -> list[dict[str, Any]]:
    return [
        {"Key": name, "Value": value, "NoDelim": instruction.legacy}
        for name, value in instruction.pairs
    ]


def copied(instruction: ins.Copy | ins.Add) -> dict[str, Any]:
    return {
        "DestPath": instruction.dest,
        "SourcePaths": list(instruction.sources) or None,
        "SourceContents": heredocs(instruction.heredocs),
        "Chown": instruction.chown or "",
        "Chmod": instruction.chmod or "",
        "Link": instruction.link,
        "ExcludePatterns": list(instruction.exclude) or None,
    }


def health(found: ins.Healthcheck) -> dict[str, Any]:
    numbers = {
        "Interval": found.interval,
        "Timeout": found.timeout,
        "StartPeriod": found.start_period,
        "StartInterval": found.start_interval,
        "Retries": found.retries,
    }
    return {"Test": list(found.test), **{k: v for k, v in numbers.items() if v}}


def command(found: ins.Command, *, empty: list[str] | None) -> dict[str, Any]:
    return {
        "CmdLine": list(found.args) or empty,
        "Files": files(found),
        "PrependShell": found.shell,
    }


def as_data(found: ins.StageInstruction) -> dict[str, Any]:
    match found:
        case ins.Run():
            return {
                "name": "run",
                "cmdline": list(found.command.args),
                "files": files(found.command),
                "prepend_shell": found.command.shell,
                "network": found.network or "default",
                "security": found.security or "sandbox",
            }
        case ins.Cmd():
            return {"name": "cmd", "data": command(found.command, empty=[])}
        case ins.Entrypoint():
            return {"name": "entrypoint", "data": command(found.command, empty=None)}
        case ins.Copy():
            data = {**copied(found), "From": found.from_ or "", "Parents": found.parents}
            return {"name": "copy", "data": data}
        case ins.Add():
            data = {
                **copied(found),
                "KeepGitDir": found.keep_git_dir,
                "Checksum": found.checksum or "",
                "Unpack": found.unpack,
            }
            return {"name": "add", "data": data}
        case ins.Env():
            return {"name": "env", "data": {"Env": pairs(found)}}
        case ins.Label():
            return {"name": "label", "data": {"Labels": pairs(found)}}
        case ins.Arg():
            args = [
                {"Key": name, "Value": default, "DocComment": comment}
                for (name, default), comment in zip(found.args, found.comments, strict=True)
            ]
            return {"name": "arg", "data": {"Args": args}}
        case ins.Expose():
            return {"name": "expose", "data": {"Ports": list(found.ports)}}
        case ins.User():
            return {"name": "user", "data": {"User": found.user}}
        case ins.Workdir():
            return {"name": "workdir", "data": {"Path": found.path}}
        case ins.Volume():
            return {"name": "volume", "data": {"Volumes": list(found.paths)}}
        case ins.StopSignal():
            return {"name": "stopsignal", "data": {"Signal": found.signal}}
        case ins.Maintainer():
            return {"name": "maintainer", "data": {"Maintainer": found.name}}
        case ins.Shell():
            return {"name": "shell", "data": {"Shell": list(found.args)}}
        case ins.OnBuild():
            return {"name": "onbuild", "data": {"Expression": found.text}}
        case ins.Healthcheck():
            return {"name": "healthcheck", "data": {"Health": health(found)}}
        case _:
            assert_never(found)


@pytest.mark.parametrize(
    "case",
    [
        *load("instructions/instructions.json", with_text, lambda case: str(case["dockerfile"])),
        *load(
            "instructions/unit-dockerfiles.json", with_text, lambda case: str(case["dockerfile"])
        ),
    ],
)
def test_instructions(case: dict[str, Any]) -> None:
    text = case["dockerfile"]
    message = REFUSED_LATER.get(text, case["error"])
    if message:
        with pytest.raises(DockerfileError) as caught:
            parse(text)
        assert caught.value.message == message
        assert caught.value.source == text.removeprefix("\ufeff")
        assert caught.value.span is not None
        lines = list(range(caught.value.span.first, caught.value.span.last + 1))
        assert lines == LINES.get(text, case.get("error_lines"))
        return
    found = parse(text)
    for stage in case["stages"]:
        for step in stage["commands"]:
            for name in NOT_COMPARED:
                step.pop(name, None)
    assert [as_data(arg)["data"] for arg in found.global_args] == case["meta_args"]
    assert [
        {
            "base": stage.from_.image,
            "name": stage.from_.name or "",
            "platform": stage.from_.platform or "",
            "doc": stage.from_.comment,
            "commands": [as_data(step) for step in stage.instructions],
        }
        for stage in found.stages
    ] == case["stages"]
