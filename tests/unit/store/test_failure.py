import errno

import pytest

from imgbuild.store.failure import store_error


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "make it writable"),
        (errno.EPIPE, "what reads it has ended"),
        (errno.EINVAL, "local disk"),
    ],
)
def test_hints_fit_what_the_kernel_says(number: int, hint: str) -> None:
    error = store_error(OSError(number, "reason"), "write the archive")
    assert hint in str(error.hint)
    assert error.message.endswith("write the archive: reason") or number == errno.ENOSPC
