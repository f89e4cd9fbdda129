"""What ADD fetches from a URL: kept by content, asked for again only by its validators.

Nothing here opens a connection: that is the port `Web`, which the registry part implements.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from imgbuild.build.secrets import Secrets
from imgbuild.oci.digest import Digest
from imgbuild.plan.model import UrlSource
from imgbuild.store.store import Store


class FetchedFile(NamedTuple):
    """A file that was fetched: it is `folder`'s only one, and called `name`.

    Its mode is 0600 and its time `modified`, in seconds since 1970; the epoch where the server
    told none (None).
    """

    folder: Path
    name: bytes
    digest: Digest
    modified: int | None


class Sink(Protocol):
    """Where a download goes; `begin` makes it empty again."""

    def begin(self) -> None: ...
    def write(self, data: bytes, /) -> object: ...


class Web(Protocol):
    """Downloads what an http or https URL names, through redirects and passing troubles."""

    def download(
        self,
        url: str,
        out: Sink,
        *,
        authorization: str | None,
        conditions: Mapping[str, str],
        limit: int,
        pinned: bool,
    ) -> Mapping[str, str] | None:
        """Write the body to `out` and return the headers; None when `conditions` say "unchanged".

        `conditions` are `If-None-Match` and `If-Modified-Since`. `limit` is in bytes. A body that
        is `pinned` by a digest may come over plain http where https was asked for. Raises
        `RegistryError`.
        """
        ...

    def close(self) -> None: ...


class UrlFetcher:
    """Fetches files for one build, each URL once; close it when the build ends.

    `limit` is the largest file, in bytes.
    """

    def __init__(
        self, store: Store, open_web: Callable[[], Web], secrets: Secrets, limit: int
    ) -> None:
        self._store = store
        self._open_web = open_web
        self._secrets = secrets
        self._limit = limit

    def fetch(self, source: UrlSource) -> FetchedFile:
        """Return the file that `source` names.

        Raises `RegistryError` where it cannot be had, `DigestMismatchError` when it does not have
        the checksum.
        """
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
