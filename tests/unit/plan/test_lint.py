"""Build checks, rule by rule: where each one speaks and where it keeps quiet.

The cases follow BuildKit's own tests of them (dockerfile_lint_test.go).
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from imgbuild.dockerfile.lint import check_text, make_linter
from imgbuild.dockerfile.lint_rules import RULES
from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError
from imgbuild.events import CheckWarning, Event
from imgbuild.oci.config import RunConfig
from imgbuild.oci.platform import Platform
from imgbuild.plan.lint import PlanLint
from imgbuild.plan.planner import PlanOptions, make_plan
from tests.unit.plan.planning import HOST, Images, image

ALL = "# check=experimental=all\n"


def lint(
    text: str,
    *,
    images: Mapping[str, Any] | None = None,
    ignored: Sequence[str] = (),
    all_stages: bool = False,
    override: str | None = None,
    **options: Any,
) -> list[CheckWarning]:
    """What the checks find in a Dockerfile, whose plan must succeed."""
    found: list[CheckWarning] = []

    def take(event: Event) -> None:
        assert isinstance(event, CheckWarning)
        found.append(event)

    text = textwrap.dedent(text)
    dockerfile = parse(text)
    linter = make_linter(text, "Dockerfile", override, take)
    check_text(dockerfile, linter)
    watch = PlanLint(linter, lambda: ignored, all_stages=all_stages, dry=True)
    settled = PlanOptions(**{"platform": HOST, "build_platform": HOST, **options})
    make_plan(dockerfile, settled, Images(images), watch)
    linter.finish()
    return found


def brief(found: Sequence[CheckWarning]) -> list[tuple[str, int, str]]:
    return [(each.rule, each.span.first, each.message) for each in found]


SPEAKS = [
    ("FROM scratch AS Foo\n", "StageNameCasing", 1, "Stage name 'Foo' should be lowercase"),
    ("FROM scratch as a\n", "FromAsCasing", 1, "'as' and 'FROM' keywords' casing do not match"),
    ("from scratch AS a\n", "FromAsCasing", 1, "'AS' and 'from' keywords' casing do not match"),
    ("FROM scratch\nLABEL a=b \\\n\n c=d\n", "NoEmptyContinuation", 4, "Empty continuation line"),
    (
        "FROM scratch\nlabel a=b\nLABEL c=d\n",
        "ConsistentInstructionCasing",
        2,
        "Command 'label' should match the case of the command majority (uppercase)",
    ),
    (
        "from scratch\nlabel a=b\nLABEL c=d\n",
        "ConsistentInstructionCasing",
        3,
        "Command 'LABEL' should match the case of the command majority (lowercase)",
    ),
    (
        "FROM scratch\nLabel a=b\n",
        "ConsistentInstructionCasing",
        2,
        "Command 'Label' should match the case of the command majority (uppercase)",
    ),
    (
        "FROM scratch AS b\nFROM scratch AS b\n",
        "DuplicateStageName",
        2,
        'Duplicate stage name "b", stage names should be unique',
    ),
    (
        "FROM scratch AS context\n",
        "ReservedStageName",
        1,
        'Stage name should not use the same name as reserved stage "context"',
    ),
    (
        "FROM scratch\nCMD run it\n",
        "JSONArgsRecommended",
        2,
        "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
    ),
    (
        "FROM scratch\nENTRYPOINT run it\n",
        "JSONArgsRecommended",
        2,
        (
            "JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS"
            " signals"
        ),
    ),
    (
        "FROM scratch\nMAINTAINER me\n",
        "MaintainerDeprecated",
        2,
        "Maintainer instruction is deprecated in favor of using label",
    ),
    (
        "ARG tag=latest\nFROM debian${tagg} AS b\n",
        "UndefinedArgInFrom",
        2,
        "FROM argument 'tagg' is not declared (did you mean tag?)",
    ),
    (
        "FROM scratch\nWORKDIR app/\n",
        "WorkdirRelativePath",
        2,
        'Relative workdir "app/" can have unexpected results if the base image changes',
    ),
    ("FROM scratch\nLABEL a=$foo\n", "UndefinedVar", 2, "Usage of undefined variable '$foo'"),
    (
        "FROM scratch\nENV PATH=$PAHT:/tmp\n",
        "UndefinedVar",
        2,
        "Usage of undefined variable '$PAHT' (did you mean $PATH?)",
    ),
    ("FROM scratch\nARG a=$foo\n", "UndefinedVar", 2, "Usage of undefined variable '$foo'"),
    (
        "FROM scratch\nCOPY <<E /\n$foo\nE\n",
        "UndefinedVar",
        2,
        "Usage of undefined variable '$foo'",
    ),
    (
        "FROM scratch\nRUN --mount=type=cache,target=/c$foo x\n",
        "UndefinedVar",
        2,
        "Usage of undefined variable '$foo'",
    ),
    (
        'FROM scratch\nCMD ["a"]\nLABEL a=b\nCMD ["b"]\n',
        "MultipleInstructionsDisallowed",
        2,
        (
            "Multiple CMD instructions should not be used in the same stage because only the last one"
            " will be used"
        ),
    ),
    (
        "FROM scratch\nHEALTHCHECK CMD a\nHEALTHCHECK NONE\n",
        "MultipleInstructionsDisallowed",
        2,
        (
            "Multiple HEALTHCHECK instructions should not be used in the same stage because only the"
            " last one will be used"
        ),
    ),
    (
        "FROM scratch\nENV a b\n",
        "LegacyKeyValueFormat",
        2,
        '"ENV key=value" should be used instead of legacy "ENV key value" format',
    ),
    (
        "FROM scratch\nLABEL a b\n",
        "LegacyKeyValueFormat",
        2,
        '"LABEL key=value" should be used instead of legacy "LABEL key value" format',
    ),
    (
        "FROM --platform=${TARGETPLATFORM} scratch\n",
        "RedundantTargetPlatform",
        1,
        (
            "Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the"
            " default behavior"
        ),
    ),
    (
        "FROM scratch\nENV git_key=\n",
        "SecretsUsedInArgOrEnv",
        2,
        'Do not use ARG or ENV instructions for sensitive data (ENV "git_key")',
    ),
    (
        "FROM scratch\nARG SECRET_PASSPHRASE\n",
        "SecretsUsedInArgOrEnv",
        2,
        'Do not use ARG or ENV instructions for sensitive data (ARG "SECRET_PASSPHRASE")',
    ),
    (
        "FROM --platform=linux/amd64 scratch\n",
        "FromPlatformFlagConstDisallowed",
        1,
        'FROM --platform flag should not use constant value "linux/amd64"',
    ),
    (
        ALL + "# wrong text\nFROM scratch AS a\n",
        "InvalidDefinitionDescription",
        3,
        "Comment for FROM should follow the format: `# a <description>`",
    ),
    (
        ALL + "# wrong text\nARG a=1 b=2\nFROM scratch\n",
        "InvalidDefinitionDescription",
        3,
        "Comment for ARG should follow the format: `# <arg_key> <description>`",
    ),
    (
        "FROM scratch\nEXPOSE 80/TCP\n",
        "ExposeProtoCasing",
        2,
        "Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
    ),
    (
        "FROM scratch\nEXPOSE 127.0.0.1:80:80\n",
        "ExposeInvalidFormat",
        2,
        (
            "EXPOSE instruction should not define an IP address or host-port mapping, found"
            " '127.0.0.1:80:80'"
        ),
    ),
]


@pytest.mark.parametrize(("text", "rule", "line", "message"), SPEAKS)
def test_a_rule_speaks(text: str, rule: str, line: int, message: str) -> None:
    assert brief(lint(text)) == [(rule, line, message)]


def test_every_rule_is_tried() -> None:
    tried = {rule for _, rule, _, _ in SPEAKS}
    # These need an image, a build argument or an ignore file, and have tests of their own.
    tried |= {"CopyIgnoredFile", "InvalidBaseImagePlatform", "InvalidDefaultArgInFrom"}
    assert tried == {rule.name for rule in RULES}
    assert len(RULES) == 22


QUIET = [
    "FROM scratch AS scratch-not\nFROM scratch\n",
    "FROM scratch\nLABEL a=b \\\n# a comment\n c=d\n",
    "FROM scratch\nRUN <<E\n\\\n\nrun\nE\n",
    'FROM scratch\nSHELL ["/sh"]\nCMD run it\n',
    'FROM scratch AS a\nSHELL ["/sh"]\nFROM a\nENTRYPOINT run it\n',
    'FROM scratch\nCMD ["run"]\nENTRYPOINT ["it"]\n',
    'FROM scratch AS a\nCMD ["a"]\nFROM a\nCMD ["b"]\n',
    "ARG base=scratch\nFROM $base\n",
    "ARG extra\nFROM scratch${extra}\n",
    "FROM --platform=$BUILDPLATFORM scratch\n",
    "FROM --platform=linux/amd64 scratch AS my-amd64-stage\n",
    "FROM --platform=linux/amd64 scratch AS linux\n",
    "FROM scratch\nWORKDIR /app\nWORKDIR sub\n",
    "FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR sub\n",
    "FROM scratch\nARG foo\nLABEL a=$foo\n",
    "FROM scratch AS a\nARG foo\nFROM a\nLABEL a=$foo\n",
    "FROM scratch\nARG a=1 b=$a\n",
    "FROM scratch\nRUN echo $foo\n",
    "FROM scratch\nLABEL a=$PATH\n",
    "FROM scratch\nLABEL a=${foo:-x} b=${foo-x} c=${foo:+x} d=${foo+x} e=$$ f='$foo'\n",
    'FROM scratch\nCOPY <<"E" /\n$foo\nE\n',
    "FROM scratch\nEXPOSE 80/tcp 53/udp\n",
    "FROM scratch\nENV PUBLIC_KEY=a KEYS=b KEY_FILE=c TOKEN_VERSION=d monkey=e\n",
    "# wrong text\nFROM scratch AS a\n",
    ALL + "# wrong text\n#\nFROM scratch AS a\n",
    ALL + "# a the stage\nFROM scratch AS a\n# b the argument\nARG a=1 b=2\n",
    "FROM scratch\nONBUILD CMD run it\n",
]


@pytest.mark.parametrize("text", QUIET)
def test_rules_keep_quiet(text: str) -> None:
    assert brief(lint(text)) == []


def test_a_default_that_names_no_image() -> None:
    message = "Default value for ARG {} results in empty or invalid base image name"
    text = "ARG IMAGE\nFROM $IMAGE\n"
    found = lint(text, build_args={"IMAGE": "debian"})
    assert brief(found) == [("InvalidDefaultArgInFrom", 2, message.format("$IMAGE"))]
    assert lint("ARG IMAGE=debian\nFROM $IMAGE\n", build_args={"IMAGE": "alpine"}) == []


def test_a_base_for_another_platform() -> None:
    images = {"debian": image("debian", platform=Platform("linux", "arm64"))}
    assert brief(lint("FROM debian\n", images=images)) == [
        (
            "InvalidBaseImagePlatform",
            1,
            (
                'Base image debian was pulled with platform "linux/arm64", expected "linux/amd64" for'
                " current build"
            ),
        )
    ]
    assert lint("FROM debian\n", images=images, platform=Platform("linux", "arm64")) == []


def test_the_shell_of_a_base_counts() -> None:
    images = {"debian": image("debian", RunConfig(shell=("/bin/bash", "-c")))}
    assert lint("FROM debian\nCMD run it\n", images=images) == []


@pytest.mark.parametrize(
    ("text", "ignored", "files"),
    [
        ("COPY a.log sub/b /x/\nADD ./c.log /\n", ["*.log", "sub"], ["a.log", "sub/b", "c.log"]),
        ("COPY a.log /\n", ["*.log", "!a.log"], []),
        ("COPY . /\n", ["*.log"], []),
        ("COPY . /\n", ["*"], ["."]),
        ("COPY --from=a /a.log /\n", ["*.log"], []),
        ("ADD https://example.com/a.log /\n", ["**"], []),
        ("ENV x=a.log\nCOPY $x /\n", ["a.log"], ["a.log"]),
    ],
)
def test_files_that_are_ignored(text: str, ignored: list[str], files: list[str]) -> None:
    found = lint(f"FROM scratch AS a\nFROM scratch\n{text}", ignored=ignored)
    assert [each.message.split('"')[1] for each in found] == files
    assert {each.rule for each in found} <= {"CopyIgnoredFile"}


def test_triggers_of_a_base_are_checked_at_the_from() -> None:
    images = {"debian": image("debian", RunConfig(on_build=("cmd run it", "ENV a b")))}
    assert brief(lint("FROM debian\n", images=images)) == [
        (
            "JSONArgsRecommended",
            1,
            "JSON arguments recommended for cmd to prevent unintended behavior related to OS signals",
        ),
        (
            "LegacyKeyValueFormat",
            1,
            '"ENV key=value" should be used instead of legacy "ENV key value" format',
        ),
    ]


def test_a_build_checks_what_it_needs_and_check_all_stages() -> None:
    text = "FROM scratch AS a\nLABEL a=$foo\nFROM scratch\nLABEL a=$bar\n"
    assert [each.span.first for each in lint(text)] == [4]
    assert [each.span.first for each in lint(text, all_stages=True)] == [2, 4]


@pytest.mark.parametrize(
    ("directive", "rules"),
    [
        ("", ["FromAsCasing", "ConsistentInstructionCasing"]),
        ("# check=skip=all\n", []),
        ("# check=skip=FromAsCasing\n", ["ConsistentInstructionCasing"]),
        ("# check=skip=ConsistentInstructionCasing,FromAsCasing;error=true\n", []),
        ("#CHECK = skip=all;error=true\n", []),
    ],
)
def test_directives(directive: str, rules: list[str]) -> None:
    text = directive + "FROM scratch as a\nlabel a=b\n"
    assert [each.rule for each in lint(text)] == rules


def test_an_experimental_rule_has_to_be_asked_for_by_name() -> None:
    text = "# check=skip=all;experimental=InvalidDefinitionDescription\n# x\nFROM scratch AS a\n"
    assert [each.rule for each in lint(text)] == ["InvalidDefinitionDescription"]


def test_a_directive_above_one_instruction_is_for_that_one() -> None:
    text = "FROM scratch\n# check=skip=LegacyKeyValueFormat\nENV a b\nENV c d\n"
    assert [each.span.first for each in lint(text)] == [4]
    assert lint("FROM scratch\n# check=skip=MaintainerDeprecated\nMAINTAINER me\n") == []
    # One that is wrong counts for nothing.
    text = "FROM scratch\n# check=skip\nENV a b\n"
    assert [each.span.first for each in lint(text)] == [3]


def test_warnings_can_be_errors() -> None:
    with pytest.raises(DockerfileError) as caught:
        lint("# check=error=true\nFROM scratch as A\n")
    message = "lint violation found for rules: StageNameCasing, FromAsCasing"
    assert caught.value.message == message


def test_the_build_argument_takes_the_place_of_the_directive() -> None:
    text = "# check=error=true\nFROM scratch as a\n"
    assert lint(text, override="skip=all") == []
    with pytest.raises(DockerfileError, match="lint violation"):
        lint("# check=skip=all\nFROM scratch as a\n", override="error=true")


def test_a_directive_that_is_wrong_is_an_error_with_its_place() -> None:
    with pytest.raises(DockerfileError) as caught:
        lint("# escape=`\n# check=foo\nFROM scratch\n")
    assert caught.value.message == 'failed to parse check options: invalid check option "foo"'
    assert caught.value.span is not None
    assert caught.value.span.first == 2
    with pytest.raises(DockerfileError, match="failed to parse check options"):
        lint("FROM scratch\n", override="error=maybe")


def test_an_undefined_variable_has_a_place_and_a_page() -> None:
    (found,) = lint("FROM scratch\nENV a=1 \\\n  b=$foo\n")
    assert (found.span.first, found.span.last) == (2, 3)
    assert found.url == "https://docs.docker.com/go/dockerfile/rule/undefined-var/"
    assert found.detail == "Variables should be defined before their use"
