import pytest

from imgbuild.errors import UsageError
from imgbuild.oci.platform import Platform, parse_platform

HOST = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux", "linux/amd64"),
        ("arm64", "linux/arm64"),
        ("aarch64", "linux/arm64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/amd64/v1", "linux/amd64"),
        ("LINUX/AMD64", "linux/amd64"),
        ("riscv64", "linux/riscv64"),
        ("macos/arm64", "darwin/arm64"),
        ("windows(10.0.17763+win32k)/amd64", "windows/amd64"),
    ],
)
def test_platforms_are_normalised(text: str, expected: str) -> None:
    assert str(parse_platform(text, HOST)) == expected


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/a b", "plan10", "x86"])
def test_bad_platforms_are_the_callers_mistake(text: str) -> None:
    with pytest.raises(UsageError):
        parse_platform(text, HOST)


def test_several_platforms_are_told_to_be_too_many() -> None:
    with pytest.raises(UsageError) as raised:
        parse_platform("linux/amd64,linux/arm64", HOST)
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("give one;")


@pytest.mark.parametrize(
    ("have", "wanted", "runs"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/arm64", False),
        ("linux/amd64", "windows/amd64", False),
        ("linux/arm/v6", "linux/arm/v7", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/amd64/v3", "linux/amd64", False),
        ("linux/amd64/v2", "linux/amd64/v3", True),
        ("linux/amd64", "linux/amd64/v3", True),
    ],
)
def test_what_runs_where(have: str, wanted: str, runs: bool) -> None:
    assert parse_platform(have, HOST).matches(parse_platform(wanted, HOST)) is runs
