"""The exit status of the checks is the same as text and as JSON."""

from pathlib import Path

import click
import pytest

from imgbuild import api
from imgbuild.cli.check_commands import answer
from imgbuild.errors import DockerfileError, ImgbuildError, UnreachableError
from imgbuild.options import BuildOptions
from imgbuild.plan.calls import CheckResult


@pytest.mark.parametrize(
    ("error", "status"), [(DockerfileError("wrong"), 1), (UnreachableError("away"), 3)]
)
def test_what_stops_a_build_gives_its_status(
    error: ImgbuildError, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CheckResult((), error, "Dockerfile", "Dockerfile", source=b"FROM x\n")
    monkeypatch.setattr(api, "check", lambda *_args, **_fields: result)
    with pytest.raises(ImgbuildError) as raised:
        answer("check", "text", BuildOptions(Path(".")))
    assert raised.value.exit_code == status
    with pytest.raises(click.exceptions.Exit) as left:
        answer("check", "json", BuildOptions(Path(".")))
    assert left.value.exit_code == status
