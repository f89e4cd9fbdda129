"""Errors and where in the Dockerfile they happened."""

from imgbuild.errors import DockerfileError, ImgbuildError, Span, UsageError


def located(error: ImgbuildError, span: Span, source: str) -> ImgbuildError:
    """Return `error` with the place where it happened, unless it has one.

    What is wrong with a name in a Dockerfile is the Dockerfile's fault, not the call's.
    """
    if isinstance(error, UsageError):
        error = DockerfileError(error.message, hint=error.hint, span=error.span)
    if error.span is None:
        error.span = span
    if error.source is None:
        error.source = source
    return error
