"""Turn what the kernel says about the store into errors a user can act on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from imgbuild.errors import DiskFullError, StoreError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def store_error(error: OSError, action: str) -> StoreError:
    """Return the error for a system call that failed while doing `action`."""
    reason = error.strerror or str(error)
    where = f": {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return DiskFullError(
            f"no space left to {action}",
            hint="free some space, or choose a store on another disk with --store",
        )
    if error.errno in _DENIED:
        return StoreError(
            f"cannot {action}: {reason}{where}",
            hint="make it writable for this user, or choose another store with --store",
        )
    if error.errno == errno.EPIPE:
        return StoreError(
            f"cannot {action}: {reason}", hint="what reads it has ended: see what that says"
        )
    return StoreError(
        f"cannot {action}: {reason}{where}",
        hint="choose a store in a folder of a local disk with --store",
    )


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Raise `StoreError` or `DiskFullError` for an `OSError` of the block."""
    try:
        yield
    except OSError as error:
        raise store_error(error, action) from error
