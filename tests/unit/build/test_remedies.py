"""What a failed RUN is told to do."""

import pytest

from imgbuild.build.remedies import remedy


@pytest.mark.parametrize(
    ("status", "output", "single_id", "foreign", "words"),
    [
        (1, b"chown: changing ownership of 'f': Invalid argument\n", True, "", "/etc/subuid"),
        (100, b"E: setgroups 65534 failed (1: Operation not permitted)", True, "", "/etc/subuid"),
        (1, b"chown: changing ownership of 'f': Invalid argument\n", False, "", None),
        (3, b"2 tests failed\n", True, "", None),
        (126, b'exec: "/bin/sh": exec format error', False, "linux/arm64", "for linux/arm64"),
        (126, b'exec: "/etc": permission denied', False, "", None),
        (1, b"", False, "linux/arm64", None),
        (137, b"", False, "", "out of memory"),
        (137, b"", True, "", "out of memory"),
        (3, b"", False, "", None),
    ],
)
def test_the_remedy(
    status: int, output: bytes, single_id: bool, foreign: str, words: str | None
) -> None:
    found = remedy(status, output, single_id=single_id, foreign=foreign)
    assert (found is None) == (words is None)
    assert (words or "") in (found or "")
