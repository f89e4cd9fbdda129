"""The error tree: every deliberate failure is an `ImgbuildError`; only `cli/report.py` renders one.

ImgbuildError                 1
|- UsageError                 2   the call or the command line is wrong
|- DockerfileError            1   the Dockerfile cannot be parsed or planned
|- ContextError               1   the build context lacks or forbids something
|- StepFailedError            1   a RUN command failed: the user's failure, not ours
|- SecretInLayerError         1   a layer would hold the value of a secret
|- ImageError                 1   an image or archive is malformed or lacks what was asked
|  '- DigestMismatchError     1   content does not have the digest it was named by
|- RegistryError              3   a registry or URL could not serve the request
|  |- UnreachableError        3   no answer at all
|  |- AuthenticationError     3   the credentials were missing or refused
|  '- NotFoundError           3   the registry has no such repository, tag or blob
|- StoreError                 4   the local store cannot be used
|  |- StoreLockedError        4   another process holds it
|  |- DiskFullError           4   no space left
|  '- NameNotFoundError       4   no such image in the store
'- SandboxError               5   this host does not allow a sandbox, or one broke
"""

from typing import ClassVar, NamedTuple


class Span(NamedTuple):
    """Where in a Dockerfile something stands: 1-based first and last line, both inclusive."""

    file: str
    first: int
    last: int


class ImgbuildError(Exception):
    """Tell what failed (`message`), what to do next (`hint`) and where (`span`).

    `source` is the text that `span` points into, kept so that an excerpt can be shown
    even when the Dockerfile came from standard input.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        span: Span | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.span = span
        self.source = source


class UsageError(ImgbuildError):
    exit_code = 2


class DockerfileError(ImgbuildError):
    pass


class ContextError(ImgbuildError):
    pass


class StepFailedError(ImgbuildError):
    """A RUN command ended with a status other than 0.

    `status` is the exit status as a shell would show it (128 + N for signal N);
    `output` holds the last bytes that the command wrote.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        output: bytes = b"",
        hint: str | None = None,
        span: Span | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, span=span, source=source)
        self.status = status
        self.output = output


class SecretInLayerError(ImgbuildError):
    pass


class ImageError(ImgbuildError):
    pass


class DigestMismatchError(ImageError):
    pass


class RegistryError(ImgbuildError):
    exit_code = 3


class UnreachableError(RegistryError):
    pass


class AuthenticationError(RegistryError):
    pass


class NotFoundError(RegistryError):
    pass


class StoreError(ImgbuildError):
    exit_code = 4


class StoreLockedError(StoreError):
    pass


class DiskFullError(StoreError):
    pass


class NameNotFoundError(StoreError):
    pass


class SandboxError(ImgbuildError):
    exit_code = 5
