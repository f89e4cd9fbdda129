"""Images that could not be had are named by the Dockerfile's words and in full."""

import pytest

from imgbuild.errors import NotFoundError, RegistryError, UnreachableError
from imgbuild.oci.platform import Platform
from imgbuild.plan.model import BaseImage
from tests.unit.plan.planning import Images, plan


class NoNetwork(Images):
    def __call__(self, name: str, platform: Platform) -> BaseImage:
        try:
            return super().__call__(name, platform)
        except NotFoundError:
            message = "registry docker.io cannot be reached"
            raise UnreachableError(message, hint="check the network") from None


def failure(text: str, **options: object) -> RegistryError:
    with pytest.raises(UnreachableError) as caught:
        plan(text, NoNetwork(), **options)
    assert str(caught.value) == caught.value.message
    assert caught.value.span is not None
    return caught.value


def test_one_word_may_have_meant_a_context() -> None:
    error = failure("FROM base\n")
    assert error.message == (
        "FROM base (docker.io/library/base:latest): registry docker.io cannot be reached"
    )
    assert error.hint == (
        "check the network; or name an image you have: --build-context base=oci-layout://PATH"
    )


@pytest.mark.parametrize("name", ["team/base", "base:1", "registry.example/base"])
def test_more_than_one_word_is_an_image(name: str) -> None:
    error = failure(f"FROM {name}\n")
    assert error.message.startswith(f"FROM {name} (")
    assert error.hint == "check the network"


def test_a_full_name_is_not_repeated() -> None:
    error = failure("FROM registry.example/base:1\n")
    assert error.message == "FROM registry.example/base:1: registry docker.io cannot be reached"


def test_a_misspelt_stage_is_guessed() -> None:
    error = failure("FROM debian AS builder\nFROM debian\nCOPY --from=bulider /f /f\n")
    assert error.message.startswith("COPY --from=bulider (docker.io/library/bulider:latest): ")
    assert error.hint == "did you mean builder? Otherwise check the network"
    assert "did you mean" not in str(
        failure("FROM debian AS builder\nFROM debian\nCOPY --from=x/bulider /f /f\n").hint
    )


def test_a_context_is_named_as_one() -> None:
    error = failure("FROM base\n", contexts=frozenset({"base"}))
    assert error.message == "FROM base (by --build-context): registry docker.io cannot be reached"
    assert error.hint == "check the network"
