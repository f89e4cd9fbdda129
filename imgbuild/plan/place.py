"""Errors and where in the Dockerfile they happened."""

from imgbuild.errors import ImgbuildError, Span


def located(error: ImgbuildError, span: Span, source: str) -> ImgbuildError:
    """Return `error` with the place where it happened, unless it has one."""
    if error.span is None:
        error.span = span
    if error.source is None:
        error.source = source
    return error
