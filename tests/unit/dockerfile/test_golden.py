"""Whole Dockerfiles against their records, kept in testdata/dockerfile; `--regold` writes them anew."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from imgbuild.dockerfile.instructions import Arg, Dockerfile, From, Instruction
from imgbuild.dockerfile.parse import parse

FOLDER = Path(__file__).resolve().parents[3] / "testdata" / "dockerfile"
CASES = sorted(path.parent for path in FOLDER.glob("*/Dockerfile"))


def instructions(found: Dockerfile) -> Iterator[Instruction]:
    yield from found.global_args
    for stage in found.stages:
        yield stage.from_
        yield from stage.instructions


def shown(found: Instruction) -> str:
    out = [f"{found.span.first}-{found.span.last} {type(found).__name__}"]
    for field in fields(found)[1:]:
        value = getattr(found, field.name)
        if value != field.default and not (isinstance(found, From | Arg) and not any(value or ())):
            out.append(f"    {field.name} = {value!r}")
    return "\n".join(out)


def test_there_are_cases() -> None:
    assert len(CASES) >= 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_records(case: Path, request: pytest.FixtureRequest) -> None:
    found = parse((case / "Dockerfile").read_bytes())
    text = f"escape {found.escape} directives {found.directives}\n"
    text += "\n".join(map(shown, instructions(found))) + "\n"
    if request.config.getoption("--regold"):
        (case / "records").write_text(text, "utf-8")
    assert text == (case / "records").read_text("utf-8")
