"""Archives that replace what they made before: right, and not slow when someone means it."""

from collections.abc import Iterable

import pytest

from imgbuild.build import unpackrules
from imgbuild.build.copyrules import Source, Target
from imgbuild.build.listing import Item
from imgbuild.build.unpackrules import place_unpacked
from imgbuild.errors import ContextError
from tests.unit.build.trees import shown, view


def unpacked(members: Iterable[Item], image: dict[str, object], dest: bytes = b"/x/") -> list[str]:
    source = Source(b"a.tar", b"a.tar", Item(b"", "file"), tuple(members), 0, unpacked="any")
    return shown([p.entry for p in place_unpacked(view(image), [source], Target(dest))])


def file(rel: bytes) -> Item:
    return Item(rel, "file", size=1)


def test_a_file_takes_the_place_of_a_directory_and_of_all_below_it() -> None:
    members = [Item(b"d", "dir", 0o755), file(b"d/e/f"), file(b"d/g"), file(b"d")]
    assert unpacked(members, {}) == ["x/ 0755", "x/d 0644"]


def test_what_comes_after_that_is_kept() -> None:
    members = [file(b"d/e/f"), file(b"d"), Item(b"d", "dir", 0o700), file(b"d/e/new")]
    assert unpacked(members, {}) == ["x/ 0755", "x/d/ 0700", "x/d/e/ 0755", "x/d/e/new 0644"]


def test_a_replaced_directory_of_the_image_shows_nothing() -> None:
    image = {"x": {"dir": 1}, "x/d": {"dir": 1}, "x/d/l": {"link": "/elsewhere"}}
    members = [file(b"d"), Item(b"d", "dir", 0o755), file(b"d/l/f")]
    assert unpacked(members, image) == ["x/ 0755", "x/d/ 0755", "x/d/l/ 0755", "x/d/l/f 0644"]


def test_replacing_does_not_look_at_everything_else() -> None:
    looked = 0

    class Counting(dict[bytes, object]):
        def __iter__(self) -> object:  # type: ignore[override]
            nonlocal looked
            looked += 1
            return super().__iter__()

    from imgbuild.build.unpackrules import _Unpacking

    unpacking = _Unpacking(view({}), Target(b"/"))
    unpacking._new = Counting()  # type: ignore[assignment]
    members: list[Item] = []
    for n in range(500):
        members += [file(b"%d/x" % n), file(b"%d" % n)]
    source = Source(b"a", b"a", Item(b"", "file"), tuple(members), 0, unpacked="any")
    unpacking.unpack(0, source)
    assert looked == 0
    assert len(list(unpacking.finish())) == 500


def test_links_through_links_over_and_over_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpackrules, "_MOST_LOOKED_UP", 100_000)
    deep = b"/".join([b"d"] * 500)
    members = [Item(deep, "dir", 0o755), Item(b"l0", "symlink", link=deep)]
    for n in range(1, 30):
        link = b"l%d/" % (n - 1) + b"../" * 500 + deep
        members.append(Item(b"l%d" % n, "symlink", link=link))
    assert len(unpacked(members, {})) > 500
    with pytest.raises(ContextError, match="links through links"):
        unpacked([*members, *(file(b"l29/f%d" % n) for n in range(100))], {})


def test_many_members_that_are_meant_well_are_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unpackrules, "_MOST_LOOKED_UP", 0)
    deep = b"/".join([b"d"] * 50)
    assert len(unpacked([file(deep + b"/%d" % n) for n in range(1000)], {})) == 1051
