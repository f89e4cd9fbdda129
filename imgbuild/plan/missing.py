"""An image that could not be had: the error says which one, and what else its name may have meant."""

from collections.abc import Iterable

from imgbuild.dockerfile.suggest import did_you_mean
from imgbuild.errors import RegistryError, UsageError
from imgbuild.oci.reference import parse_reference


def explain_missing(
    error: RegistryError, use: str, name: str, *, is_context: bool, stages: Iterable[str]
) -> None:
    """Let `error` name the image: `use` is what asks for it, as `FROM` or `COPY --from=`.

    `stages` are the names that stages have; `is_context` says that --build-context maps `name`.
    """
    message = f"{use}{name}{_in_full(error.message, name, is_context)}: {error.message}"
    error.message, error.args = message, (message,)
    # A name with a registry, a folder or a tag was meant as an image.
    if is_context or "/" in name or ":" in name or "@" in name:
        return
    if guess := did_you_mean(name, stages).strip(" ()"):
        error.hint = f"{guess} Otherwise {error.hint}" if error.hint else guess
    else:
        own = f"name an image you have: --build-context {name}=oci-layout://PATH"
        error.hint = f"{error.hint}; or {own}" if error.hint else own


def _in_full(message: str, name: str, is_context: bool) -> str:
    if is_context:
        return " (by --build-context)"
    try:
        full = str(parse_reference(name))
    except UsageError:
        return ""
    return "" if full == name or full in message else f" ({full})"
