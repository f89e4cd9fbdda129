import pytest

from imgbuild.errors import ImageError
from imgbuild.layer.whiteouts import Marker, is_reserved, read_marker, whiteout_name


@pytest.mark.parametrize(
    ("path", "marker"),
    [
        (b".wh.a", Marker("whiteout", b"a")),
        (b"d/.wh.a", Marker("whiteout", b"d/a")),
        (b"d/.wh..a", Marker("whiteout", b"d/.a")),
        (b"d/.wh....", Marker("whiteout", b"d/...")),
        (b".wh..wh..opq", Marker("opaque", b"")),
        (b"d/e/.wh..wh..opq", Marker("opaque", b"d/e")),
        (b".wh..wh.plnk", Marker("skip", b".wh..wh.plnk")),
        (b".wh..wh.plnk/1.2", Marker("skip", b".wh..wh.plnk/1.2")),
        (b"a/.wh..wh.aufs", Marker("skip", b"a/.wh..wh.aufs")),
        (b"a.wh.b", None),
        (b"wh.b", None),
        (b"", None),
    ],
)
def test_markers(path: bytes, marker: Marker | None) -> None:
    assert read_marker(path) == marker


@pytest.mark.parametrize(
    "path",
    [b".wh.", b".wh..", b".wh...", b"a/.wh.", b".wh.a/b", b".wh.a/.wh..wh..opq", b".wh..wh..opq/a"],
)
def test_illegal_markers(path: bytes) -> None:
    with pytest.raises(ImageError, match="illegal whiteout"):
        read_marker(path)


@pytest.mark.parametrize("path", [b"a", b"d/a", b"d/.a", b"\xff"])
def test_a_name_is_read_as_it_was_written(path: bytes) -> None:
    assert read_marker(whiteout_name(path)) == Marker("whiteout", path)


def test_reserved_names() -> None:
    assert is_reserved(b".wh.x")
    assert is_reserved(b"a/.wh.x/b")
    assert not is_reserved(b"a/x.wh.")
