"""A set of inode numbers."""

import random

from imgbuild.layer.inodes import InodeSet


def test_it_holds_what_was_added_and_nothing_else() -> None:
    chance = random.Random(1)
    numbers = {chance.randrange(1 << 64) for _ in range(500)} | set(range(4090, 4100)) | {0, 1}
    found = InodeSet()
    for number in numbers:
        found.add(number)
    assert all(number in found for number in numbers)
    near = {number + step for number in numbers for step in (-1, 1, 8, 4096)} - numbers
    assert not any(number in found for number in near if number >= 0)
