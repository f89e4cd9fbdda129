"""Build checks against BuildKit's: warnings of complete builds, of its instruction parser and of its parser."""

from functools import partial
from typing import Any

import pytest

from imgbuild.build.checking import parse_checked, plan_checks
from imgbuild.build.ignorefile import ignored_patterns
from imgbuild.dockerfile.lint import check_broken_text, check_text, make_linter
from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError, ImgbuildError
from imgbuild.events import CheckWarning
from imgbuild.plan.planner import make_plan
from tests.vectors import load
from tests.vectors.test_golden_plan import CASES, GOLDEN, MULTI, options, resolve
from tests.vectors.test_golden_plan import load as golden

# What the instruction parser itself reports; the others are found before or after it.
OF_THE_PARSER = {
    "FromAsCasing",
    "InvalidDefinitionDescription",
    "MaintainerDeprecated",
    "StageNameCasing",
}
# A build that fails prints no warnings; the other one's output was cut: a shell form without SHELL
# is reported in `lint-warnings`.
UNRECORDED = {"dockerignore-copies-ignored", "cmd-shell-vs-exec"}


@pytest.mark.skipif(not CASES, reason=f"no vectors at {GOLDEN}")
@pytest.mark.parametrize("name", sorted({*CASES} - UNRECORDED - MULTI))
def test_warnings_of_a_build(name: str, tmp_path: Any) -> None:
    case = golden(name)
    for file, content in case.get("files", {}).items():
        if file.endswith(".dockerignore"):
            (tmp_path / file).write_text(content)
    found: list[CheckWarning] = []
    settled = options(case)
    try:
        dockerfile, linter = parse_checked(
            case["dockerfile"].encode(),
            "Dockerfile",
            settled.build_args,
            found.append,  # type: ignore[arg-type]  # checks report nothing else
        )
        make_plan(
            dockerfile, settled, resolve, plan_checks(linter, partial(ignored_patterns, tmp_path))
        )
    except (ImgbuildError, AssertionError):
        assert case["exit"], "BuildKit builds this"
    texts = [f"WARN: {each.rule}: {each.message} (line {each.span.first})" for each in found]
    assert texts == (case.get("warnings") or [])


def found_in(text: str) -> list[CheckWarning]:
    found: list[CheckWarning] = []
    linter = make_linter(text, "Dockerfile", None, found.append)  # type: ignore[arg-type]  # checks report nothing else
    try:
        check_text(parse(text), linter)
    except DockerfileError:
        check_broken_text(text, "Dockerfile", linter)
    return found


def with_text(document: list[Any]) -> list[Any]:
    return [
        {**case.get("instructions", case), "dockerfile": case["dockerfile"]} for case in document
    ]


@pytest.mark.parametrize(
    "case",
    [
        *load("instructions/instructions.json", with_text, lambda case: str(case["dockerfile"])),
        *load(
            "instructions/unit-dockerfiles.json", with_text, lambda case: str(case["dockerfile"])
        ),
    ],
)
def test_warnings_of_the_instruction_parser(case: dict[str, Any]) -> None:
    try:
        found = found_in(case["dockerfile"])
    except DockerfileError:
        assert case["error"] or "# check=bogus" in case["dockerfile"]
        return
    assert [
        {
            "rule": each.rule,
            "msg": each.message,
            "lines": list(range(each.span.first, each.span.last + 1)),
        }
        for each in found
        if each.rule in OF_THE_PARSER
    ] == (case.get("warnings") or [])


def cut_up(document: list[Any]) -> list[Any]:
    return [case for case in document if not case["error"] and case["dockerfile"]]


@pytest.mark.parametrize(
    "case", load("parser/ast.json", cut_up, lambda case: str(case.get("name", "")))
)
def test_empty_lines_in_instructions(case: dict[str, Any]) -> None:
    """The parser's own warnings have no line, so that only their number is compared."""
    try:
        found = [each for each in found_in(case["dockerfile"]) if "Continuation" in each.rule]
    except DockerfileError:
        pytest.skip("a directive that is wrong, or no FROM")
    assert len(found) == len(case["warnings"] or [])
