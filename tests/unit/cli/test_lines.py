"""Output of commands as lines."""

from imgbuild.cli.lines import LineSplitter


def test_lines_end_where_they_end() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == ["one"]
    assert splitter.feed(b"o\r\nthree\rfour") == ["two", "three"]
    assert splitter.feed(b"", final=True) == ["four"]


def test_a_line_without_an_end_is_not_kept() -> None:
    splitter = LineSplitter()
    given = 0
    for _ in range(100):
        given += sum(map(len, splitter.feed(b"x" * 65536)))
    given += sum(map(len, splitter.feed(b"", final=True)))
    assert given == 100 * 65536
    assert len(splitter.feed(b"y" * 70000)[0]) == 70000
