"""Every Dockerfile of BuildKit's own integration tests: planned, or refused with the error it is there for.

That they are parsed or refused as recorded is in test_parser.py.
"""

import re
from typing import Any

import pytest

from imgbuild.dockerfile.instructions import Dockerfile
from imgbuild.dockerfile.parse import parse
from imgbuild.errors import ImgbuildError
from imgbuild.oci.platform import Platform
from imgbuild.plan.model import BaseImage, BuildPlan
from imgbuild.plan.planner import PlanOptions, make_plan
from tests.unit.plan.planning import HOST, image
from tests.vectors import load

# By test and number: the words of the error, and why it is right.
REFUSED = {
    # These are what the tests are about.
    "testAddInvalidChmod-1": "invalid chmod parameter: '64a'. it should be octal string and",
    "testAddInvalidChmod-2": "invalid chmod parameter: '10000'. it should be octal string and",
    "testCopyInvalidChmod-1": "invalid chmod parameter: '64a'. it should be octal string and",
    "testCopyInvalidChmod-2": "invalid chmod parameter: '10000'. it should be octal string and",
    "testAddChecksum-4": "unsupported digest algorithm",
    "testAddChecksum-5": "unsupported digest algorithm",
    "testAddChecksum-7": "checksum requires HTTP(S) or Git sources",
    "testGlobalArgErrors-1": 'failed to process "${FOO:?\\"custom error\\"}": FOO: custom error',
    "testArgDefaultExpansion-1": 'failed to process "${FOO:?\\"foo missing\\"}": FOO: foo missing',
    "testUndeclaredArg-7": "empty platform value from expression $BULIDPLATFORM (did you mean BUILDPLATFORM?)",
    "testUndeclaredArg-8": "failed to parse platform linux/${MYARCH}: ",
    "testInvalidDefaultArgInFrom-1": 'failed to parse stage name "busybox:": invalid reference format',
    "testInvalidDefaultArgInFrom-2": "base name ($IMAGE) should not be blank",
    "testInvalidDefaultArgInFrom-3": 'failed to parse stage name "busybox:": invalid reference format',
    "testInvalidDefaultArgInFrom-4": 'failed to parse stage name "nanoserver:": invalid reference format',
    "testDockerfileCopyFromArgs-1": "variable expansion is not supported for --from, define a new stage",
    "testMountInvalid-2": "unexpected key 'typ' in 'typ=tmpfs' (did you mean type?)",
    "testMountInvalid-3": 'unsupported mount type "tmp" (did you mean tmpfs?)',
    "testOutOfOrderStage-1": 'cannot copy from stage "build", it needs to be defined before current',
    "testSourceDateEpochDockerfileDefaultInvalid-1": "invalid SOURCE_DATE_EPOCH: not-a-timestamp",
    "testSourceDateEpochStageInvalid-1": "SOURCE_DATE_EPOCH stage does not meet source-only"
    " requirements: unsupported COPY instruction",
    # An external frontend cannot be used.
    "testErrorsSourceMap-2": "the frontend foobar cannot be used",
    # The test gives the name as a build context.
    "testSourceDateEpochNamedContextHTTPLastModified-1": "invalid SOURCE_DATE_EPOCH: mysource",
    "testSourceDateEpochNamedContextHTTPArchive-1": "invalid SOURCE_DATE_EPOCH: mysource",
    # The corpus cut this literal of a Go program in two.
    "testExcludedFilesOnCopy-2": 'failed to process "\\"": unexpected end of statement',
}
# What the tests put into their templates.
FILL = (
    (r"\{\{\.ServerURL\}\}", "https://example.com"),
    (r"\{\{\.(Wrong)?Checksum\}\}", "0" * 40),
    (r"MY_OS=%s", "MY_OS=linux"),
    (r"--platform=%s/", "--platform=linux/"),
    (r"(?m)^(\s*FROM (?:--\S+ )?)%(\[1\])?s", r"\1busybox"),
    (r"(--checksum=|DIGEST=)%s", r"\1sha256:" + "0" * 64),
    (r"unknown:%s", "unknown:" + "0" * 64),
    (r"(ADD (?:--\S+ )*|LINK=)%(\[1\])?s", r"\1https://example.com/file"),
    (r"%d", "1700000000"),
    (r"%(\[1\])?s", "word"),
)


def name(case: dict[str, Any]) -> str:
    return f"{case['test']}-{case['index']}"


def parsed(document: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [case for case in document if not case["parse_error"]]


def filled(case: dict[str, Any]) -> str:
    text: str = case["dockerfile"]
    for pattern, value in FILL if case["has_format_verbs"] else ():
        text = re.sub(pattern, value, text)
    return text


def resolve(_name: str, platform: Platform) -> BaseImage:
    return image("base", platform=platform)


def planned(dockerfile: Dockerfile) -> BuildPlan | ImgbuildError:
    allow = ("network.host", "security.insecure", "device")
    options = PlanOptions(platform=HOST, build_platform=HOST, allow=allow)
    try:
        return make_plan(dockerfile, options, resolve)
    except ImgbuildError as error:
        return error


@pytest.mark.parametrize("case", load("dockerfiles/integration-dockerfiles.json", parsed, name))
def test_planned(case: dict[str, Any]) -> None:
    dockerfile = parse(filled(case))
    found = planned(dockerfile)
    wanted = REFUSED.get(name(case))
    if isinstance(found, ImgbuildError):
        assert found.span is not None
        assert found.source == dockerfile.source
        assert wanted
        assert found.message.startswith(wanted)
        return
    assert wanted is None
    assert found == planned(dockerfile)
    assert found.stage(found.target).config.platform == HOST
