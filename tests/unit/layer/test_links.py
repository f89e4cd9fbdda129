"""Links are followed inside the root, as the kernel would after chroot."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.layer.entry import Entry
from imgbuild.layer.links import TooManyLinksError, follow

LINKS = {
    b"abs": b"/d",
    b"d/up": b"../../..",
    b"d/self": b".",
    b"loop": b"loop",
    b"chain": b"abs/up/d/./self//f",
    b"gone": b"absent/x",
}


def lstat(path: bytes) -> Entry | None:
    if path in LINKS:
        return Entry(path, "symlink", linkname=LINKS[path])
    return Entry(path, "dir") if path in {b"", b"d"} else None


@pytest.mark.parametrize(
    ("path", "real"),
    [
        (b"", b""),
        (b"/", b""),
        (b"../..//d/../abs/f", b"d/f"),
        (b"chain", b"d/f"),
        (b"abs/up", b""),
        (b"abs/self/self/new/deep", b"d/new/deep"),
        (b"gone/y", b"absent/x/y"),
        (b"new/../d", b"d"),
    ],
)
def test_links_are_followed_inside_the_root(path: bytes, real: bytes) -> None:
    assert follow(path, lstat) == real


def test_the_last_link_may_be_meant_itself() -> None:
    assert follow(b"abs", lstat, follow_last=False) == b"abs"
    assert follow(b"abs/self", lstat, follow_last=False) == b"d/self"


def test_loops_end() -> None:
    with pytest.raises(TooManyLinksError, match="too many levels of symbolic links: /d/../loop"):
        follow(b"/d/../loop", lstat)


@given(
    st.lists(st.sampled_from(["abs", "d", "up", "self", "..", ".", "", "chain", "f"]), max_size=9)
)
def test_nothing_leads_out_of_the_root(parts: list[str]) -> None:
    real = follow(os.fsencode("/".join(parts)), lstat)
    assert b".." not in real.split(b"/")
    assert not Path(os.fsdecode(real)).is_absolute()
