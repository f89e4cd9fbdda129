import re

import pytest

from imgbuild.build.finish import fill_times, history_entry, timestamp


def times(*created: str | None) -> list[str | None]:
    return [e.created for e in fill_times([history_entry("X", c, empty=not c) for c in created])]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], []),
        ([None, None], [None, None]),
        (["b", None], ["b", "b"]),
        ([None, "l", None], ["l", "l", "l"]),
        (["b", None, "l1", None, "l2", None], ["b", "l1", "l1", "l1", "l2", "l2"]),
        (["b1", "b2", None], ["b1", "b2", "b2"]),
    ],
)
def test_entries_without_a_time_take_that_of_a_layer(
    given: list[str | None], wanted: list[str | None]
) -> None:
    assert times(*given) == wanted


def test_timestamps() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00Z"
    assert timestamp(1700000000) == "2023-11-14T22:13:20Z"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", timestamp(None))
